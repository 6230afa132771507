"""Names from Kubernetes' and Cilium's objects: the sink that fills a ``Directory``.

Of each object the facts that count are kept (``pods.PodFacts``), and what follows from several
objects together is worked out anew when one of them changes: a pod's identity follows from
its labels and its namespace's, or from what Cilium says. What changes for many pods at once
(labels of a namespace, Cilium's arrival) waits in a queue, of which ``step`` does a piece.

Where Cilium's objects are, identities and endpoint ids are Cilium's; elsewhere ours
(``numbers``, ``local``). Addresses outside of the cluster are the reserved identity world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol

from bridge.kubernetes.claims import BY_POD, BY_SLICE, AddressClaims, Claimant, Rank
from bridge.kubernetes.endpoints import (
    EndpointFacts,
    backends_of,
    endpoint_facts,
    slice_facts,
)
from bridge.kubernetes.frontends import SERVICE_NAME, ServiceFrontends
from bridge.kubernetes.label_filter import LabelFilter
from bridge.kubernetes.local import LocalEndpoints, NodePorts, Ports
from bridge.kubernetes.nodes import NodeFacts, NodeNames
from bridge.kubernetes.numbers import SecurityNumbers
from bridge.kubernetes.objects import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    CiliumNode,
    EndpointSlice,
    Key,
    Namespace,
    Node,
    Object,
    Pod,
    Service,
)
from bridge.kubernetes.pods import PodFacts, Shared, facts_of
from bridge.kubernetes.surroundings import Surroundings
from parsers.directory import (
    NOT_IN_SCOPE,
    UNKNOWN_ADDRESS,
    AddressRecord,
    Directory,
    LocalEndpoint,
    Owner,
)
from parsers.reserved import UNMANAGED, WORLD

_WHAT_WE_MAY, _EVERYTHING = 1, 2
_PIECE = 50  # entries worked out by one step: about 1 ms
_RECLAIMED = 1 << 12  # owners gone; freeing them takes some 2 ms
_NEARLY = 10**9  # ns by which a time of the server's clock can be told wrong by ours
_API_SERVER: Key = ("default", "kubernetes")


class NamesListener(Protocol):
    """Is told what is of interest beyond names of addresses."""

    def arrived(self, namespace: str, name: str) -> None:
        """A pod is there."""

    def departed(self, namespace: str, name: str) -> None:
        """A pod is gone."""

    def nodes(self, changed: Mapping[str, NodeFacts | None]) -> None:
        """Nodes that are new, different, or no more, by name."""


@dataclass(slots=True, eq=False)
class PodEntry(Claimant):
    """A pod, whichever objects told of it."""

    key: Key = ("", "")
    facts: PodFacts | None = None
    endpoint: EndpointFacts | None = None  # of its CiliumEndpoint
    core: EndpointFacts | None = None  # of its place in a CiliumEndpointSlice
    in_slices: dict[Key, tuple[bytes, ...]] = field(default_factory=dict)  # addresses, by slice
    own_identity: int = 0
    host_ports: Ports = ()


class Names:
    """A ``Sink``. ``node`` and ``cluster``: where we are. ``everywhere``: all pods are watched."""

    def __init__(
        self,
        directory: Directory,
        *,
        node: str,
        cluster: str = "default",
        labels: LabelFilter | None = None,
        everywhere: bool = True,
        listener: NamesListener | None = None,
    ) -> None:
        self._directory = directory
        self._node = node
        self._filter = labels or LabelFilter()
        self._everywhere = everywhere
        self._listener = listener
        self._claims = AddressClaims(directory)
        self._frontends = ServiceFrontends(directory)
        self._numbers = SecurityNumbers(directory, self._filter, cluster)
        self._endpoints = LocalEndpoints(directory)
        self._shared = Shared()
        self._surroundings = Surroundings(directory)
        self._nodes = NodeNames(
            directory, self._claims, here=node, everywhere=everywhere, moved=self._frontends.node
        )
        self._ports = NodePorts(directory, self._nodes.identity_of)
        self._pods: dict[Key, PodEntry] = {}
        self._by_namespace: dict[str, dict[PodEntry, None]] = {}
        self._members: dict[Key, dict[Key, EndpointFacts]] = {}  # by Cilium's slice
        self._in_slices: dict[Key, tuple[Key, ...]] = {}  # pods by endpoint slice
        self._cilium = False
        self._synced = self._told = 0  # what was listed: ours, and as the directory was told
        self._ahead = 0  # our clock before that of the objects' times (ns)
        self._kept = 0  # owners and frontends after the last reclaim
        self._waiting: dict[PodEntry, int] = {}
        self._apply: dict[type[Object], Callable[[Any, int], None]] = {
            Pod: self._pod, Namespace: self._namespace, Node: self._of_node,
            Service: self._frontends.service, EndpointSlice: self._slice,
            CiliumIdentity: self._identity, CiliumEndpoint: self._cilium_endpoint,
            CiliumEndpointSlice: self._cilium_slice, CiliumNode: self._cilium_node,
        }  # fmt: skip
        self._remove: dict[type[Object], Callable[[Key, int], None]] = {
            Pod: self._pod_gone, Namespace: self._namespace_gone, Node: self._nodes.node_gone,
            Service: self._frontends.service_gone, EndpointSlice: self._slice_gone,
            CiliumIdentity: self._identity_gone, CiliumEndpoint: self._cilium_endpoint_gone,
            CiliumEndpointSlice: self._cilium_slice_gone, CiliumNode: self._nodes.cilium_node_gone,
        }  # fmt: skip

    def __len__(self) -> int:
        """Pods known."""
        return len(self._pods)

    def apply(
        self, kind: type[Object], changed: Sequence[Object], removed: Sequence[Key], at: int
    ) -> None:
        """See ``Sink``."""
        for key in removed:
            self._remove[kind](key, at)
        for each in changed:
            self._apply[kind](each, at)
        self._work()

    def synced(self, *, everything: bool) -> None:
        """See ``Sink``; the directory is told when nothing waits any more."""
        self._synced = _EVERYTHING if everything else _WHAT_WE_MAY
        self._work()

    def cilium_is_gone(self, at: int) -> None:
        """See ``Sink``: pods have numbers of ours from now on."""
        self._cilium = False
        self._waiting.update(dict.fromkeys(self._pods.values(), at))
        self._work()

    def clock_is_ahead(self, by: int) -> None:
        """See ``Sink``; for what is heard from now on."""
        self._ahead = by
        self._frontends.believes_times = not by

    def _begin_of(self, facts: PodFacts) -> int:
        """When a pod began by our clock, 0 if unknown: nearly is not good enough, as another pod
        may have had the address until a second before.
        """
        return facts.began if not self._ahead else 0

    def _end_of(self, facts: PodFacts) -> int:
        """When it has to be gone by our clock, rather late than early; 0 while it may stay."""
        return facts.ends + self._ahead + _NEARLY * bool(self._ahead) if facts.ends else 0

    def step(self) -> bool:
        """Work out a piece of what waits; whether there is more."""
        changed = self._nodes.take_changed()
        if changed and self._listener is not None:
            self._listener.nodes(changed)
        return self._work() or bool(changed)

    def _work(self) -> bool:
        for entry in list(islice(self._waiting, _PIECE)):
            self._publish(entry, self._waiting.pop(entry))
        self._claims.flush()
        self._frontends.flush()
        if not self._synced:
            return bool(self._waiting)
        more = self._surroundings.tell() or bool(self._waiting)
        if not more and self._told != self._synced:
            self._told = self._synced
            others = AddressRecord(0, unknown=UNKNOWN_ADDRESS)
            if self._synced == _EVERYTHING:
                others = AddressRecord(WORLD)
            for prefix in ("0.0.0.0/0", "::/0"):
                self._directory.set_address(prefix, others)
            self._directory.synced = True
        return more

    def reclaim(self, remembered: int) -> None:
        """Free what the directory keeps of those that are gone, when that has become much.

        ``remembered``: since when (ns) it is still asked who was who.
        """
        directory = self._directory
        if len(directory.owners) + len(directory.frontends) > self._kept + _RECLAIMED:
            directory.reclaim(self._claims.contested(), remembered)
            self._kept = len(directory.owners) + len(directory.frontends)

    # Pods and what Cilium says of them

    def _entry(self, key: Key) -> PodEntry:
        entry = self._pods.get(key)
        if entry is None:
            entry = self._pods[key] = PodEntry(key=key)
            self._by_namespace.setdefault(key[0], {})[entry] = None
        return entry

    def _pod(self, pod: Pod, at: int) -> None:
        entry = self._entry(pod.key)
        facts = facts_of(pod, self._filter)
        if entry.facts == facts:
            return
        if entry.facts is None and self._listener is not None:
            self._listener.arrived(*pod.key)
        entry.facts = self._shared.facts(facts)
        self._publish(entry, at)

    def _pod_gone(self, key: Key, at: int) -> None:
        entry = self._pods.get(key)
        if entry is None or entry.facts is None:
            return
        entry.facts = None
        if self._listener is not None:
            self._listener.departed(*key)
        self._publish(entry, at)

    def _cilium_endpoint(self, endpoint: CiliumEndpoint, at: int) -> None:
        self._cilium_is_there()
        facts = endpoint_facts(endpoint)
        entry = self._entry(endpoint.key)
        if entry.endpoint != facts:
            entry.endpoint = facts
            self._publish(entry, at)

    def _cilium_endpoint_gone(self, key: Key, at: int) -> None:
        if (entry := self._pods.get(key)) is not None:
            entry.endpoint = None
            self._publish(entry, at)

    def _cilium_slice(self, each: CiliumEndpointSlice, at: int) -> None:
        self._cilium_is_there()
        self._set_members(each.key, slice_facts(each), at)

    def _cilium_slice_gone(self, key: Key, at: int) -> None:
        self._set_members(key, {}, at)

    def _set_members(self, key: Key, members: dict[Key, EndpointFacts], at: int) -> None:
        """What a slice says of pods is ``members``; what another one said meanwhile stays."""
        before = self._members.pop(key, {})
        if members:
            self._members[key] = members
        for pod, facts in before.items():
            entry = self._pods.get(pod)
            if entry is not None and pod not in members and entry.core is facts:
                entry.core = None
                self._publish(entry, at)
        for pod, facts in members.items():
            entry = self._entry(pod)
            if entry.core != facts:
                entry.core = facts
                self._publish(entry, at)
            entry.core = facts

    def _identity(self, identity: CiliumIdentity, at: int) -> None:
        del at  # the labels of a number never change
        self._cilium_is_there()
        self._numbers.identity(identity)

    def _identity_gone(self, key: Key, at: int) -> None:
        del at
        self._numbers.identity_gone(key)

    def _cilium_is_there(self) -> None:
        if not self._cilium:
            self._cilium = True
            self._surroundings.take_back(self._nodes.prefixes())
            self._waiting.update(dict.fromkeys(self._pods.values(), 0))

    def _publish(self, entry: PodEntry, at: int) -> None:
        """Work out who a pod is, and where."""
        self._waiting.pop(entry, None)
        facts, told = entry.facts, entry.endpoint or entry.core
        if facts is None and told is None and not entry.in_slices:
            self._forget(entry, at)
            return
        if facts is not None:
            addresses = facts.addresses
            if not addresses and facts.alive and told is not None:
                addresses = told.addresses  # Cilium knows them a moment earlier
            rank = Rank(BY_POD, self._end_of(facts), self._begin_of(facts))
        else:
            addresses = told.addresses if told is not None else ()
            addresses = addresses or tuple(sorted({*chain.from_iterable(entry.in_slices.values())}))
            rank = Rank(BY_SLICE)
        owner, before = self._owner_of(entry, facts, told), entry.owner
        self._claims.publish(entry, owner, addresses, rank, at)
        self._endpoints.set(before, owner, at)
        if not self._cilium:
            here = self._everywhere or facts is not None
            self._surroundings.note(addresses, UNKNOWN_ADDRESS if here else NOT_IN_SCOPE)
        self._publish_ports(entry, facts, at)

    def _owner_of(
        self, entry: PodEntry, facts: PodFacts | None, told: EndpointFacts | None
    ) -> Owner:
        namespace, name = entry.key
        number = self._number_of(entry, facts, told)
        workloads = facts.workloads if facts is not None else ()
        if not self._is_here(facts, told):
            return AddressRecord(number, namespace, name, workloads)
        labels = told.labels if told is not None and told.labels else ()
        labels = labels or self._numbers.labels_of(number)
        endpoint_id = entry.endpoint.id if entry.endpoint is not None else 0
        endpoint_id = endpoint_id or self._endpoints.id_of(entry.key, entry.owner)
        return LocalEndpoint(endpoint_id, number, namespace, name, labels, workloads)

    def _number_of(
        self, entry: PodEntry, facts: PodFacts | None, told: EndpointFacts | None
    ) -> int:
        if told is not None and told.identity:
            return self._numbers.told(told)
        if facts is None:
            return 0
        if self._cilium:
            return UNMANAGED
        entry.own_identity = self._numbers.own(entry.key[0], facts, entry.own_identity)
        return entry.own_identity

    def _is_here(self, facts: PodFacts | None, told: EndpointFacts | None) -> bool:
        if facts is not None:
            return facts.node == self._node
        return told is not None and not self._nodes.addresses.isdisjoint(told.node)

    def _forget(self, entry: PodEntry, at: int) -> None:
        self._claims.publish(entry, entry.owner, (), entry.rank, at)
        self._publish_ports(entry, None, at)
        self._numbers.give_back(entry.own_identity)
        self._endpoints.set(entry.owner, None, at)
        del self._pods[entry.key]
        siblings = self._by_namespace[entry.key[0]]
        del siblings[entry]
        if not siblings:
            del self._by_namespace[entry.key[0]]

    def _publish_ports(self, entry: PodEntry, facts: PodFacts | None, at: int) -> None:
        since = (min(self._begin_of(facts), at) or at) if facts is not None else at
        entry.host_ports = self._ports.publish(entry.key, entry.host_ports, facts, since, at)

    # Namespaces

    def _namespace(self, namespace: Namespace, at: int) -> None:
        if self._numbers.namespace(namespace) and not self._cilium:
            pods = self._by_namespace.get(namespace.metadata.name, ())
            self._waiting.update(dict.fromkeys(pods, at))

    def _namespace_gone(self, key: Key, at: int) -> None:
        del at
        self._numbers.namespace_gone(key)

    # Nodes

    def _of_node(self, node: Node, at: int) -> None:
        before = self._nodes.addresses
        self._nodes.node(node, at)
        if before != self._nodes.addresses:
            # Pods that only Cilium has told of may turn out to be of this node.
            others = (entry for entry in self._pods.values() if entry.facts is None)
            self._waiting.update(dict.fromkeys(others, at))

    def _cilium_node(self, node: CiliumNode, at: int) -> None:
        self._cilium_is_there()
        self._nodes.cilium_node(node, at)

    # Endpoint slices

    def _slice(self, each: EndpointSlice, at: int) -> None:
        self._frontends.slice(each, at)
        if (each.metadata.namespace, _service_of(each)) == _API_SERVER:
            self._nodes.api_server(each, at)
        if not self._everywhere:
            self._set_slice(each.key, backends_of(each), at)

    def _set_slice(self, key: Key, pods: dict[Key, tuple[bytes, ...]], at: int) -> None:
        """Pods and their addresses are in an endpoint slice: all that is known of some."""
        before = self._in_slices.pop(key, ())
        if pods:
            self._in_slices[key] = tuple(pods)
        for pod in {*before, *pods}:
            entry, addresses = self._entry(pod), pods.get(pod, ())
            if entry.in_slices.get(key, ()) != addresses:
                entry.in_slices.pop(key, None)
                if addresses:
                    entry.in_slices[key] = addresses
                self._publish(entry, at)

    def _slice_gone(self, key: Key, at: int) -> None:
        self._frontends.slice_gone(key, at)
        self._set_slice(key, {}, at)
        self._nodes.slice_gone(key, at)


def _service_of(each: EndpointSlice) -> str:
    return (each.metadata.labels or {}).get(SERVICE_NAME, "")
