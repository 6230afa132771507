"""What is found otherwise than by an address of its own: endpoints by id, pods by a node's port."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from itertools import product
from typing import Final, TypeAlias

from bridge.kubernetes.claims import TOMBSTONE
from bridge.kubernetes.objects import Key
from bridge.kubernetes.pods import PodFacts
from parsers.directory import AddressRecord, Directory, LocalEndpoint, Owner

Ports: TypeAlias = tuple[tuple[bytes, int], ...]
"""Addresses of nodes, and ports as ``HostPorts`` has them."""

_IDS: Final = 0xFFFF


class LocalEndpoints:
    """Endpoints of this node by their ids: Cilium's, or else ours of 16 bits."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._ids: dict[int, Key] = {}

    def id_of(self, pod: Key, owner: Owner | None) -> int:
        """The number of a pod of this node, ``owner`` until now; 0 when all are taken.

        It is the same as long as the pod lives, unless Cilium gives it to another one.
        """
        if isinstance(owner, LocalEndpoint) and self._ids.get(owner.id) == pod:
            return owner.id
        if len(self._ids) >= _IDS:
            return 0
        digest = blake2b("/".join(pod).encode(), digest_size=4).digest()
        number = int.from_bytes(digest, "big") % _IDS + 1
        while self._ids.setdefault(number, pod) != pod:
            number = number % _IDS + 1
        return number

    def set(self, before: Owner | None, now: Owner | None, at: int) -> None:
        """A pod is found by its id as ``now`` from ``at`` (ns) on, and was as ``before``."""
        if before == now:
            return
        # After a relist the one that has a number now was told of first.
        if isinstance(before, LocalEndpoint) and self._ids.get(before.id) == _pod_of(before):
            self._directory.set_endpoint(None, (), since=at, endpoint_id=before.id)
            if not isinstance(now, LocalEndpoint) or now.id != before.id:
                del self._ids[before.id]
        if isinstance(now, LocalEndpoint):
            self._ids[now.id] = _pod_of(now)
            self._directory.set_endpoint(now, (), since=at)


def _pod_of(endpoint: LocalEndpoint) -> Key:
    return endpoint.namespace, endpoint.pod_name


class NodePorts:
    """Pods by ports of their nodes; ``identity_of``: a node's, by its name."""

    def __init__(self, directory: Directory, identity_of: Callable[[str], int]) -> None:
        self._directory = directory
        self._identity_of = identity_of

    def publish(
        self, pod: Key, before: Ports, facts: PodFacts | None, since: int, at: int
    ) -> Ports:
        """A pod has its ports since ``since`` and no others from ``at`` on (ns); returns them."""
        ports = tuple(product(facts.host_addresses, facts.host_ports)) if facts else ()
        if before == ports:
            return ports
        hosts, ended = self._directory.host_ports, at + TOMBSTONE
        for address, port in set(before) - set(ports):
            # After a relist the one that has it now was told of first.
            owner = self._directory.owners[hosts.at(address, port, ended)]
            if (owner.namespace, owner.pod_name) == pod:
                self._directory.set_host_port(0, address, port, ended)
        if facts is not None and ports:
            record = AddressRecord(self._identity_of(facts.node), *pod, facts.workloads)
            number = self._directory.owners.add(record)
            for address, port in ports:
                self._directory.set_host_port(number, address, port, since)
        return ports
