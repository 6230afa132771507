from __future__ import annotations

import pytest

from native_probes import leftovers
from native_probes.interfaces import InterfacePatterns
from native_probes.source import SourceSettings
from native_probes.tc import TcHooks
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS
from tests.kernel.lab import Lab, inside
from tests.kernel.running import running
from tests.kernel.senders import send_udp


async def test_pods_there_before_and_pods_that_come_are_covered(lab: Lab) -> None:
    early = lab.add_pod()
    async with running(lab) as probes:
        await probes.covers(lab.ifindex(early.interface))
        late = lab.add_pod()
        await probes.covers(lab.ifindex(late.interface))
        send_udp(late.namespace, (early.ipv4, 9999), [100] * 7)
        await probes.until(lambda: probes.traffic(destination_port=9999)["skbs"].sum() >= 14)
    sent = probes.traffic(destination_port=9999)
    assert 7 == sent[sent["point"] == POINT_INGRESS]["skbs"].sum()
    assert 7 == sent[sent["point"] == POINT_EGRESS]["skbs"].sum()
    first = probes.traffic(destination_port=9999, first=True)
    assert 7 == first["skbs"].sum()
    assert {lab.ifindex(late.interface)} == set(first["ifindex"])
    assert set(probes.lost()) <= {("traffic", "not_covered")}


async def test_a_veth_with_both_ends_in_the_node_counts_once(lab: Lab) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    lab.ip("link", "add", "br1", "type", "bridge", "mcast_snooping", "0")
    lab.ip("link", "set", "br1", "up")
    lab.ip("link", "add", "vetha", "type", "veth", "peer", "name", "vethb")
    lab.ip("link", "set", "vetha", "master", "br0", "up")
    lab.ip("link", "set", "vethb", "master", "br1", "up")
    lab.ip("link", "set", other.interface, "master", "br1")
    indices = {name: lab.ifindex(name) for name in ("vetha", "vethb", pod.interface)}
    async with running(lab) as probes:
        await probes.covers(*indices.values(), lab.ifindex(other.interface))
        send_udp(pod.namespace, (other.ipv4, 9999), [100] * 7)
        await probes.until(lambda: probes.traffic(destination_port=9999)["skbs"].sum() >= 28)
    first = probes.traffic(destination_port=9999, first=True)
    assert 7 == first["skbs"].sum()
    assert {indices[pod.interface]} == set(first["ifindex"])


async def test_what_was_counted_last_is_delivered_at_the_end(lab: Lab) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    async with running(lab) as probes:
        await probes.covers(lab.ifindex(pod.interface), lab.ifindex(other.interface))
        send_udp(pod.namespace, (other.ipv4, 9999), [10] * 500)
    assert 500 == probes.traffic(destination_port=9999, first=True)["skbs"].sum()


async def test_only_interfaces_with_a_wanted_name_are_covered(lab: Lab) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    settings = SourceSettings(interfaces=InterfacePatterns(pods=(other.interface,)))
    async with running(lab, settings) as probes:
        await probes.covers(lab.ifindex(other.interface))
        assert lab.ifindex(pod.interface) not in probes.coverage.covered()
        lab.ip("link", "set", pod.interface, "down")
        lab.ip("link", "set", other.interface, "down")
        lab.ip("link", "set", other.interface, "name", "renamed")
        await probes.until(lambda: not probes.coverage.covered())


async def test_a_bridge_that_loses_a_port_leaves_it_covered(lab: Lab) -> None:
    pod = lab.add_pod()
    ifindex = lab.ifindex(pod.interface)
    async with running(lab) as probes:
        await probes.covers(ifindex)
        lab.ip("link", "set", pod.interface, "nomaster")
        later = lab.add_pod()  # whose news come after the port's
        await probes.covers(lab.ifindex(later.interface), ifindex)


@pytest.mark.parametrize("tcx", [True, False])
async def test_nothing_is_left_behind(lab: Lab, *, tcx: bool) -> None:
    pod = lab.add_pod()
    async with running(lab, hooks=TcHooks(tcx=tcx)) as probes:
        await probes.covers(lab.ifindex(pod.interface))
        with inside(lab.node):
            assert (len(leftovers.find_leftovers()) == 0) is tcx
    with inside(lab.node):
        assert leftovers.find_leftovers() == []


async def test_filters_that_outlived_an_agent_go_and_others_stay(lab: Lab) -> None:
    pod = lab.add_pod()
    ifindex = lab.ifindex(pod.interface)
    lab.tc("qdisc", "add", "dev", pod.interface, "clsact")
    theirs = (
        "dev",
        pod.interface,
        "ingress",
        "protocol",
        "ip",
        "prio",
        "7",
        "handle",
        "0x9",
        "u32",
        "match",
        "ip",
        "dport",
        "4",
        "0xffff",
        "flowid",
        "1:1",
    )
    lab.tc("filter", "add", *theirs)
    with inside(lab.node):
        assert leftovers.find_leftovers() == []
    async with running(lab, hooks=TcHooks(tcx=False)) as probes:
        await probes.covers(ifindex)
        with inside(lab.node):
            left = leftovers.find_leftovers()
        assert {(ifindex, POINT_INGRESS), (ifindex, POINT_EGRESS)} == {
            (f.ifindex, f.point) for f in left
        }
        async with running(
            lab, SourceSettings(interfaces=InterfacePatterns(pods=("none",)))
        ) as later:
            await later.until(lambda: later.coverage.statistics().leftovers == 2)
    assert "ciliary" not in lab.tc("filter", "show", "dev", pod.interface, "ingress")
    assert "u32" in lab.tc("filter", "show", "dev", pod.interface, "ingress")
    assert "clsact" in lab.tc("qdisc", "show", "dev", pod.interface)
