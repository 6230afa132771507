"""Everything names come from: endpoints, identities, addresses, services, DNS, links.

A ``Directory`` is filled by whoever knows (an identity file, Kubernetes) and asked by the
pipeline. It does no I/O. Who an address belongs to and which services it has are kept with
the time of each change (``AddressTable``), so that a flow is named by who owned the address
when it happened, not when it was read.

Rules of who is behind an address: those of Hubble's endpoint resolver. A local endpoint
knows itself; any other address has the identity of the longest matching prefix and, for
single addresses only, a pod. The identity the datapath reported wins over ours. Who is behind
an address that all this says nothing of follows from the node's network, where that is known. What
is better here: an address that somebody had a while ago is not taken for one outside.

Who keeps answers asks ``changes`` which have become void.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.address_table import ADDRESS, Addresses, AddressTable
from parsers.addresses import MAPPED
from parsers.changes import Changes
from parsers.details import Service
from parsers.entities import Entity, Workload
from parsers.flow_batch import I64, U32
from parsers.host_ports import HostPorts
from parsers.looked_up_names import LookedUpNames
from parsers.node_network import NodeNetwork, changed_addresses
from parsers.object_table import ObjectTable
from parsers.policies import PolicyMap, PolicyRules
from parsers.prefixes import Prefix
from parsers.reserved import HOST, RESERVED, WORLD
from parsers.timeline import EVER, FOREVER, Timeline

CLUSTER_LABEL = "k8s:io.cilium.k8s.policy.cluster="

KNOWN, NOT_SYNCED, UNKNOWN_ADDRESS, EXPIRED, NOT_IN_SCOPE = range(5)
"""Why an address has no name."""

REASONS = ("known", "not_synced", "unknown_address", "expired", "not_in_scope")
"""What these codes are called."""

_LOCAL_SCOPE = 0x01000000  # identities of CIDRs and FQDNs, valid on this node only
_SCOPE_MASK = 0xFF000000
_OWNER, _FRONTENDS = 0, 1  # layers of the table
_WHOLE_WORLD = (0, 96)  # lengths of ::/0 and 0.0.0.0/0


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """An endpoint of this node; ``policy`` is its realised policy map, if known."""

    id: int
    identity: int
    namespace: str = ""
    pod_name: str = ""
    labels: tuple[str, ...] = ()
    workloads: tuple[Workload, ...] = ()
    policy: PolicyMap | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """What is known of an address or prefix that is no local endpoint.

    ``unknown``: why there is no more, for prefixes whose owners nobody knows one by one.
    """

    identity: int
    namespace: str = ""
    pod_name: str = ""
    workloads: tuple[Workload, ...] = ()
    unknown: int = KNOWN


Owner: TypeAlias = LocalEndpoint | AddressRecord


@dataclass(frozen=True, slots=True)
class Frontends:
    """The services at an address, by ports as ``HostPorts`` has them, with their protocols, and by
    ports whatever the protocol.
    """

    by_port: Mapping[int, Service]

    def at(self, l4: int, port: int) -> Service | None:
        """The service at a port of a protocol (``L4_*``), or else at the port of another one."""
        return self.by_port.get(l4 << 16 | port) or self.by_port.get(port)


class Answers(NamedTuple):
    """For n addresses: rows of ``owners`` and of ``frontends`` of the directory (uint32, 0 for
    none), why there is no name (uint8, ``KNOWN`` where there is), since and until when all
    that holds (int64, ns).
    """

    owner: U32
    frontends: U32
    reason: NDArray[np.uint8]
    since: I64
    until: I64


class Directory:
    """Look-ups by address (16 bytes, IPv4 mapped) at a time (ns).

    ``generation`` rises when policies change and when numbers of owners or frontends are used
    again: what is kept by those is void then. ``synced`` is false while the source of names
    has not delivered its first snapshot.
    """

    def __init__(self, *, synced: bool = True) -> None:
        self.generation = 0
        self.changes = Changes()
        self.owners: ObjectTable[Owner] = ObjectTable(AddressRecord(0))
        self.frontends: ObjectTable[Frontends] = ObjectTable(Frontends({}))
        self._synced = synced
        self.host_ports = HostPorts()
        self._addresses = AddressTable(layers=2)
        self._endpoint_by_id: dict[int, Timeline[LocalEndpoint]] = {}
        self._policies: dict[int, PolicyRules] = {}
        self._prefixes: dict[int, dict[int, int]] = {}  # owners by length and leading bits
        self._prefix_lengths: list[int] = []
        self._identities: dict[int, tuple[str, ...]] = {}
        self._names = LookedUpNames()
        self._links: dict[int, str] = {}
        self._cgroups: dict[int, tuple[bytes, ...]] = {}
        self._network: NodeNetwork | None = None
        self._reserved: dict[int, int] = {}  # owners by the identities that a network tells

    @property
    def synced(self) -> bool:
        """Whether who has no name is unknown, and not just not known yet."""
        return self._synced

    @synced.setter
    def synced(self, value: bool) -> None:
        self._synced = value
        self.changes.everything(past=True)

    @property
    def named_addresses(self) -> Collection[bytes]:
        """Addresses that some local endpoint looked up."""
        return self._names.addresses

    def may_be_named(self, buckets: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Whether an address of each bucket (see ``buckets_of``) is among ``named_addresses``."""
        named: NDArray[np.bool_] = self._names.buckets[buckets] != 0
        return named

    # Filling

    def set_endpoint(
        self, endpoint: LocalEndpoint | None, addresses: tuple[bytes, ...], *, since: int = 0,
        endpoint_id: int | None = None,
    ) -> None:  # fmt: skip
        """From ``since`` (ns; 0: ever) on ``addresses`` belong to ``endpoint``; None: nobody."""
        if addresses:
            self.set_owner(self.owners.add(endpoint) if endpoint else 0, addresses, since)
        number = endpoint.id if endpoint is not None else endpoint_id
        if number is not None:
            by_id = self._endpoint_by_id.setdefault(number, Timeline())
            known = [each for each in by_id.values() if each is not None]
            told = known if endpoint is None else [*known, endpoint]
            if any(each.policy is not None for each in told):
                self.generation += 1
            by_id.set(endpoint, since)
            if endpoint is not None and known and not _same_pod(endpoint, known[-1]):
                gone = self._names.forget_endpoints({number})
                self.changes.addresses([(address, since or EVER) for address in gone])

    def set_address(self, prefix: str, record: AddressRecord | None, *, since: int = 0) -> None:
        """From ``since`` on ``prefix`` (CIDR text) is ``record`` (None: unknown).

        Only single addresses keep a history, and a pod; a prefix is as it is now.
        """
        length, sixteen = _parsed(prefix)
        if length == 128:
            self.set_owner(self.owners.add(record) if record else 0, (sixteen,), since)
        else:
            self._set_prefix(length, sixteen, record)

    def set_prefix(self, prefix: str, record: AddressRecord | None) -> None:
        """As ``set_address``, but a single address is a prefix like others: as it is now, and
        whoever is told to have the address goes before it.
        """
        self._set_prefix(*_parsed(prefix), record)

    def _set_prefix(self, length: int, sixteen: bytes, record: AddressRecord | None) -> None:
        table = self._prefixes.setdefault(length, {})
        key = int.from_bytes(sixteen, "big") >> (128 - length)
        if record is None:
            table.pop(key, None)
        else:
            table[key] = self.owners.intern(replace(record, namespace="", pod_name=""))
        self._prefix_lengths = sorted((n for n, t in self._prefixes.items() if t), reverse=True)
        if length in _WHOLE_WORLD:
            self.changes.everything()
        else:
            self.changes.prefix(Prefix(length, key))

    def set_owner(self, number: int, addresses: Iterable[bytes], since: int) -> None:
        """From ``since`` (ns; 0: ever) until the next change that is known, ``addresses`` are
        ``owners[number]``; 0: nobody.
        """
        self._set_many([(address, number, since or EVER) for address in addresses], _OWNER)

    def set_owners_for_good(self, changes: Iterable[tuple[bytes, int, int]]) -> None:
        """As ``set_owner``, of addresses, numbers and times; later changes that were known
        were none.
        """
        self._set_many([(a, n, since or EVER) for a, n, since in changes], _OWNER, lasting=True)

    def _set_many(
        self, changes: Sequence[tuple[bytes, int, int]], layer: int, *, lasting: bool = False
    ) -> None:
        self._addresses.set_many(changes, layer, lasting=lasting)
        self.changes.addresses([(address, since) for address, _, since in changes])

    def set_frontends(self, number: int, address: bytes, since: int) -> None:
        """As ``set_frontends_of_many``, of one."""
        self.set_frontends_of_many([(address, number, since)])

    def set_frontends_of_many(self, changes: Iterable[tuple[bytes, int, int]]) -> None:
        """From a time (ns; 0: ever) on an address has ``frontends[number]``; 0: none.

        For good, whatever later changes were known.
        """
        self._set_many([(a, n, since or EVER) for a, n, since in changes], _FRONTENDS, lasting=True)

    def set_host_port(self, number: int, address: bytes, port: int, since: int) -> None:
        """From ``since`` (ns; 0: ever) on a port of a node is ``owners[number]`` for good; 0:
        nobody's, until the next change that is known.
        """
        self.host_ports.set(address, port, number, since or EVER)

    def set_identities(self, labels: Mapping[int, tuple[str, ...]]) -> None:
        """Labels by security identity."""
        known = self._identities
        for number, texts in labels.items():
            if known.get(number) != texts:
                known[number] = texts
                self.changes.identity(number)

    def forget_identity(self, number: int) -> None:
        """Nobody has this security identity any more."""
        self._identities.pop(number, None)

    def set_services(self, services: Mapping[tuple[bytes, int], Service]) -> None:
        """Frontends by (address, port), since ever."""
        by_address: dict[bytes, dict[int, Service]] = {}
        for (address, port), service in services.items():
            by_address.setdefault(address, {})[port] = service
        for address, by_port in by_address.items():
            self.set_frontends(self.frontends.add(Frontends(by_port)), address, 0)

    def set_names(self, names: Mapping[tuple[int, bytes], tuple[str, ...]]) -> None:
        """DNS names by (local endpoint id, address), as that endpoint looked them up."""
        self._names = LookedUpNames(names)
        self.changes.everything()

    def learn_names(
        self, endpoint_id: int, name: str, addresses: Iterable[bytes], *, since: int
    ) -> None:
        """At ``since`` a local endpoint was answered that ``name`` has ``addresses``."""
        for address in addresses:
            if self._names.learn(endpoint_id, name, address, since):
                self.changes.addresses([(address, since)])

    def set_policies(self, policies: Mapping[int, PolicyRules]) -> None:
        """Realised policies by endpoint id, for endpoints that are known without one."""
        if policies != self._policies:
            self._policies = dict(policies)
            self.generation += 1

    def set_links(self, links: Mapping[int, str]) -> None:
        """Interface names by index."""
        self._links = dict(links)

    def set_cgroups(self, cgroups: Mapping[int, tuple[bytes, ...]]) -> None:
        """Pod addresses by cgroup id."""
        self._cgroups = dict(cgroups)

    def set_node_network(self, network: NodeNetwork | None) -> None:
        """What is to be told of addresses that nobody else told of; None: nothing.

        It is as it is now, and changes nothing of what was named before.
        """
        if network == self._network:
            return
        changed = changed_addresses(self._network, network)
        self._network = network
        for number in (HOST, WORLD):
            self._reserved[number] = self.owners.intern(AddressRecord(number))
            self._identities.setdefault(number, RESERVED[number])
        if changed is None:
            self.changes.everything()
        else:
            self.changes.addresses([(address, FOREVER) for address in changed])

    def replace_by(self, other: Directory) -> None:
        """Know what ``other``, a snapshot nobody else keeps, knows; forget all else but the
        node's network.
        """
        generation, changes, network = self.generation + 1, self.changes, self._network
        vars(self).update(vars(other))
        self.generation, self.changes = generation, changes
        if network is not None:
            self.set_node_network(network)
        changes.everything()

    # Forgetting

    def forget(self, before: int) -> bool:
        """Drop a piece of what no event after ``before`` (ns) needs; whether there is more."""
        return self._addresses.forget(before) > 0

    def forget_names(self, before: int, now: int) -> None:
        """From ``now`` on drop a piece of the names of addresses last answered ``before`` (ns)."""
        gone = self._names.forget(before)
        self.changes.addresses([(address, now) for address in gone])

    def reclaim(self, kept: Iterable[int], before: int) -> int:
        """Free numbers of owners and frontends that no address has, but for the owners ``kept``;
        and what no event after ``before`` (ns) needs of endpoints and ports of this node.

        Returns how many numbers. About 3 ms for 100,000 addresses.
        """
        for timeline in self._endpoint_by_id.values():
            timeline.forget(before)
        over = {n for n, each in self._endpoint_by_id.items() if each.is_over(before)}
        for number in over:
            del self._endpoint_by_id[number]
        # Whoever gets such a number next has not asked for these names.
        gone = self._names.forget_endpoints(over)
        self.changes.addresses([(address, before) for address in gone])
        self.host_ports.forget(before)
        owners = self._addresses.numbers_in_use(self.owners.end, _OWNER)
        owners[[row for table in self._prefixes.values() for row in table.values()]] = True
        owners[[*kept, *self.host_ports.numbers(), *self._reserved.values()]] = True
        frontends = self._addresses.numbers_in_use(self.frontends.end, _FRONTENDS)
        freed = self.owners.reclaim(owners) + self.frontends.reclaim(frontends)
        if freed:
            self.generation += 1
        return freed

    # Asking, a batch at a time

    def at(self, addresses: Addresses, time: I64) -> Answers:
        """Who had ``addresses`` at ``time``, or stands for them, and what is served there."""
        rows = self._addresses.rows_of(addresses)
        owner, since, until = self._addresses.at(rows, time, _OWNER)
        frontends = np.zeros(len(rows), dtype=np.uint32)
        if len(self.frontends) > 1:
            served = self._addresses.at(rows, time, _FRONTENDS)
            frontends = served.number
            since, until = np.maximum(since, served.since), np.minimum(until, served.until)
        reason = np.zeros(len(owner), dtype=np.uint8)
        missing = (owner == 0).nonzero()[0]
        if len(missing):
            had = self._addresses.had_one(rows[missing], time[missing], _OWNER).tolist()
            raw = addresses[missing].tobytes()
            for place, (index, expired) in enumerate(zip(missing.tolist(), had, strict=True)):
                address = raw[16 * place : 16 * place + 16]
                owner[index], reason[index] = self._around(address, expired=expired)
        return Answers(owner, frontends, reason, since, until)

    def entity_of(self, owner: int, identity: int) -> Entity:
        """Who ``owners[owner]`` is; ``identity`` as the datapath reported it, 0 if it did not."""
        record = self.owners[owner]
        if isinstance(record, LocalEndpoint):
            return local_entity(record, identity or record.identity)
        number = identity or record.identity
        labels = self._identities.get(number, ())
        return Entity(
            identity=number,
            namespace=record.namespace,
            pod_name=record.pod_name,
            labels=shown_labels(labels, number),
            workloads=record.workloads,
            cluster_name=cluster_of(labels),
        )

    # Asking for one

    def entity(self, address: bytes | None, identity: int, time: int) -> Entity:
        """Who ``address`` was; ``identity`` as the datapath reported it, 0 if it did not."""
        owner = int(self._one(address, time).owner[0]) if address is not None else 0
        return self.entity_of(owner, identity)

    def reason(self, address: bytes | None, time: int) -> int:
        """Why ``address`` has no name; ``KNOWN`` when it has one."""
        return int(self._one(address, time).reason[0]) if address is not None else UNKNOWN_ADDRESS

    def endpoint_by_id(self, number: int, time: int) -> LocalEndpoint | None:
        """The local endpoint of this id."""
        timeline = self._endpoint_by_id.get(number)
        return timeline.at(time) if timeline is not None else None

    def policy_of(self, endpoint_id: int, time: int) -> PolicyMap | PolicyRules | None:
        """What is known of the policy of a local endpoint."""
        endpoint = self.endpoint_by_id(endpoint_id, time)
        own = endpoint.policy if endpoint is not None else None
        return own or self._policies.get(endpoint_id)

    def names_of(self, endpoint_id: int, address: bytes | None) -> tuple[str, ...]:
        """DNS names a local endpoint has looked up for ``address``."""
        return self._names.of(endpoint_id, address) if address is not None else ()

    def link_name(self, index: int) -> str:
        """Interface name, empty when unknown."""
        return self._links.get(index, "")

    def pod_addresses(self, cgroup_id: int) -> tuple[bytes, ...]:
        """Addresses of the pod whose container has this cgroup id."""
        return self._cgroups.get(cgroup_id, ())

    def _one(self, address: bytes, time: int) -> Answers:
        return self.at(np.frombuffer(address, dtype=ADDRESS), np.array([time], dtype=np.int64))

    def _around(self, address: bytes, *, expired: bool) -> tuple[int, int]:
        """The owner of the longest prefix around an address, and why there is no name.

        For an address that somebody had, the whole world is no prefix. The node's own addresses
        are never unknown.
        """
        network = self._network
        if network is not None and network.is_own(address):
            return self._reserved[HOST], KNOWN
        value = int.from_bytes(address, "big")
        mapped = value >> 32 == 0xFFFF
        for length in self._prefix_lengths:
            if mapped and length < 96:
                break  # an IPv4 address is in no IPv6 prefix
            row = self._prefixes[length].get(value >> (128 - length))
            if row is not None and not (expired and length in _WHOLE_WORLD):
                record = self.owners[row]
                reason = record.unknown if isinstance(record, AddressRecord) else KNOWN
                return row, EXPIRED if reason and expired else reason
        if not self._synced:
            return 0, NOT_SYNCED
        if expired:
            return 0, EXPIRED
        row = self._reserved.get(network.identity_of(address), 0) if network is not None else 0
        return row, KNOWN if row else UNKNOWN_ADDRESS


