"""Names from Kubernetes' and Cilium's objects: the sink that fills a ``Directory``.

Of each object the facts that count are kept (``pods.PodFacts``), and what follows from several
objects together is worked out anew when one of them changes: a pod's identity follows from
its labels and its namespace's, or from what Cilium says. What changes for many pods at once
(labels of a namespace, Cilium's arrival) waits in a queue, of which ``step`` does a piece.

Where Cilium's objects are, identities and endpoint ids are Cilium's; elsewhere ours
(``identities``). Addresses outside of the cluster are the reserved identity world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import ip_network
from itertools import chain, islice, product
from typing import Any, NamedTuple, Protocol, TypeVar

from bridge.kubernetes.claims import TOMBSTONE, AddressClaims, Claimant, Rank
from bridge.kubernetes.frontends import SERVICE_NAME, ServiceFrontends
from bridge.kubernetes.identities import (
    HEALTH,
    HOST,
    INGRESS,
    KUBE_APISERVER,
    REMOTE_NODE,
    RESERVED,
    UNMANAGED,
    WORLD,
    OwnIdentities,
)
from bridge.kubernetes.label_filter import LabelFilter
from bridge.kubernetes.objects import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    CiliumNode,
    CoreCiliumEndpoint,
    EndpointNetworking,
    EndpointSlice,
    Key,
    Namespace,
    Node,
    Object,
    Pod,
    Service,
)
from bridge.kubernetes.pods import PodFacts, addresses_of, facts_of, label_text, texts_of
from parsers.addresses import MAPPED, address_text
from parsers.directory import (
    NOT_IN_SCOPE,
    UNKNOWN_ADDRESS,
    AddressRecord,
    Directory,
    LocalEndpoint,
    Owner,
)

T = TypeVar("T")

_PIECE = 50  # entries worked out by one step: about 1 ms
_SHARED = 1 << 14  # objects that equal ones are replaced by
_RECLAIMED = 1 << 12  # owners gone; freeing them takes some 2 ms
_NEARLY = 10**9  # ns by which a time of the server's clock can be told wrong by ours
_OF_NAMESPACE = "io.cilium.k8s.namespace.labels."
_API_SERVER: Key = ("default", "kubernetes")

# Kinds of claims, the strongest last.
_BY_SLICE, _BY_POD, _BY_CILIUM_NODE, _BY_NODE, _BY_API_SERVER = range(5)


class NamesListener(Protocol):
    """Is told what is of interest beyond names of addresses."""

    def arrived(self, namespace: str, name: str) -> None:
        """A pod is there."""

    def departed(self, namespace: str, name: str) -> None:
        """A pod is gone."""

    def nodes(self, nodes: Sequence[NodeFacts]) -> None:
        """All nodes there are now."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node: its addresses as texts, those of the inside first; labels ``key=value``."""

    name: str
    addresses: tuple[str, ...]
    labels: tuple[str, ...]


