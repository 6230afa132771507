from __future__ import annotations

import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator

import pytest

from parsers.probe_records import (
    KIND_FRAGMENT,
    KIND_MALFORMED,
    POINT_EGRESS,
    POINT_INGRESS,
    TUNNEL_GRE,
    TUNNEL_IPIP,
    TUNNEL_VXLAN,
)
from tests.kernel import frames
from tests.kernel.covered import Counting, counting
from tests.kernel.frames import ethernet, extension, ipv4, ipv6
from tests.kernel.lab import Lab, inside, run
from tests.kernel.senders import send_udp, started
from tests.kernel.tracing import wait_for

A4, B4, A6, B6 = "10.77.0.2", "10.77.0.3", "fd77::2", "fd77::3"
NO_OPERATION = bytes([1] * 8)


@pytest.fixture
def pods(lab: Lab) -> Iterator[Counting]:
    """Two pods, of which the first is A and the second is B."""
    with counting(lab) as counted:
        counted.add_pod()
        counted.add_pod()
        yield counted


HAND_MADE = {
    "IPv4 with options": (
        frames.IPV4, ipv4(A4, B4, 17, frames.udp(5, 6), options=NO_OPERATION),
        {"family": 4, "protocol": 17, "source_port": 5, "destination_port": 6},
    ),
    "a later fragment": (
        frames.IPV4, ipv4(A4, B4, 17, bytes(64), offset=100),
        {"family": 4, "protocol": 17, "source_port": 0, "kind": KIND_FRAGMENT},
    ),
    "IPv6 with three extension headers": (
        frames.IPV6,
        ipv6(A6, B6, frames.HOP_BY_HOP,
             extension(frames.DESTINATION) + extension(frames.ROUTING, words=3)
             + extension(17) + frames.udp(7, 8)),
        {"family": 6, "protocol": 17, "source_port": 7, "destination_port": 8},
    ),
    "IPv6 with an authentication header": (
        frames.IPV6, ipv6(A6, B6, frames.AUTHENTICATION,
                          frames.authentication(6) + frames.tcp(9, 10, 0x10)),
        {"family": 6, "protocol": 6, "source_port": 9, "destination_port": 10, "tcp_flags": 0x10},
    ),
    "a first fragment of IPv6": (
        frames.IPV6, ipv6(A6, B6, frames.FRAGMENT, frames.fragment(17, 0) + frames.udp(7, 9)),
        {"family": 6, "protocol": 17, "source_port": 7, "destination_port": 9, "kind": 0},
    ),
    "a later fragment of IPv6": (
        frames.IPV6, ipv6(A6, B6, frames.FRAGMENT, frames.fragment(17, 9) + bytes(32)),
        {"family": 6, "protocol": 17, "source_port": 0, "kind": KIND_FRAGMENT},
    ),
    "SCTP": (
        frames.IPV4, ipv4(A4, B4, frames.SCTP, frames.sctp(11, 12)),
        {"protocol": 132, "source_port": 11, "destination_port": 12},
    ),
    "SCTP over IPv6": (
        frames.IPV6, ipv6(A6, B6, frames.SCTP, frames.sctp(11, 12)),
        {"family": 6, "protocol": 132, "source_port": 11, "destination_port": 12},
    ),
    "an ICMP error": (
        frames.IPV4, ipv4(A4, B4, frames.ICMP, bytes([11, 1]) + bytes(34)),
        {"protocol": 1, "icmp_type": 11, "icmp_code": 1, "source_port": 0},
    ),
    "an ICMPv6 error": (
        frames.IPV6, ipv6(A6, B6, frames.ICMPV6, bytes([3, 1]) + bytes(34)),
        {"protocol": 58, "icmp_type": 3, "icmp_code": 1, "source_port": 0},
    ),
    "VXLAN": (
        frames.IPV4, ipv4(A4, B4, 17, frames.udp(40000, 8472, bytes(64))),
        {"protocol": 17, "destination_port": 8472, "tunnel": TUNNEL_VXLAN},
    ),
    "GRE": (
        frames.IPV4, ipv4(A4, B4, 47, bytes(32)), {"protocol": 47, "tunnel": TUNNEL_GRE},
    ),
    "IPv4 in IPv6": (
        frames.IPV6, ipv6(A6, B6, 4, ipv4(A4, B4, 17, frames.udp(1, 2))),
        {"family": 6, "protocol": 4, "tunnel": TUNNEL_IPIP},
    ),
    "an unknown protocol": (
        frames.IPV4, ipv4(A4, B4, 253, bytes(32)), {"family": 4, "protocol": 253},
    ),
    "no IP at all": (0x88B5, bytes(60), {"family": 0, "ethertype": 0x88B5, "protocol": 0}),
    "an IPv4 header that is cut off": (
        frames.IPV4, ipv4(A4, B4, 17, b"")[:10], {"kind": KIND_MALFORMED},
    ),
    "a TCP header that is cut off": (
        frames.IPV4, ipv4(A4, B4, 6, frames.tcp(13, 14, 2)[:6]),
        {"protocol": 6, "source_port": 13, "destination_port": 14, "kind": KIND_MALFORMED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HAND_MADE)
def test_a_packet_made_by_hand_is_known_for_what_it_is(name: str, pods: Counting) -> None:
    kind, body, expected = HAND_MADE[name]
    sender, receiver = pods.lab.pods
    mac = pods.lab.mac
    frame = ethernet(mac(sender.namespace, "eth0"), mac(receiver.namespace, "eth0"), kind, body)
    with inside(sender.namespace):
        frames.send_frames("eth0", [frame] * 3)
    seen = pods.reports(ifindex=pods.lab.ifindex(sender.interface), point=POINT_INGRESS, **expected)
    assert 3 == seen["skbs"].sum()
    assert 3 * len(frame) == seen["bytes"].sum()
    pods.equals_the_interface(sender)


@pytest.mark.parametrize(
    "tags", [((frames.VLAN, 5),), ((frames.SERVICE_VLAN, 5), (frames.VLAN, 6))], ids=["one", "two"]
)
def test_the_packet_behind_vlan_tags_is_found(
    tags: tuple[tuple[int, int], ...], pods: Counting
) -> None:
    sender, receiver = pods.lab.pods
    mac = pods.lab.mac
    body = ipv4(A4, B4, 17, frames.udp(15, 16))
    addresses = mac(sender.namespace, "eth0"), mac(receiver.namespace, "eth0")
    with inside(sender.namespace):
        frames.send_frames("eth0", [ethernet(*addresses, frames.IPV4, body, *tags)] * 4)
    wanted = {"source_port": 15, "destination_port": 16, "vlan": 5, "point": POINT_INGRESS}
    assert 4 == pods.reports(**wanted)["skbs"].sum()


@pytest.mark.parametrize("tag_beside_the_packet", [True, False])
def test_a_vlans_packets_lack_a_tag_that_came_inside_them(
    pods: Counting, *, tag_beside_the_packet: bool
) -> None:
    lab, sender = pods.lab, pods.lab.pods[0]
    offload = "on" if tag_beside_the_packet else "off"
    run("ip", "netns", "exec", sender.namespace, "ethtool", "-K", "eth0", "txvlan", offload)
    for place, below, own in ((sender.namespace, "eth0", 1), (lab.node, sender.interface, 2)):
        device = ("ip", "-n", place, "link", "add", "link", below, "name", "tagged")
        made = subprocess.run(
            [*device, "type", "vlan", "id", "5"], capture_output=True, text=True, check=False
        )
        if "Unknown device type" in made.stderr or "not supported" in made.stderr:
            pytest.skip("this kernel has no VLAN devices")
        assert made.returncode == 0, made.stderr
        run("ip", "-n", place, "addr", "add", f"10.88.5.{own}/24", "dev", "tagged")
        run("ip", "-n", place, "link", "set", "tagged", "up")
    send_udp(sender.namespace, ("10.88.5.2", 19), [100] * 5)
    there = {"vlan": 5, "point": POINT_INGRESS, "ifindex": lab.ifindex(sender.interface)}
    wait_for(lambda: 5 == pods.reports(**there, destination_port=19)["skbs"].sum())
    if tag_beside_the_packet:
        pods.equals_the_interface(sender)
        return
    counted = pods.reports(ifindex=lab.ifindex(sender.interface), point=POINT_INGRESS)
    (shown,) = json.loads(lab.ip("-s", "-j", "link", "show", sender.interface))
    received = shown["stats64"]["rx"]
    assert received["packets"] == counted["skbs"].sum()
    tagged = counted[counted["vlan"] == 5]["skbs"].sum()
    assert received["bytes"] - counted["bytes"].sum() == 4 * tagged


@pytest.mark.parametrize("destination", [B4, B6])
def test_fragments_of_a_large_datagram_are_told_apart(pods: Counting, destination: str) -> None:
    port = send_udp(pods.lab.pods[0].namespace, (destination, 18), [4000])
    first = pods.reports(point=POINT_INGRESS, source_port=port, kind=0)
    later = pods.reports(point=POINT_INGRESS, kind=KIND_FRAGMENT)
    assert [1] == first["skbs"].tolist()
    assert 2 == later["skbs"].sum()
    header = 14 + 20 if ":" not in destination else 14 + 40 + 8
    assert 4008 + 3 * header == first["bytes"].sum() + later["bytes"].sum()


@pytest.mark.parametrize("destination", [B4, B6])
def test_pings_and_their_answers_are_counted_by_type(pods: Counting, destination: str) -> None:
    sender = pods.lab.pods[0]
    v6 = ":" in destination
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    request, answer = (128, 129) if v6 else (8, 0)
    with inside(sender.namespace):
        ping = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, protocol)
    with ping:
        ping.settimeout(10)
        for number in range(6):
            echo = struct.pack("!BBHHH", request, 0, 0, 77, number)
            checksum = 0 if v6 else ~sum(struct.unpack("!4H", echo)) & 0xFFFF
            ping.sendto(echo[:2] + struct.pack("!H", checksum) + echo[4:], (destination, 0))
            while ping.recv(200)[0 if v6 else 20] != answer:
                pass
    ifindex = pods.lab.ifindex(sender.interface)
    icmp = pods.reports(protocol=protocol, ifindex=ifindex)
    sent = icmp[(icmp["icmp_type"] == request) & (icmp["point"] == POINT_INGRESS)]
    answered = icmp[(icmp["icmp_type"] == answer) & (icmp["point"] == POINT_EGRESS)]
    assert 6 == sent["skbs"].sum() == answered["skbs"].sum()


@pytest.mark.parametrize("destination", [B4, B6])
def test_large_tcp_packets_count_as_the_segments_that_the_sender_sent(
    pods: Counting, destination: str
) -> None:
    sender, receiver = pods.lab.pods
    with inside(receiver.namespace):
        server = socket.create_server(("::", 19), family=socket.AF_INET6, dualstack_ipv6=True)
    got = 0

    def receive() -> None:
        nonlocal got
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(1 << 20):
                got += len(data)
                if got == 8 << 20:
                    connection.sendall(b"all")

    receiving = threading.Thread(target=receive)
    receiving.start()
    with inside(sender.namespace):
        client = socket.create_connection((destination, 19), 20)
    client.sendall(bytes(8 << 20))
    assert client.recv(3) == b"all"
    pods.equals_the_interface(sender)
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    segments_out, segments_in = struct.unpack_from("II", info, 136)
    ifindex = pods.lab.ifindex(sender.interface)
    out = pods.reports(ifindex=ifindex, destination_port=19)
    back = pods.reports(ifindex=ifindex, source_port=19)
    assert segments_out == out["packets"].sum()
    assert segments_in == back["packets"].sum()
    assert out["skbs"].sum() < out["packets"].sum()
    client.close()
    receiving.join(20)
    server.close()
    pods.equals_the_interface(sender)
    pods.equals_the_interface(receiver)
    assert pods.lost == 0


def test_large_udp_packets_count_as_their_segments(pods: Counting) -> None:
    sender = pods.lab.pods[0]
    udp_segment = 103
    with inside(sender.namespace):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp:
        udp.setsockopt(socket.IPPROTO_UDP, udp_segment, 100)
        for _ in range(10):
            udp.sendto(bytes(1000), (B4, 20))
    seen = pods.reports(destination_port=20, point=POINT_INGRESS)
    assert 100 == seen["packets"].sum()
    pods.equals_the_interface(sender)


def test_iperf3_and_the_interfaces_agree(pods: Counting) -> None:
    sender, receiver = pods.lab.pods
    command = ["ip", "netns", "exec", receiver.namespace, "iperf3", "-s", "-1", "--forceflush"]
    with started(command, "listening"):
        said = run("ip", "netns", "exec", sender.namespace, "iperf3", "-J", "-c", B4,
                   "-n", "20M", "-P", "2", "--connect-timeout", "10000")  # fmt: skip
    pods.equals_the_interface(sender)
    pods.equals_the_interface(receiver)
    received = json.loads(said)["end"]["sum_received"]["bytes"]
    ifindex = pods.lab.ifindex(sender.interface)
    out = pods.reports(ifindex=ifindex, point=POINT_INGRESS, protocol=6)
    assert received < out["bytes"].sum()
    assert pods.lost == 0
