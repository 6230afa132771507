"""Addresses and routes of this thread's network namespace, and that they changed.

Formats are those of rtnetlink(7) and the kernel's ``include/uapi/linux/rtnetlink.h`` and
``if_addr.h``. News are not read, but asked anew: the kernel does not tell of every IPv4 route
that goes with its interface.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from native_probes.rtnetlink import attributes, dump, open_route_socket
from parsers.addresses import MAPPED
from parsers.node_network import NodeNetwork

_GET_ADDRESS, _GET_ROUTE = 22, 26
_GROUPS = 0x10 | 0x100 | 0x40 | 0x400  # RTMGRP_ of addresses and routes, of IPv4 and IPv6 each

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 1, 4, 5, 9, 18
_UNICAST = 1  # RTN_UNICAST

MOST_ROUTES = 4096
"""Of a family; a router that knows the whole internet has a million."""

_ANYWHERE = (bytes(16), 0)  # of both families
_TO_ANYWHERE = 3
"""Bits of a default route at most: VPNs have two halves of everything, and some have 2000::/3."""


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of any table. ``length``: bits of ``destination`` (16 bytes) that count."""

    destination: bytes
    length: int
    interfaces: tuple[int, ...]
    has_gateway: bool

    @property
    def is_default(self) -> bool:
        """Whether it leads to anywhere."""
        family_bits = 96 if self.destination.startswith(MAPPED) else 0
        return self.length - family_bits <= _TO_ANYWHERE


@dataclass(frozen=True, slots=True)
class Routing:
    """The node's own addresses (16 bytes each) with the interfaces that have them, and its routes;
    ``complete``: all of them.
    """

    addresses: Mapping[bytes, frozenset[int]]
    routes: tuple[Route, ...]
    complete: bool

    def default_interfaces(self) -> frozenset[int]:
        """The interfaces by which the node reaches anywhere."""
        return frozenset(i for r in self.routes if r.is_default for i in r.interfaces)

    def network(
        self, uplinks: Collection[int], bridges: Iterable[int], services: AbstractSet[int]
    ) -> NodeNetwork:
        """What that tells of addresses; ``uplinks`` beside the interfaces of default routes;
        ``bridges`` have ports of pods, whatever else is reached by them; what only ``services``
        have is of services, whose pods may be anywhere.

        Neighbours at an uplink are the world, but what is behind one of them is there for a
        reason: most often it is another node with its pods. Where routes are missing, pods may be
        anywhere.
        """
        outside = {*uplinks, *self.default_interfaces()} - {*bridges}
        near = {
            (route.destination, route.length)
            for route in self.routes
            if not route.is_default
            and (route.has_gateway or not outside.issuperset(route.interfaces))
        }
        of_services = {address for address, at in self.addresses.items() if at <= services}
        near |= {(address, 128) for address in of_services}
        return NodeNetwork(
            frozenset(self.addresses.keys() - of_services),
            frozenset(near if self.complete else {_ANYWHERE}),
        )


def open_routing_socket() -> socket.socket:
    """A socket that hears something whenever addresses or routes change, or ENOBUFS."""
    listening = open_route_socket()
    listening.bind((0, _GROUPS))
    return listening


def read_routing() -> Routing:
    """As of now. Raises ``OSError``."""
    families = (socket.AF_INET, socket.AF_INET6)
    question = struct.pack("=BBBBI", socket.AF_UNSPEC, 0, 0, 0, 0)
    addresses: dict[bytes, frozenset[int]] = {}
    for body in dump(_GET_ADDRESS, question):
        if body[0] in families:
            address, ifindex = _address(body)
            addresses[address] = addresses.get(address, frozenset()) | {ifindex}
    addresses.pop(b"", None)
    routes: list[Route | None] = []
    complete = True
    for family in families:
        told = dump(_GET_ROUTE, struct.pack("=BBBBBBBBI", family, *bytes(7), 0), MOST_ROUTES)
        complete = complete and len(told) < MOST_ROUTES
        routes += [_route(body) for body in told if body[7] == _UNICAST]
    return Routing(addresses, tuple(filter(None, routes)), complete=complete)


def _address(body: bytes) -> tuple[bytes, int]:
    """An address and its interface."""
    of = attributes(body[8:])
    (ifindex,) = struct.unpack_from("=I", body, 4)
    return _sixteen(of.get(_IFA_LOCAL) or of.get(_IFA_ADDRESS, b"")), ifindex


def _route(body: bytes) -> Route | None:
    family, length = body[0], body[1]
    of = attributes(body[12:])
    interfaces = [int.from_bytes(of[_RTA_OIF], "little")] if _RTA_OIF in of else []
    has_gateway = _RTA_GATEWAY in of or _RTA_VIA in of
    if hops := of.get(_RTA_MULTIPATH):
        told = list(_hops(hops))
        interfaces += [ifindex for ifindex, _ in told]
        has_gateway |= any(_RTA_GATEWAY in hop or _RTA_VIA in hop for _, hop in told)
    if not interfaces:
        return None
    v4 = family == socket.AF_INET
    destination = _sixteen(of.get(_RTA_DST, bytes(4 if v4 else 16)))
    return Route(destination, length + (96 if v4 else 0), tuple(interfaces), has_gateway)


def _hops(data: bytes) -> Iterable[tuple[int, dict[int, bytes]]]:
    """Interface and attributes of each ``struct rtnexthop``."""
    at = 0
    while at + 8 <= len(data):
        length, ifindex = struct.unpack_from("=HxxI", data, at)
        yield ifindex, attributes(data[at + 8 : at + length])
        at += max(8, (length + 3) & ~3)


def _sixteen(value: bytes) -> bytes:
    return MAPPED + value if len(value) == 4 else value
