"""Names from Kubernetes' and Cilium's objects: the sink that fills a ``Directory``.

Of each object the facts that count are kept (``pods.PodFacts``), and what follows from several
objects together is worked out anew when one of them changes: a pod's identity follows from
its labels and its namespace's, or from what Cilium says. What changes for many pods at once
(labels of a namespace, Cilium's arrival) waits in a queue, of which ``step`` does a piece.

Where Cilium's objects are, identities and endpoint ids are Cilium's; elsewhere ours
(``identities``). Addresses outside of the cluster are the reserved identity world.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice, product
from typing import Any, Protocol

from bridge.kubernetes.claims import BY_POD, BY_SLICE, TOMBSTONE, AddressClaims, Claimant, Rank
from bridge.kubernetes.endpoints import (
    EndpointFacts,
    backends_of,
    endpoint_facts,
    identity_labels,
    number_of,
    slice_facts,
)
from bridge.kubernetes.frontends import SERVICE_NAME, ServiceFrontends
from bridge.kubernetes.identities import KEPT_UNUSED, RESERVED, UNMANAGED, WORLD, OwnIdentities
from bridge.kubernetes.label_filter import LabelFilter
from bridge.kubernetes.nodes import NodeFacts, NodeNames
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
from bridge.kubernetes.pods import PodFacts, Shared, facts_of, texts_of
from bridge.kubernetes.surroundings import Surroundings
from parsers.directory import (
    NOT_IN_SCOPE,
    UNKNOWN_ADDRESS,
    AddressRecord,
    Directory,
    LocalEndpoint,
    Owner,
)

_WHAT_WE_MAY, _EVERYTHING = 1, 2
_PIECE = 50  # entries worked out by one step: about 1 ms
_RECLAIMED = 1 << 12  # owners gone; freeing them takes some 2 ms
_NEARLY = 10**9  # ns by which a time of the server's clock can be told wrong by ours
_OF_NAMESPACE = "io.cilium.k8s.namespace.labels."
_API_SERVER: Key = ("default", "kubernetes")


class NamesListener(Protocol):
    """Is told what is of interest beyond names of addresses."""

    def arrived(self, namespace: str, name: str) -> None:
        """A pod is there."""

    def departed(self, namespace: str, name: str) -> None:
        """A pod is gone."""

    def nodes(self, nodes: Sequence[NodeFacts]) -> None:
        """All nodes there are now."""


@dataclass(slots=True, eq=False)
class PodEntry(Claimant):
    """A pod, whichever objects told of it."""

    key: Key = ("", "")
    facts: PodFacts | None = None
    endpoint: EndpointFacts | None = None  # of its CiliumEndpoint
    core: EndpointFacts | None = None  # of its place in a CiliumEndpointSlice
    in_slices: dict[Key, tuple[bytes, ...]] = field(default_factory=dict)  # addresses, by slice
    own_identity: int = 0
    host_ports: tuple[tuple[bytes, int], ...] = field(default=())


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
        self._cluster = cluster
        self._filter = labels or LabelFilter()
        self._everywhere = everywhere
        self._listener = listener
        self._claims = AddressClaims(directory)
        self._frontends = ServiceFrontends(directory)
        self._identities = OwnIdentities()
        self._shared = Shared()
        self._surroundings = Surroundings(directory)
        self._nodes = NodeNames(
            directory, self._claims, here=node, everywhere=everywhere, moved=self._frontends.node
        )
        self._identity_labels: dict[int, tuple[str, ...]] = {}
        self._deleted: OrderedDict[int, None] = OrderedDict()  # identities that keep their labels
        self._pods: dict[Key, PodEntry] = {}
        self._by_namespace: dict[str, dict[PodEntry, None]] = {}
        self._namespaces: dict[str, tuple[str, ...]] = {}
        self._members: dict[Key, dict[Key, EndpointFacts]] = {}  # by Cilium's slice
        self._in_slices: dict[Key, tuple[Key, ...]] = {}  # pods by endpoint slice
        self._local_ids: dict[int, Key] = {}
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
        directory.set_identities(RESERVED)

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
        if self._nodes.changed and self._listener is not None:
            self._listener.nodes(self._nodes.all())
        return self._work()

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
            for prefix in ("0.0.0.0/0", "::/0") if self._synced == _EVERYTHING else ():
                self._directory.set_address(prefix, AddressRecord(WORLD))
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
        number, labels = identity_labels(identity)
        if number:
            self._deleted.pop(number, None)
            self._label(number, labels)

    def _identity_gone(self, key: Key, at: int) -> None:
        """A number that is deleted keeps its labels for long: flows may still have it."""
        del at
        if (number := number_of(key[1])) in self._identity_labels:
            self._deleted[number] = None
            if len(self._deleted) > KEPT_UNUSED:
                self._unlabel(self._deleted.popitem(last=False)[0])

    def _unlabel(self, number: int) -> None:
        self._identity_labels.pop(number, None)
        self._directory.forget_identity(number)

    def _label(self, number: int, labels: tuple[str, ...]) -> None:
        self._identity_labels[number] = labels
        self._directory.set_identities({number: labels})

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
        self._set_endpoint(before, owner, at)
        if not self._cilium:
            here = self._everywhere or facts is not None
            self._surroundings.note(addresses, UNKNOWN_ADDRESS if here else NOT_IN_SCOPE)
        self._publish_host_ports(entry, facts, at)

    def _owner_of(
        self, entry: PodEntry, facts: PodFacts | None, told: EndpointFacts | None
    ) -> Owner:
        namespace, name = entry.key
        number = self._number_of(entry, facts, told)
        workloads = facts.workloads if facts is not None else ()
        if not self._is_here(facts, told):
            return AddressRecord(number, namespace, name, workloads)
        labels = told.labels if told is not None and told.labels else ()
        labels = labels or self._identity_labels.get(number) or RESERVED.get(number, ())
        endpoint_id = entry.endpoint.id if entry.endpoint is not None else 0
        return LocalEndpoint(
            endpoint_id or self._local_id(entry), number, namespace, name, labels, workloads
        )

    def _number_of(
        self, entry: PodEntry, facts: PodFacts | None, told: EndpointFacts | None
    ) -> int:
        if told is not None and told.identity:
            if told.labels and told.identity not in self._identity_labels:
                self._label(told.identity, told.labels)
            return told.identity
        if facts is None:
            return 0
        if self._cilium:
            return UNMANAGED
        before = entry.own_identity
        labels = self._security_labels(entry.key[0], facts)
        number = entry.own_identity = self._identities.take(labels)
        if before:
            self._give_back(before)
        if number not in self._identity_labels:
            self._label(number, labels)
        return number

    def _give_back(self, own_identity: int) -> None:
        if unused := self._identities.give_back(own_identity):
            self._unlabel(unused)

    def _security_labels(self, namespace: str, facts: PodFacts) -> tuple[str, ...]:
        of_namespace = self._namespaces.get(namespace)
        if of_namespace is None:  # every namespace has this label
            known = {"kubernetes.io/metadata.name": namespace}
            of_namespace = texts_of(known, self._filter, _OF_NAMESPACE)
        others = {
            "io.kubernetes.pod.namespace": namespace,
            "io.cilium.k8s.policy.cluster": self._cluster,
        }
        if facts.service_account:
            others["io.cilium.k8s.policy.serviceaccount"] = facts.service_account
        return tuple(sorted({*facts.labels, *of_namespace, *texts_of(others, self._filter)}))

    def _is_here(self, facts: PodFacts | None, told: EndpointFacts | None) -> bool:
        if facts is not None:
            return facts.node == self._node
        return told is not None and not self._nodes.addresses.isdisjoint(told.node)

    def _local_id(self, entry: PodEntry) -> int:
        """A number of 16 bits for a pod of this node, the same as long as it lives."""
        if (
            isinstance(entry.owner, LocalEndpoint)
            and self._local_ids.get(entry.owner.id) == entry.key
        ):
            return entry.owner.id
        digest = blake2b("/".join(entry.key).encode(), digest_size=4).digest()
        number = int.from_bytes(digest, "big") % 0xFFFF + 1
        while self._local_ids.setdefault(number, entry.key) != entry.key:
            number = number % 0xFFFF + 1
        return number

    def _set_endpoint(self, before: Owner | None, now: Owner | None, at: int) -> None:
        """Endpoints of this node are found by their ids as well."""
        if before == now:
            return
        if isinstance(before, LocalEndpoint):
            self._directory.set_endpoint(None, (), since=at, endpoint_id=before.id)
            if not isinstance(now, LocalEndpoint) or now.id != before.id:
                self._local_ids.pop(before.id, None)
        if isinstance(now, LocalEndpoint):
            self._directory.set_endpoint(now, (), since=at)

    def _forget(self, entry: PodEntry, at: int) -> None:
        self._claims.publish(entry, entry.owner, (), entry.rank, at)
        self._publish_host_ports(entry, None, at)
        if entry.own_identity:
            self._give_back(entry.own_identity)
        self._set_endpoint(entry.owner, None, at)
        del self._pods[entry.key]
        siblings = self._by_namespace[entry.key[0]]
        del siblings[entry]
        if not siblings:
            del self._by_namespace[entry.key[0]]

    def _publish_host_ports(self, entry: PodEntry, facts: PodFacts | None, at: int) -> None:
        """Ports of nodes by which a pod is found."""
        before: tuple[tuple[bytes, int], ...] = entry.host_ports
        ports = tuple(product(facts.host_addresses, facts.host_ports)) if facts else ()
        if before == ports:
            return
        entry.host_ports = ports
        hosts, ended = self._directory.host_ports, at + TOMBSTONE
        for address, port in set(before) - set(ports):
            # After a relist the one that has it now was told of first.
            owner = self._directory.owners[hosts.at(address, port, ended)]
            if (owner.namespace, owner.pod_name) == entry.key:
                self._directory.set_host_port(0, address, port, ended)
        if facts is None or not ports:
            return
        record = AddressRecord(self._nodes.identity_of(facts.node), *entry.key, facts.workloads)
        number = self._directory.owners.add(record)
        since = min(self._begin_of(facts), at) or at
        for address, port in ports:
            self._directory.set_host_port(number, address, port, since)

    # Namespaces

    def _namespace(self, namespace: Namespace, at: int) -> None:
        name = namespace.metadata.name
        labels = texts_of(namespace.metadata.labels, self._filter, _OF_NAMESPACE)
        if self._namespaces.get(name) != labels:
            self._namespaces[name] = labels
            if not self._cilium:
                self._waiting.update(dict.fromkeys(self._by_namespace.get(name, ()), at))

    def _namespace_gone(self, key: Key, at: int) -> None:
        del at  # its pods are gone before it
        self._namespaces.pop(key[1], None)

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
