from __future__ import annotations

import pytest

from native_probes.interfaces import InterfacePatterns, ways_in
from native_probes.links import Link

VETH = Link(7, "veth12ab", kind="veth", lower=2)
CHOSEN = {
    "a pod's veth": (VETH, True),
    "of Azure's plugin": (Link(8, "azv3f", kind="veth"), True),
    "of Amazon's plugin": (Link(9, "eni0a1b", kind="veth"), True),
    "hardware": (Link(2, "ens5"), True),
    "a bond": (Link(3, "bond0", kind="bond"), True),
    "hardware in a bond": (Link(2, "ens5", master=3, slave_kind="bond"), False),
    "the loopback": (Link(1, "lo", is_loopback=True), False),
    "a bridge": (Link(4, "cni0", kind="bridge"), False),
    "a tunnel": (Link(5, "flannel.1", kind="vxlan"), False),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_by_default_pods_and_uplinks_are(name: str) -> None:
    link, chosen = CHOSEN[name]
    assert chosen is InterfacePatterns().match(link)


def test_named_uplinks_are_the_only_ones() -> None:
    patterns = InterfacePatterns(uplinks=("wg*",))
    assert patterns.match(Link(6, "wg0", kind="wireguard", has_link_header=False))
    assert not patterns.match(Link(2, "ens5"))
    assert patterns.match(VETH)


def test_what_is_excluded_is_not() -> None:
    assert not InterfacePatterns(excluded=("veth1*",)).match(VETH)


def test_packets_that_come_by_a_bridge_of_pods_have_been_seen() -> None:
    bridge, port = Link(4, "cni0", kind="bridge"), Link(7, "veth1", kind="veth", master=4)
    assert {4, 7} == ways_in([bridge, port], [7])


def test_packets_that_come_by_a_vlan_of_an_uplink_have_been_seen() -> None:
    uplink, vlan = Link(2, "ens5"), Link(3, "ens5.9", kind="vlan", lower=2)
    assert {2, 3} == ways_in([vlan, uplink], [2])


def test_the_number_of_an_interface_elsewhere_is_none_of_here() -> None:
    uplink, ours = Link(2, "ens5"), Link(3, "eth0", kind="macvlan", lower=2, peer_namespace=0)
    assert {2} == ways_in([ours, uplink], [2])


def test_without_named_uplinks_a_default_route_makes_one_of_what_is_not_excluded() -> None:
    eth0, loopback = Link(3, "eth0", kind="veth"), Link(1, "lo", is_loopback=True)
    assert InterfacePatterns().may_be_uplink(eth0)
    assert not InterfacePatterns().may_be_uplink(loopback)
    assert not InterfacePatterns(uplinks=("ens*",)).may_be_uplink(eth0)
    assert not InterfacePatterns(excluded=("eth*",)).may_be_uplink(eth0)


def test_packets_that_come_out_of_a_tunnel_have_not() -> None:
    uplink, tunnel = Link(2, "ens5"), Link(3, "flannel.1", kind="vxlan", lower=2)
    assert {2} == ways_in([tunnel, uplink], [2])