def _parsed(prefix: str) -> tuple[int, bytes]:
    """How many bits of which 16 bytes count."""
    network = ip_network(prefix, strict=False)
    packed = network.network_address.packed
    if network.version == 4:
        return network.prefixlen + 96, MAPPED + packed
    return network.prefixlen, packed


def _same_pod(one: LocalEndpoint, other: LocalEndpoint) -> bool:
    return (one.namespace, one.pod_name) == (other.namespace, other.pod_name)


def local_entity(endpoint: LocalEndpoint, identity: int) -> Entity:
    """A local endpoint as it is printed with the identity of an event."""
    return Entity(
        endpoint_id=endpoint.id,
        identity=identity,
        namespace=endpoint.namespace,
        pod_name=endpoint.pod_name,
        labels=shown_labels(endpoint.labels, identity),
        workloads=endpoint.workloads,
        cluster_name=cluster_of(endpoint.labels),
    )


def cluster_of(labels: tuple[str, ...]) -> str:
    """The cluster a set of security labels names."""
    for label in labels:
        if label.startswith(CLUSTER_LABEL):
            return label[len(CLUSTER_LABEL) :]
    return ""


@lru_cache(maxsize=4096)
def shown_labels(labels: tuple[str, ...], identity: int) -> tuple[str, ...]:
    """Sorted; of the many nested ``cidr:`` labels of a local identity only the longest."""
    if identity & _SCOPE_MASK == _LOCAL_SCOPE:
        others = [label for label in labels if not label.startswith("cidr:")]
        longest = max(
            (label for label in labels if label.startswith("cidr:")), key=_cidr_length, default=""
        )
        labels = tuple([*others, longest] if _cidr_length(longest) > 0 else others)
    return tuple(sorted(labels))


def _cidr_length(label: str) -> int:
    # IPv6 colons are written as dashes, since a label cannot hold them.
    try:
        return ip_network(label.removeprefix("cidr:").replace("-", ":"), strict=False).prefixlen
    except ValueError:
        return -1
