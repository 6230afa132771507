"""What an agent makes of the nodes and pods that Kubernetes tells of, beyond names.

Nodes are peers for a relay, each reached at its address and our port, as all agents have one
configuration. Our own node tells its labels, which go with every flow. Pods that are gone take
their series with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
        self._others: dict[str, tuple[NodeFacts, Peer]] = {}  # made once, as there may be thousands

    def arrived(self, namespace: str, name: str) -> None:
        """See ``NamesListener``."""
        self._departed.arrive(namespace, name)

    def departed(self, namespace: str, name: str) -> None:
        """See ``NamesListener``."""
        self._departed.depart(namespace, name, trio.current_time())

    def nodes(self, nodes: Sequence[NodeFacts]) -> None:
        """See ``NamesListener``."""
        own = next((facts for facts in nodes if facts.name == self._node), None)
        node = self._move(_as_told(own))
        before, self._others = self._others, {}
        for facts in nodes:
            if facts is not own:
                told = before.get(facts.name)
                if told is None or told[0] is not facts:
                    told = facts, self._peer(facts, node.cluster)
                self._others[facts.name] = told
        others = (peer for _, peer in self._others.values() if peer.address)
        self._peers.replace([Peer.of(node), *others])

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
