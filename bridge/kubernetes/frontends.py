"""Where services are found: at addresses of their own, at backends, at ports of every node.

A service has its cluster, external and load balancer addresses; a headless one, which has none,
those of its backends. Where several have one address, port and protocol, the first by namespace and
name is shown, so that all agents show the same; headless ones last, since anybody may write any
address into a slice of endpoints. Ports of nodes are the same at all nodes: one mapping for all of
them, that is changed in place. Ports are numbers with their protocols, as ``HostPorts`` has them; a
port alone stands for whatever protocol has a service there.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TypeAlias

from bridge.kubernetes.objects import EndpointSlice, Key
from bridge.kubernetes.objects import Service as ServiceObject
from bridge.kubernetes.pods import addresses_of, nanoseconds, number_of
from parsers.details import Service
from parsers.directory import Directory, Frontends

SERVICE_NAME = "kubernetes.io/service-name"
"""The label of an endpoint slice that names its service."""

_HEADLESS = "None"
_PORT = 0xFFFF
_SECOND = 10**9  # ns

Points: TypeAlias = Mapping[bytes, frozenset[int]]
"""Ports, with their protocols, by address."""


class ServiceFrontends:
    """Fills a directory's frontends, at ``flush``. Times are ns; 0 is since ever."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._points: dict[tuple[str, Key], tuple[Service, Points]] = {}  # of object by kind, key
        self._at: dict[bytes, dict[int, list[Service]]] = {}
        self._headless: dict[Key, bool] = {}
        self._slices: dict[Key, dict[Key, Points]] = {}  # by service, unless it has addresses
        self._service_of: dict[Key, Key] = {}  # by slice
        self._node_ports: dict[int, Service] = {}
        self._ports_of: dict[Key, tuple[int, ...]] = {}  # of nodes, by service
        self._nodes: set[bytes] = set()
        self._since: dict[Service, int] = {}
        self._newest = 0  # of these
        self._changes: list[tuple[bytes, int, int]] = []
        self.believes_times = True
        """Whether times in objects are those of our clock."""

    def flush(self) -> None:
        """Tell the directory what was published."""
        if self._changes:
            self._directory.set_frontends_of_many(self._changes)
            self._changes.clear()

    def service(self, service: ServiceObject, at: int) -> None:
        """A service is new or different."""
        key, spec = service.key, service.spec
        ports = frozenset(number_of(port.protocol, port.port) for port in spec.ports or ())
        ingress = (each.ip for each in service.status.load_balancer.ingress or ())
        addresses = addresses_of(
            spec.cluster_ip, *(spec.cluster_ips or ()), *(spec.external_ips or ()),
            spec.load_balancer_ip, *ingress,
        )  # fmt: skip
        began = nanoseconds(service.metadata.creation_timestamp) if self.believes_times else 0
        since = at
        if key not in self._headless:
            if began:  # in that second, in which another one may have ended
                since = min(began + _SECOND, at)
            self._since[Service(key[1], key[0])] = since
            self._newest = max(self._newest, since)
        headless = self._headless[key] = spec.cluster_ip == _HEADLESS
        self._set("service", key, key, dict.fromkeys(addresses, ports), since)
        for slice_key, points in self._slices.get(key, {}).items():
            self._set("slice", slice_key, key, points if headless else {}, since)
        if not headless:
            self._slices.pop(key, None)
        node_ports = (number_of(port.protocol, port.node_port) for port in spec.ports or ())
        self._set_node_ports(key, tuple(filter(None, node_ports)))

    def service_gone(self, key: Key, at: int) -> None:
        """A service is no more."""
        self._set("service", key, key, {}, at)
        for slice_key in self._slices.pop(key, {}):
            self._set("slice", slice_key, key, {}, at)
        self._headless.pop(key, None)
        self._since.pop(Service(key[1], key[0]), None)
        self._set_node_ports(key, ())

    def slice(self, each: EndpointSlice, at: int) -> None:
        """A slice of endpoints is new or different."""
        name = (each.metadata.labels or {}).get(SERVICE_NAME, "")
        service = each.metadata.namespace, name
        headless = self._headless.get(service)
        if not name or headless is False:
            return
        ports = frozenset(number_of(p.protocol or "TCP", p.port or 0) for p in each.ports or ())
        texts = (text for point in each.endpoints or () for text in point.addresses or ())
        points = dict.fromkeys(addresses_of(*texts), ports)
        self._service_of[each.key] = service
        self._slices.setdefault(service, {})[each.key] = points
        if headless:
            self._set("slice", each.key, service, points, at)

    def slice_gone(self, key: Key, at: int) -> None:
        """A slice is no more."""
        service = self._service_of.pop(key, None)
        if service is not None:
            slices = self._slices.get(service, {})
            slices.pop(key, None)
            if not slices:
                self._slices.pop(service, None)
            self._set("slice", key, service, {}, at)

    def node(self, before: Iterable[bytes], now: Iterable[bytes], at: int) -> None:
        """A node has other addresses than before."""
        before, now = frozenset(before), frozenset(now)
        self._nodes -= before
        self._nodes |= now
        for address in before ^ now:
            self._publish(address, at)

    def _set(self, kind: str, key: Key, name: Key, points: Points, since: int) -> None:
        """An object's service is found at ``points`` and nowhere else."""
        before_service, before = self._points.pop((kind, key), (None, {}))
        service = Service(name[1], name[0])
        if points:
            self._points[kind, key] = service, points
        for address in before.keys() | points.keys():
            old, new = (frozenset(filter(None, at.get(address, ()))) for at in (before, points))
            if old == new and before_service == service:
                continue
            by_port = self._at.setdefault(address, {})
            for port in old:
                by_port[port].remove(before_service)  # type: ignore[arg-type]
                if not by_port[port]:
                    del by_port[port]
            for port in new:
                by_port.setdefault(port, []).append(service)
            if not by_port:
                del self._at[address]
            self._publish(address, since)

    def _set_node_ports(self, key: Key, ports: tuple[int, ...]) -> None:
        before = self._ports_of.pop(key, ())
        if ports:
            self._ports_of[key] = ports
        if before == ports:
            return
        service = Service(key[1], key[0])
        for port in chain.from_iterable((port, port & _PORT) for port in before):
            # After a relist the one that has it now was told of first.
            if self._node_ports.get(port) == service:
                del self._node_ports[port]
        for port in ports:
            self._node_ports[port] = self._node_ports[port & _PORT] = service
        self._directory.generation += 1

    def _publish(self, address: bytes, since: int) -> None:
        """As ``address`` is since then; what was made later comes later, as after a relist the end
        of a service is dated by when it was last known to be there.
        """
        moments = {since}
        if since < self._newest:
            for services in self._at.get(address, {}).values():
                moments.update(b for s in services if (b := self._since.get(s, 0)) > since)
        for moment in sorted(moments):
            self._publish_as_of(address, moment)

    def _publish_as_of(self, address: bytes, moment: int) -> None:
        own: dict[int, Service] = {}
        for port, services in self._at.get(address, {}).items():
            made = [each for each in services if self._since.get(each, 0) <= moment]
            if made:
                own[port] = min(made, key=self._order)
        for port, service in sorted(own.items(), key=lambda e: self._order(e[1]), reverse=True):
            own[port & _PORT] = service
        number = 0
        if address in self._nodes:
            by_port = ChainMap(own, self._node_ports) if own else self._node_ports
            number = self._directory.frontends.add(Frontends(by_port))
        elif own:
            number = self._directory.frontends.add(Frontends(own))
        self._changes.append((address, number, moment))

    def _order(self, service: Service) -> tuple[bool, str, str]:
        headless = self._headless.get((service.namespace, service.name), False)
        return headless, service.namespace, service.name