class EndpointFacts(NamedTuple):
    """What Cilium says of a pod; 0 and empty for what it does not."""

    id: int
    identity: int
    labels: tuple[str, ...]
    addresses: tuple[bytes, ...]
    node: tuple[bytes, ...]


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
        self._surroundings: dict[bytes, str] = {}  # prefixes that some pod is or was in
        self._noted: dict[str, int] = {}  # those that the directory is not told of yet, and why
        self._identity_labels: dict[int, tuple[str, ...]] = {}
        self._pods: dict[Key, PodEntry] = {}
        self._by_namespace: dict[str, dict[PodEntry, None]] = {}
        self._namespaces: dict[str, tuple[str, ...]] = {}
        self._nodes: dict[str, tuple[NodeFacts, tuple[str, ...]]] = {}
        self._claimants: dict[tuple[int, Key], Claimant] = {}
        self._members: dict[tuple[type[Object], Key], dict[Key, EndpointFacts]] = {}
        self._in_slices: dict[Key, tuple[Key, ...]] = {}  # pods by endpoint slice
        self._node_addresses: frozenset[bytes] = frozenset()
        self._local_ids: dict[int, Key] = {}
        self._cilium = False
        self._synced = False
        self._ahead = 0  # our clock before that of the objects' times (ns)
        self._nodes_changed = False
        self._owners = 0  # in the directory after the last reclaim
        self._waiting: dict[PodEntry, int] = {}
        self._apply: dict[type[Object], Callable[[Any, int], None]] = {
            Pod: self._pod, Namespace: self._namespace, Node: self._a_node,
            Service: self._frontends.service, EndpointSlice: self._slice,
            CiliumIdentity: self._identity, CiliumEndpoint: self._cilium_endpoint,
            CiliumEndpointSlice: self._cilium_slice, CiliumNode: self._cilium_node,
        }  # fmt: skip
        self._remove: dict[type[Object], Callable[[Key, int], None]] = {
            Pod: self._pod_gone, Namespace: self._namespace_gone, Node: self._node_gone,
            Service: self._frontends.service_gone, EndpointSlice: self._slice_gone,
            CiliumIdentity: _kept, CiliumEndpoint: self._cilium_endpoint_gone,
            CiliumEndpointSlice: self._cilium_slice_gone, CiliumNode: self._cilium_node_gone,
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
        self.step()

    def synced(self) -> None:
        """See ``Sink``; the directory is told when nothing waits any more."""
        self._synced = True
        self.step()

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
        for entry in list(islice(self._waiting, _PIECE)):
            self._publish(entry, self._waiting.pop(entry))
        self._claims.flush()
        for prefix in list(islice(self._noted, _PIECE)) if self._synced else ():
            self._directory.set_address(prefix, AddressRecord(0, unknown=self._noted.pop(prefix)))
        if self._nodes_changed and self._listener is not None:
            self._listener.nodes([facts for facts, _ in self._nodes.values()])
        self._nodes_changed = False
        more = bool(self._waiting or (self._noted and self._synced))
        if self._synced and not more and not self._directory.synced:
            for prefix in ("0.0.0.0/0", "::/0"):
                self._directory.set_address(prefix, AddressRecord(WORLD))
            self._directory.synced = True
        return more

    def reclaim(self, remembered: int) -> None:
        """Free what the directory keeps of those that are gone, when that has become much.

        ``remembered``: since when (ns) it is still asked who was who.
        """
        if len(self._directory.owners) > self._owners + _RECLAIMED:
            self._directory.reclaim(self._claims.contested(), remembered)
            self._owners = len(self._directory.owners)

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
        # Pods of one workload have nearly all of it in common.
        share = self._shared.of
        facts = facts._replace(
            labels=share(facts.labels),
            service_account=share(facts.service_account),
            workloads=share(facts.workloads),
            node=share(facts.node),
        )
        if entry.facts is None and self._listener is not None:
            self._listener.arrived(*pod.key)
        entry.facts = facts
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
        facts, status = None, endpoint.status
        if status is not None:
            identity = status.identity
            networking = status.networking
            facts = EndpointFacts(
                status.id,
                identity.id if identity is not None else 0,
                tuple(sorted(identity.labels or ())) if identity is not None else (),
                *_networking(networking),
            )
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
        members = {
            (each.namespace, member.name): _core_facts(member) for member in each.endpoints or ()
        }
        self._set_members(CiliumEndpointSlice, each.key, members, at)

    def _cilium_slice_gone(self, key: Key, at: int) -> None:
        self._set_members(CiliumEndpointSlice, key, {}, at)

    def _set_members(
        self, kind: type[Object], key: Key, members: dict[Key, EndpointFacts], at: int
    ) -> None:
        """What a slice says of pods is ``members``; what another one said meanwhile stays."""
        before = self._members.pop((kind, key), {})
        if members:
            self._members[kind, key] = members
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
        if not identity.metadata.name.isdecimal():
            return
        texts = [
            label_text(source, key, value)
            for text, value in (identity.security_labels or {}).items()
            for source, _, key in [text.partition(":")]
        ]
        self._label(int(identity.metadata.name), tuple(sorted(texts)))

    def _label(self, number: int, labels: tuple[str, ...]) -> None:
        self._identity_labels[number] = labels
        self._directory.set_identities({number: labels})

    def _cilium_is_there(self) -> None:
        if not self._cilium:
            self._cilium = True
            of_nodes = {prefix for _, prefixes in self._nodes.values() for prefix in prefixes}
            for prefix in set(self._surroundings.values()) - of_nodes - self._noted.keys():
                self._directory.set_address(prefix, None)
            self._noted.clear()
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
            rank = Rank(_BY_POD, self._end_of(facts), self._begin_of(facts), entry.key[1])
        else:
            addresses = told.addresses if told is not None else ()
            addresses = addresses or tuple(sorted({*chain.from_iterable(entry.in_slices.values())}))
            rank = Rank(_BY_SLICE, 0, 0, entry.key[1])
        owner, before = self._owner_of(entry, facts, told), entry.owner
        self._claims.publish(entry, owner, addresses, rank, at)
        self._set_endpoint(before, owner, at)
        if not self._cilium:
            here = self._everywhere or facts is not None
            self._note_surroundings(addresses, UNKNOWN_ADDRESS if here else NOT_IN_SCOPE)
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
            self._identities.give_back(before)
        if number not in self._identity_labels:
            self._label(number, labels)
        return number

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
        return told is not None and not self._node_addresses.isdisjoint(told.node)

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

    def _note_surroundings(self, addresses: tuple[bytes, ...], unknown: int) -> None:
        """Who is near a pod may be one that was not heard of yet, and is not called the world.

        Where Cilium is, the datapath tells.
        """
        for address in addresses:
            length, kept = (24, 15) if address.startswith(MAPPED) else (64, 8)
            if (around := address[:kept]) not in self._surroundings:
                prefix = f"{address_text(around + bytes(16 - kept))}/{length}"
                self._surroundings[around] = prefix
                self._noted[prefix] = unknown

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
            self._identities.give_back(entry.own_identity)
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
        for address, port in set(before) - set(ports):
            self._directory.set_host_port(0, address, port, at + TOMBSTONE)
        if facts is None or not ports:
            return
        identity = HOST if facts.node == self._node else REMOTE_NODE
        number = self._directory.owners.add(AddressRecord(identity, *entry.key, facts.workloads))
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

    def _a_node(self, node: Node, at: int) -> None:
        name = node.metadata.name
        texts = {"InternalIP": [], "ExternalIP": []}  # type: dict[str, list[str]]
        for address in node.status.addresses or ():
            if address.type in texts:
                texts[address.type].append(address.address)
        labels = node.metadata.labels or {}
        facts = NodeFacts(
            name,
            (*texts["InternalIP"], *texts["ExternalIP"]),
            tuple(sorted(f"{key}={value}" for key, value in labels.items())),
        )
        prefixes = tuple(filter(_is_prefix, node.spec.pod_cidrs or ()))
        before = self._nodes.get(name)
        if before == (facts, prefixes):
            return
        self._nodes[name] = facts, prefixes
        self._set_prefixes(name, before[1] if before else (), prefixes)
        addresses = addresses_of(*facts.addresses)
        self._frontends.node(addresses_of(*before[0].addresses) if before else (), addresses, at)
        if name == self._node:
            self._node_addresses = frozenset(addresses)
            self._waiting.update(
                (entry, at) for entry in self._pods.values() if entry.facts is None
            )
        self._stand_for(_BY_NODE, node.key, self._identity_of_node(name), addresses, at)
        self._nodes_changed = True

    def _node_gone(self, key: Key, at: int) -> None:
        if key[1] not in self._nodes:
            return
        facts, prefixes = self._nodes.pop(key[1])
        self._set_prefixes(key[1], prefixes, ())
        self._frontends.node(addresses_of(*facts.addresses), (), at)
        self._stand_for(_BY_NODE, key, 0, (), at)
        self._nodes_changed = True

    def _set_prefixes(self, name: str, before: Iterable[str], prefixes: Sequence[str]) -> None:
        """Addresses of pods of a node; who has one is known one by one, or not at all."""
        here = self._everywhere or name == self._node
        unknown = AddressRecord(0, unknown=UNKNOWN_ADDRESS if here else NOT_IN_SCOPE)
        for prefix in {*before, *prefixes}:
            if prefix not in prefixes:
                self._directory.set_address(prefix, None)
            elif prefix not in before:
                self._directory.set_address(prefix, unknown)

    def _cilium_node(self, node: CiliumNode, at: int) -> None:
        self._cilium_is_there()
        spec, key = node.spec, node.key
        host = addresses_of(*(address.ip for address in spec.addresses or ()))
        identity = self._identity_of_node(node.metadata.name)
        self._stand_for(_BY_CILIUM_NODE, key, identity, host, at)
        for name, pair, number in (
            ("health", spec.health, HEALTH),
            ("ingress", spec.ingress, INGRESS),
        ):
            addresses = addresses_of(pair.ipv4, pair.ipv6) if pair is not None else ()
            self._stand_for(_BY_CILIUM_NODE, (name, key[1]), number, addresses, at)

    def _cilium_node_gone(self, key: Key, at: int) -> None:
        for name in (key[0], "health", "ingress"):
            self._stand_for(_BY_CILIUM_NODE, (name, key[1]), 0, (), at)

    def _identity_of_node(self, name: str) -> int:
        return HOST if name == self._node else REMOTE_NODE

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
        self._claims.publish(claimant, owner, addresses, Rank(kind, 0, 0, key[1]), at)
        if not addresses:
            del self._claimants[kind, key]

    # Endpoint slices

    def _slice(self, each: EndpointSlice, at: int) -> None:
        self._frontends.slice(each, at)
        if _service_of(each) == _API_SERVER:
            texts = [text for point in each.endpoints or () for text in point.addresses or ()]
            addresses = tuple(a for a in addresses_of(*texts) if a not in self._node_addresses)
            self._stand_for(_BY_API_SERVER, each.key, KUBE_APISERVER, addresses, at)

        if not self._everywhere:
            self._set_slice(each.key, _backends(each), at)

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
        self._stand_for(_BY_API_SERVER, key, 0, (), at)


class Shared:
    """The first of equal objects, for all that are equal to it."""

    def __init__(self) -> None:
        self._first: dict[Any, Any] = {}

    def of(self, value: T) -> T:
        """An object that equals ``value``."""
        if len(self._first) >= _SHARED:
            self._first.clear()
        first: T = self._first.setdefault(value, value)
        return first


def _kept(key: Key, at: int) -> None:
    """A number that is deleted keeps its labels: it is not given anew for long."""
    del key, at


def _service_of(each: EndpointSlice) -> Key:
    return each.metadata.namespace, (each.metadata.labels or {}).get(SERVICE_NAME, "")


def _backends(each: EndpointSlice) -> dict[Key, tuple[bytes, ...]]:
    """The addresses of the pods in a slice."""
    return {
        (point.target_ref.namespace or each.metadata.namespace, point.target_ref.name): addresses
        for point in each.endpoints or ()
        if point.target_ref is not None and point.target_ref.kind == "Pod"
        if (addresses := addresses_of(*(point.addresses or ())))
    }


def _is_prefix(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _networking(
    networking: EndpointNetworking | None,
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Addresses of an endpoint, and of its node."""
    if networking is None:
        return (), ()
    pairs = networking.addressing or ()
    addresses = addresses_of(*(text for pair in pairs for text in (pair.ipv4, pair.ipv6)))
    return addresses, addresses_of(networking.node)


def _core_facts(member: CoreCiliumEndpoint) -> EndpointFacts:
    return EndpointFacts(0, member.id, (), *_networking(member.networking))
