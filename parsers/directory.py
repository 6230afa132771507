"""Everything names come from: endpoints, identities, addresses, services, DNS, links.

A ``Directory`` is filled by whoever knows (an identity file, Kubernetes) and asked by the
pipeline. It does no I/O. What changes over time is kept with the time of the change, so
that a flow is named by who owned the address when it happened, not when it was read
(``Timeline``).

Rules of who is behind an address: those of Hubble's endpoint resolver. A local endpoint
knows itself; any other address has the identity of the longest matching prefix and, for
single addresses only, a pod. The identity the datapath reported wins over ours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_network
from typing import Generic, TypeVar

from parsers.details import Service
from parsers.entities import Entity, Workload
from parsers.policies import PolicyMap

CLUSTER_LABEL = "k8s:io.cilium.k8s.policy.cluster="

KNOWN, NOT_SYNCED, UNKNOWN_ADDRESS, EXPIRED = range(4)
"""Why an address has no name: reason codes of ``Directory.reason``."""

_LOCAL_SCOPE = 0x01000000  # identities of CIDRs and FQDNs, valid on this node only
_SCOPE_MASK = 0xFF000000

_EVER = -(2**63)

T = TypeVar("T")


class Timeline(Generic[T]):
    """A value over time: who held something from when on."""

    __slots__ = ("_since", "_values")

    def __init__(self) -> None:
        self._since: list[int] = []
        self._values: list[T | None] = []

    def set(self, value: T | None, since: int) -> None:
        """From ``since`` (ns) on it is ``value``; None: nobody."""
        at = bisect_right(self._since, since)
        self._since.insert(at, since)
        self._values.insert(at, value)

    def at(self, time: int) -> T | None:
        """The value at ``time``."""
        index = bisect_right(self._since, time) - 1
        return self._values[index] if index >= 0 else None

    def since(self, time: int) -> int:
        """When the value at ``time`` began."""
        index = bisect_right(self._since, time) - 1
        return self._since[index] if index >= 0 else _EVER

    def until(self, time: int) -> int:
        """When the value at ``time`` ends."""
        index = bisect_right(self._since, time)
        return self._since[index] if index < len(self._since) else 2**63 - 1

    def had_one(self, time: int) -> bool:
        """Whether there ever was a value before ``time``."""
        index = bisect_right(self._since, time)
        return any(value is not None for value in self._values[:index])

    def forget(self, before: int) -> None:
        """Drop changes that no event after ``before`` can need."""
        keep = max(0, bisect_right(self._since, before) - 1)
        del self._since[:keep], self._values[:keep]


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
    """What is known of an address or prefix that is no local endpoint."""

    identity: int
    namespace: str = ""
    pod_name: str = ""


class Directory:
    """Look-ups by address (16 bytes, IPv4 mapped) at a time (ns).

    ``generation`` rises with each change; who caches an answer compares it.
    ``synced`` is false while the source of names has not delivered its first snapshot.
    """

    def __init__(self, *, synced: bool = True) -> None:
        self.generation = 0
        self.synced = synced
        self._endpoints: dict[bytes, Timeline[LocalEndpoint]] = {}
        self._endpoint_by_id: dict[int, Timeline[LocalEndpoint]] = {}
        self._addresses: dict[bytes, Timeline[AddressRecord]] = {}
        self.changed_addresses: set[bytes] = set()  # addresses that were not always as they are
        self._prefixes: dict[int, dict[int, AddressRecord]] = {}
        self._prefix_lengths: list[int] = []
        self._identities: dict[int, tuple[str, ...]] = {}
        self._services: dict[tuple[bytes, int], Service] = {}
        self._names: dict[tuple[int, bytes], tuple[str, ...]] = {}
        self._links: dict[int, str] = {}
        self._cgroups: dict[int, tuple[bytes, ...]] = {}
        self.service_addresses: frozenset[bytes] = frozenset()
        self.named_addresses: frozenset[bytes] = frozenset()

    # Filling

    def set_endpoint(
        self, endpoint: LocalEndpoint | None, addresses: tuple[bytes, ...], *, since: int = 0,
        endpoint_id: int | None = None,
    ) -> None:  # fmt: skip
        """From ``since`` (ns; 0: ever) on ``addresses`` belong to ``endpoint``; None: nobody."""
        for address in addresses:
            self._endpoints.setdefault(address, Timeline()).set(endpoint, since)
            if since:
                self.changed_addresses.add(address)
        number = endpoint.id if endpoint is not None else endpoint_id
        if number is not None:
            self._endpoint_by_id.setdefault(number, Timeline()).set(endpoint, since)
        self.generation += 1

    def set_address(self, prefix: str, record: AddressRecord | None, *, since: int = 0) -> None:
        """From ``since`` on ``prefix`` (CIDR text) is ``record`` (None: unknown).

        Only single addresses keep a history; a prefix is as it is now.
        """
        network = ip_network(prefix, strict=False)
        packed = network.network_address.packed
        length = network.prefixlen + (96 if network.version == 4 else 0)
        sixteen = bytes(10) + b"\xff\xff" + packed if network.version == 4 else packed
        self.generation += 1
        if length == 128:
            self._addresses.setdefault(sixteen, Timeline()).set(record, since)
            if since:
                self.changed_addresses.add(sixteen)
            return
        table = self._prefixes.setdefault(length, {})
        key = int.from_bytes(sixteen, "big") >> (128 - length)
        if record is None:
            table.pop(key, None)
        else:
            table[key] = record
        self._prefix_lengths = sorted((n for n, t in self._prefixes.items() if t), reverse=True)

    def set_identities(self, labels: Mapping[int, tuple[str, ...]]) -> None:
        """Labels by security identity."""
        self._identities.update(labels)
        self.generation += 1

    def set_services(self, services: Mapping[tuple[bytes, int], Service]) -> None:
        """Frontends by (address, port); replaces all."""
        self._services = dict(services)
        self.service_addresses = frozenset(address for address, _ in services)
        self.generation += 1

    def set_names(self, names: Mapping[tuple[int, bytes], tuple[str, ...]]) -> None:
        """DNS names by (local endpoint id, address), as that endpoint looked them up."""
        self._names = dict(names)
        self.named_addresses = frozenset(address for _, address in names)
        self.generation += 1

    def set_links(self, links: Mapping[int, str]) -> None:
        """Interface names by index."""
        self._links = dict(links)

    def set_cgroups(self, cgroups: Mapping[int, tuple[bytes, ...]]) -> None:
        """Pod addresses by cgroup id."""
        self._cgroups = dict(cgroups)

    def replace_by(self, other: Directory) -> None:
        """Know what ``other``, a snapshot nobody else keeps, knows; forget all else."""
        generation = self.generation + 1
        vars(self).update(vars(other))
        self.generation = generation

    # Asking

    def endpoint(self, address: bytes, time: int) -> LocalEndpoint | None:
        """The local endpoint that owned ``address``."""
        timeline = self._endpoints.get(address)
        return timeline.at(time) if timeline is not None else None

    def endpoint_by_id(self, number: int, time: int) -> LocalEndpoint | None:
        """The local endpoint of this id."""
        timeline = self._endpoint_by_id.get(number)
        return timeline.at(time) if timeline is not None else None

    def entity(self, address: bytes | None, identity: int, time: int) -> Entity:
        """Who ``address`` was; ``identity`` as the datapath reported it, 0 if it did not."""
        if address is None:
            return self._remote(None, identity)
        endpoint = self.endpoint(address, time)
        if endpoint is not None:
            return local_entity(endpoint, identity or endpoint.identity)
        return self._remote(self.address(address, time), identity, self._pod(address, time))

    def address(self, address: bytes, time: int) -> AddressRecord | None:
        """The record of the longest prefix around ``address``."""
        record = self._pod(address, time)
        if record is not None:
            return record
        value = int.from_bytes(address, "big")
        mapped = value >> 32 == 0xFFFF
        for length in self._prefix_lengths:
            if mapped and length < 96:
                break  # an IPv4 address is in no IPv6 prefix
            record = self._prefixes[length].get(value >> (128 - length))
            if record is not None:
                return record
        return None

    def reason(self, address: bytes | None, time: int) -> int:
        """Why ``address`` has no name; ``KNOWN`` when it has one."""
        if address is None:
            return UNKNOWN_ADDRESS
        if self.endpoint(address, time) or self.address(address, time):
            return KNOWN
        if not self.synced:
            return NOT_SYNCED
        for table in (self._endpoints, self._addresses):
            timeline = table.get(address)
            if timeline is not None and timeline.had_one(time):
                return EXPIRED
        return UNKNOWN_ADDRESS

    def valid_between(self, address: bytes, time: int) -> tuple[int, int]:
        """Since and until when the answer for ``address`` at ``time`` holds (ns)."""
        since, until = _EVER, 2**63 - 1
        for table in (self._endpoints, self._addresses):
            timeline = table.get(address)
            if timeline is not None:
                since = max(since, timeline.since(time))
                until = min(until, timeline.until(time))
        return since, until

    def names_of(self, endpoint_id: int, address: bytes | None) -> tuple[str, ...]:
        """DNS names a local endpoint has looked up for ``address``."""
        return self._names.get((endpoint_id, address), ()) if address is not None else ()

    def service(self, address: bytes | None, port: int) -> Service | None:
        """The frontend at (address, port), whatever the protocol."""
        return self._services.get((address, port)) if address is not None else None

    def link_name(self, index: int) -> str:
        """Interface name, empty when unknown."""
        return self._links.get(index, "")

    def pod_addresses(self, cgroup_id: int) -> tuple[bytes, ...]:
        """Addresses of the pod whose container has this cgroup id."""
        return self._cgroups.get(cgroup_id, ())

    def pod_of(self, address: bytes | None, time: int) -> tuple[str, str]:
        """Namespace and pod name known of a single address."""
        record = self._pod(address, time) if address is not None else None
        return (record.namespace, record.pod_name) if record is not None else ("", "")

    def _pod(self, address: bytes, time: int) -> AddressRecord | None:
        timeline = self._addresses.get(address)
        return timeline.at(time) if timeline is not None else None

    def _remote(
        self, record: AddressRecord | None, identity: int, pod: AddressRecord | None = None
    ) -> Entity:
        number = identity or (record.identity if record is not None else 0)
        labels = self._identities.get(number, ())
        return Entity(
            identity=number,
            namespace=pod.namespace if pod is not None else "",
            pod_name=pod.pod_name if pod is not None else "",
            labels=shown_labels(labels, number),
            cluster_name=cluster_of(labels),
        )


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
