"""What an agent makes of the nodes and pods that Kubernetes tells of, beyond names.

Nodes are peers for a relay, each reached at its address and our port, as all agents have one
configuration. Our own node tells its labels, which go with every flow. Pods that are gone take
their series with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import trio

from api.hubble.node import LocalNode
from api.hubble.peers import Peer, Peers
from api.metrics.departed import DepartedPods
from bridge.addresses import split_address
from bridge.config import Config
from bridge.kubernetes.nodes import NodeFacts


class Neighbours:
    """A ``NamesListener``. ``move``: takes what is known of our node, as an identity file says
    it, and returns the node.
    """

    def __init__(
        self,
        config: Config,
        node: str,
        *,
        move: Callable[[Mapping[str, Any]], LocalNode],
        peers: Peers,
        departed: DepartedPods,
    ) -> None:
        self._config = config
        self._node = node
        self._move = move
        self._peers = peers
        self._departed = departed
        self._local: LocalNode | None = None
        self._others: dict[str, Peer] = {}

    def arrived(self, namespace: str, name: str) -> None:
        """See ``NamesListener``."""
        self._departed.arrive(namespace, name)

    def departed(self, namespace: str, name: str) -> None:
        """See ``NamesListener``."""
        self._departed.depart(namespace, name, trio.current_time())

    def nodes(self, changed: Mapping[str, NodeFacts | None]) -> None:
        """See ``NamesListener``."""
        if self._local is None or self._node in changed:
            self._local = self._move(_as_told(changed.get(self._node)))
        for name, facts in changed.items():
            if facts is None:
                self._others.pop(name, None)
            elif name != self._node:
                self._others[name] = self._peer(facts, self._local.cluster)
        others = (peer for peer in self._others.values() if peer.address)
        self._peers.replace([Peer.of(self._local), *others])

    def _peer(self, facts: NodeFacts, cluster: str) -> Peer:
        name = "/".join(filter(None, (cluster, facts.name)))
        address, tls = self._address(facts), self._config.hubble.has_tls
        return Peer.of(LocalNode(name=name, address=address, tls=tls))

    def _address(self, facts: NodeFacts) -> str:
        """Where a relay reaches another node: ``ip:port``, "" for nowhere."""
        listen = self._config.hubble.listen
        if listen is None or not facts.addresses:
            return ""
        address, (_, port) = facts.addresses[0], split_address(listen)
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _as_told(facts: NodeFacts | None) -> Mapping[str, Any]:
    if facts is None:
        return {}
    families = {"ipv6" if ":" in text else "ipv4": text for text in reversed(facts.addresses)}
    return {"name": facts.name, "labels": list(facts.labels), **families}
