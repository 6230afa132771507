"""Who is speaking: what every flow of this agent carries besides its own facts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _unnamed(_index: int) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """The node and the agent as the Flow API names them.

    ``name`` is absolute: ``cluster/node``, or ``node`` in a cluster called ``default``.
    ``labels`` are sorted ``key=value``. A flow's uuid is ``uuid_prefix`` and its sequence
    number in 12 hex digits. ``interface_name`` tells the name of an ifindex, "" when unknown.
    ``address`` is where a relay reaches it: ``ip:port`` or ``unix:///PATH``, "" for nowhere;
    ``tls`` says whether it has to speak TLS there.
    """

    name: str
    labels: tuple[str, ...] = ()
    emitter_name: str = "ciliary"
    emitter_version: str = ""
    uuid_prefix: str = "00000000-0000-4000-8000-"
    ip_option_type: int = 0
    interface_name: Callable[[int], str] = _unnamed
    address: str = ""
    tls: bool = False

    @property
    def cluster(self) -> str:
        """The name of the cluster; "" for the one called ``default``."""
        return self.name.rpartition("/")[0]

    @property
    def server_name(self) -> str:
        """The name that the certificate of this node has to be good for; "" without TLS.

        A wildcard stands for one label, hence dashes for the dots of the names.
        """
        if not self.tls:
            return ""
        cluster, _, node = (self.name if "/" in self.name else f"default/{self.name}").partition(
            "/"
        )
        labels = (node.replace(".", "-"), cluster.replace(".", "-"))
        return ".".join((*labels, "hubble-grpc.cilium.io"))

    def uuid(self, sequence: int) -> str:
        """The uuid of the flow with that sequence number."""
        return f"{self.uuid_prefix}{sequence:012x}"
