"""Uplinks that look like something else, and what addresses and routes tell of others."""

from __future__ import annotations

import errno
import json
import threading

import pytest

from native_probes import node_interfaces
from native_probes.interfaces import InterfacePatterns
from native_probes.routes import Routing, read_routing
from native_probes.source import SourceSettings
from parsers.reserved import HOST, WORLD
from tests.kernel.lab import Lab, inside, ip_lines
from tests.kernel.running import Running, running
from tests.parsers.test_probe_traffic import sixteen


def identity(probes: Running, address: str) -> int:
    return probes.networks[-1].identity_of(sixteen(address))


async def test_the_interface_of_the_default_route_is_one(lab: Lab) -> None:
    for number, name in ((1, "up1"), (2, "up2")):
        lab.add_uplink(name, number)
    first, second, bridge = (lab.ifindex(name) for name in ("up1", "up2", "br0"))
    lab.ip("route", "add", "default", "via", "10.88.1.2")
    async with running(lab) as probes:
        await probes.covers(first)
        assert {first} == set(probes.coverage.covered())
        lab.ip("route", "replace", "default", "via", "10.88.2.2")
        await probes.until(lambda: {second} == set(probes.coverage.covered()))
        lab.ip("-6", "route", "add", "default", "via", "fd88:1::2")
        await probes.covers(first, second)
        # The pod's packets are seen where they leave the pod, and so are those of the bridge.
        pod = lab.ifindex(lab.add_pod().interface)
        lab.ip("route", "add", "128.0.0.0/1", "via", "10.77.0.2")
        await probes.covers(first, second, pod)
        assert bridge not in probes.coverage.covered()


async def test_no_other_one_is_if_uplinks_are_named(lab: Lab) -> None:
    lab.add_uplink("up1")
    other = lab.add_uplink("up2", 2)
    lab.ip("route", "add", "default", "via", "10.88.1.2")
    settings = SourceSettings(interfaces=InterfacePatterns(uplinks=(other.interface,)))
    async with running(lab, settings) as probes:
        await probes.covers(lab.ifindex("up2"))
        await probes.until(lambda: probes.networks)
        assert {lab.ifindex("up2")} == set(probes.coverage.covered())


async def test_addresses_of_the_node_are_the_host_and_those_outside_the_world(lab: Lab) -> None:
    lab.add_uplink("up1")
    lab.ip("route", "add", "default", "via", "10.88.1.2")
    async with running(lab) as probes:
        await probes.until(lambda: probes.networks)
        for own in ("10.77.0.1", "fd77::1", "10.88.1.1", "127.0.0.53", "::1"):
            assert identity(probes, own) == HOST, own
        for outside in ("10.88.1.2", "192.0.2.1", "10.78.0.1", "2001:db8::1"):
            assert identity(probes, outside) == WORLD, outside
        # Nobody can tell these from pods.
        for near in ("10.77.0.9", "fd77::9"):
            assert identity(probes, near) == 0, near
        lab.ip("addr", "add", "192.0.2.1/32", "dev", "br0")
        lab.ip("route", "add", "10.78.0.0/16", "via", "10.88.1.2")
        await probes.until(lambda: identity(probes, "192.0.2.1") == HOST)
        await probes.until(lambda: identity(probes, "10.78.0.1") == 0)
        lab.ip("addr", "del", "192.0.2.1/32", "dev", "br0")
        await probes.until(lambda: identity(probes, "192.0.2.1") == WORLD)


