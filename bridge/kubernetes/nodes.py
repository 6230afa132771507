"""Names of addresses that are no pod's: of nodes, of Cilium on them, of the API server.

They are reserved identities. Addresses that a node has for its pods are known one by one, or
not at all: they are not the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from bridge.kubernetes.claims import (
    BY_API_SERVER,
    BY_CILIUM_NODE,
    BY_NODE,
    AddressClaims,
    Claimant,
    Rank,
)
from bridge.kubernetes.objects import CiliumNode, EndpointSlice, Key, Node
from bridge.kubernetes.pods import addresses_of
from parsers.addresses import is_prefix
from parsers.directory import NOT_IN_SCOPE, UNKNOWN_ADDRESS, AddressRecord, Directory
from parsers.reserved import HEALTH, HOST, INGRESS, KUBE_APISERVER, REMOTE_NODE

_PIECE = 500  # nodes told of at once: about 2 ms

Moved = Callable[[Iterable[bytes], Iterable[bytes], int], None]
"""Told of the addresses that a node had before, and has since a time (ns)."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node: its addresses as texts, those of the inside first; labels ``key=value``."""

    name: str
    addresses: tuple[str, ...]
    labels: tuple[str, ...]
    prefixes: tuple[str, ...] = ()  # of its pods


class NodeNames:
    """``here``: our node's name. ``everywhere``: pods of all nodes are watched. Times are ns."""

    def __init__(
        self,
        directory: Directory,
        claims: AddressClaims,
        *,
        here: str,
        everywhere: bool,
        moved: Moved,
    ) -> None:
        self._directory = directory
        self._claims = claims
        self._here = here
        self._everywhere = everywhere
        self._moved = moved
        self._nodes: dict[str, NodeFacts] = {}
        self._claimants: dict[tuple[int, Key], Claimant] = {}
        self._servers: dict[Key, tuple[bytes, ...]] = {}
        self.addresses: frozenset[bytes] = frozenset()
        """Of our node."""
        self._changed: dict[str, None] = {}

    def take_changed(self) -> dict[str, NodeFacts | None]:
        """A piece of the nodes that changed since they were asked for; None: it is no more."""
        piece = list(islice(self._changed, _PIECE))
        for name in piece:
            del self._changed[name]
        return {name: self._nodes.get(name) for name in piece}

    def prefixes(self) -> frozenset[str]:
        """Of all nodes' pods."""
        return frozenset(prefix for node in self._nodes.values() for prefix in node.prefixes)

    def identity_of(self, name: str) -> int:
        """Of a node: host for ours."""
        return HOST if name == self._here else REMOTE_NODE

    def node(self, node: Node, at: int) -> None:
        """A node is new or different."""
        facts = _facts_of(node)
        before = self._nodes.get(facts.name, NodeFacts(facts.name, (), ()))
        if facts == before:
            return
        self._nodes[facts.name] = facts
        self._change(node.key, before, facts, at)

    def node_gone(self, key: Key, at: int) -> None:
        """A node is no more."""
        before = self._nodes.pop(key[1], None)
        if before is not None:
            self._change(key, before, NodeFacts(key[1], (), ()), at)

    def cilium_node(self, node: CiliumNode, at: int) -> None:
        """What Cilium has on a node."""
        spec, key = node.spec, node.key
        host = addresses_of(*(address.ip for address in spec.addresses or ()))
        self._stand_for(BY_CILIUM_NODE, key, self.identity_of(key[1]), host, at)
        for name, pair, number in (
            ("health", spec.health, HEALTH),
            ("ingress", spec.ingress, INGRESS),
        ):
            addresses = addresses_of(pair.ipv4, pair.ipv6) if pair is not None else ()
            self._stand_for(BY_CILIUM_NODE, (name, key[1]), number, addresses, at)

    def cilium_node_gone(self, key: Key, at: int) -> None:
        """Cilium is no more on a node."""
        for name in (key[0], "health", "ingress"):
            self._stand_for(BY_CILIUM_NODE, (name, key[1]), 0, (), at)

    def api_server(self, each: EndpointSlice, at: int) -> None:
        """Addresses of the API server; those of our node stay the host."""
        texts = (text for point in each.endpoints or () for text in point.addresses or ())
        self._servers[each.key] = addresses_of(*texts)
        self._tell_server(each.key, at)

    def slice_gone(self, key: Key, at: int) -> None:
        """A slice of endpoints is no more, which may have been one of the API server."""
        if self._servers.pop(key, ()):
            self._stand_for(BY_API_SERVER, key, 0, (), at)

    def _tell_server(self, key: Key, at: int) -> None:
        others = tuple(a for a in self._servers[key] if a not in self.addresses)
        self._stand_for(BY_API_SERVER, key, KUBE_APISERVER, others, at)

    def _change(self, key: Key, before: NodeFacts, now: NodeFacts, at: int) -> None:
        addresses = addresses_of(*now.addresses)
        if now.name == self._here:
            self.addresses = frozenset(addresses)
            for server in self._servers:
                self._tell_server(server, at)
        here = self._everywhere or now.name == self._here
        unknown = AddressRecord(0, unknown=UNKNOWN_ADDRESS if here else NOT_IN_SCOPE)
        for prefix in set(before.prefixes) ^ set(now.prefixes):
            self._directory.set_address(prefix, unknown if prefix in now.prefixes else None)
        self._moved(addresses_of(*before.addresses), addresses, at)
        self._stand_for(BY_NODE, key, self.identity_of(now.name), addresses, at)
        self._changed[now.name] = None

    def _stand_for(
        self, kind: int, key: Key, identity: int, addresses: tuple[bytes, ...], at: int
    ) -> None:
        """``addresses`` are a reserved identity, as an object says."""
        claimant = self._claimants.get((kind, key))
        if claimant is None:
            if not addresses:
                return
            claimant = self._claimants[kind, key] = Claimant()
        owner = AddressRecord(identity) if addresses else claimant.owner
        self._claims.publish(claimant, owner, addresses, Rank(kind), at)
        if not addresses:
            del self._claimants[kind, key]


def _facts_of(node: Node) -> NodeFacts:
    inside, outside = (
        [a.address for a in node.status.addresses or () if a.type == kind]
        for kind in ("InternalIP", "ExternalIP")
    )
    labels = (f"{key}={value}" for key, value in (node.metadata.labels or {}).items())
    prefixes = tuple(filter(is_prefix, node.spec.pod_cidrs or ()))
    return NodeFacts(node.metadata.name, (*inside, *outside), tuple(sorted(labels)), prefixes)
