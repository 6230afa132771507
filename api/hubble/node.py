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
    """

    name: str
    labels: tuple[str, ...] = ()
    emitter_name: str = "ciliary"
    emitter_version: str = ""
    uuid_prefix: str = "00000000-0000-4000-8000-"
    ip_option_type: int = 0
    interface_name: Callable[[int], str] = _unnamed

    def uuid(self, sequence: int) -> str:
        """The uuid of the flow with that sequence number."""
        return f"{self.uuid_prefix}{sequence:012x}"