async def test_addresses_that_kube_proxy_has_for_services_are_not_the_hosts(lab: Lab) -> None:
    lab.ip("link", "add", "kube-ipvs0", "type", "bridge")  # a dummy there; this stays down as well
    for address in ("10.96.0.1/32", "fd96::1/128", "10.77.0.1/32"):  # the last one br0 has, too
        lab.ip("addr", "add", address, "dev", "kube-ipvs0")
    async with running(lab) as probes:
        await probes.until(lambda: probes.networks)
        for service in ("10.96.0.1", "fd96::1"):
            assert identity(probes, service) == 0, service
        assert identity(probes, "10.77.0.1") == HOST
        lab.ip("addr", "add", "10.96.0.2/32", "dev", "kube-ipvs0")
        assert identity(probes, "10.96.0.2") == WORLD
        await probes.until(lambda: identity(probes, "10.96.0.2") == 0)


async def test_pods_at_a_bridge_that_is_the_uplink_are_not_the_world(lab: Lab) -> None:
    lab.ip("route", "add", "default", "via", "10.77.0.254")
    async with running(lab) as probes:
        await probes.until(lambda: probes.networks)
        assert identity(probes, "10.77.0.2") == WORLD
        pod = lab.add_pod()
        await probes.until(lambda: identity(probes, pod.ipv4) == 0)
        assert identity(probes, "192.0.2.1") == WORLD


async def test_nobody_is_the_world_where_routes_are_too_many_to_read(lab: Lab) -> None:
    ip_lines(lab.node, *(f"route add 198.18.{i >> 8}.{i & 255} dev br0" for i in range(4096)))
    async with running(lab) as probes:
        await probes.until(lambda: probes.networks)
        for address in ("198.18.15.255", "192.0.2.1", "2001:db8::1"):
            assert identity(probes, address) == 0, address
        assert identity(probes, "10.77.0.1") == HOST


async def test_nobody_is_the_world_until_routes_can_be_read(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = threading.Event()

    def read() -> Routing:
        if allowed.is_set():
            return read_routing()
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(node_interfaces, "read_routing", read)
    monkeypatch.setattr(node_interfaces, "_RETRY", 0.1)
    async with running(lab) as probes:
        await probes.until(lambda: probes.networks)
        assert identity(probes, "192.0.2.1") == 0
        assert ("probe.no_routing", {"reason": "no"}) in probes.log.lines
        allowed.set()
        await probes.until(lambda: identity(probes, "192.0.2.1") == WORLD)
        assert identity(probes, "10.77.0.1") == HOST


def test_routes_and_addresses_equal_those_that_ip_shows(lab: Lab) -> None:
    lab.add_pod()
    for number in (1, 2):
        lab.add_uplink(f"up{number}", number)
    lab.ip("route", "add", "default", "nexthop", "via", "10.88.1.2", "nexthop", "via", "10.88.2.2")
    lab.ip("-6", "route", "add", "default", "via", "fd88:2::2", "table", "9")
    lab.ip("route", "add", "198.51.100.7", "via", "inet6", "fd88:1::2")
    lab.ip("route", "add", "blackhole", "198.51.100.8")
    with inside(lab.node):
        routing = read_routing()
    assert {lab.ifindex("up1"), lab.ifindex("up2")} == set(routing.default_interfaces())
    shown = {
        sixteen(address["local"]): {link["ifindex"]}
        for link in json.loads(lab.ip("-j", "addr", "show"))
        for address in link["addr_info"]
    }
    assert shown == routing.addresses
    for family, offset in (("-4", 96), ("-6", 0)):
        routes = [
            (route["dst"], "gateway" in route or "via" in route or "nexthops" in route)
            for route in json.loads(
                lab.ip(family, "-j", "route", "show", "table", "all", "type", "unicast")
            )
        ]
        any_ = "0.0.0.0/0" if offset else "::/0"
        expected = [
            (sixteen(address), int(length) + offset if length else 128, gateway)
            for dst, gateway in routes
            for address, _, length in [(any_ if dst == "default" else dst).partition("/")]
        ]
        found = [
            (route.destination, route.length, route.has_gateway)
            for route in routing.routes
            if (route.destination[:12] == sixteen("0.0.0.0")[:12]) is bool(offset)
        ]
        assert sorted(expected) == sorted(found)
