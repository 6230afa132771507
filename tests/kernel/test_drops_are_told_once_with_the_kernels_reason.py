from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from native_probes.drops import DropProbe, DropSettings
from native_probes.engine import LibbpfEngine
from native_probes.family import Place
from native_probes.kernel_enums import enum_members
from parsers.probe_drops import HAS_VLAN, HOOKS, symbol_name
from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside, run
from tests.kernel.netem import losing
from tests.kernel.tracing import address, inode, ip, listening, namespaces, wait_for

INGRESS, EGRESS = 1, 2
PEEK_OFFSET = 42  # SO_PEEK_OFF of asm-generic/socket.h
SO_RCVBUFFORCE = 33  # likewise
TBF = ("rate", "8kbit", "burst", "1600", "limit", "1600")  # room for one or two packets


@pytest.fixture
def probe(lab: Lab, pods: tuple[Pod, Pod]) -> Iterator[DropProbe]:
    probe = DropProbe(Place(LibbpfEngine(), namespaces=namespaces(lab)), DropSettings())
    try:
        yield probe
    finally:
        probe.close()


def send(source: str, address: str, port: int, *, size: int = 32, count: int = 1) -> int:
    """The source's port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(source), socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.bind(("", 0))
        for _ in range(count):
            with suppress(PermissionError):  # how a drop at OUTPUT comes back
                udp.sendto(bytes(size), (address, port))
        return int(udp.getsockname()[1])


def names(probe: DropProbe, reasons: NDArray[np.generic] | np.generic) -> set[str]:
    """Of reasons, as the kernel has them."""
    return {probe.reasons.name(int(reason)) for reason in np.atleast_1d(reasons)}


def known(probe: DropProbe, name: str) -> set[str]:
    """The name of a reason, on kernels that have reasons: Linux 5.10 has none."""
    return {name if probe.reasons.numbers else "NOT_SPECIFIED"}


@pytest.fixture
def hooks() -> None:
    """Skips where the stack of a drop cannot be had."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (5, 13):
        pytest.skip("the hook of a drop needs Linux 5.13")


class Seen:
    """What the probe tells until a datagram to ``marker`` has been seen, of one port or all."""

    def __init__(self, probe: DropProbe, source: Pod, marker: Pod) -> None:
        self.probe = probe
        self.rows: list[Columns] = []
        self._marker = source, marker

    def of(self, port: int) -> Columns:
        drops = self.everything()
        found: Columns = drops[drops["destination_port"] == port]
        return found

    def everything(self) -> Columns:
        source, marker = self._marker
        last = send(source.namespace, marker.ipv4, 60999)
        self.rows.clear()

        def marked() -> bool:
            self.rows.append(self.probe.last_drain().records["drops"])
            return bool((self.rows[-1]["source_port"] == last).any())

        wait_for(marked)
        return np.concatenate(self.rows)


@pytest.fixture
def seen(probe: DropProbe, pods: tuple[Pod, Pod]) -> Seen:
    return Seen(probe, *pods)


def the_one(drops: Columns) -> np.void:
    assert len(drops) == 1, [symbol_name(drop["symbol"]) for drop in drops]
    drop: np.void = drops[0]
    return drop


@pytest.mark.parametrize("family", [4, 6])
def test_a_datagram_to_a_closed_port_is_dropped_for_want_of_a_socket(
    lab: Lab, pods: tuple[Pod, Pod], probe: DropProbe, seen: Seen, family: int
) -> None:
    source, target = pods
    port = send(source.namespace, address(target, family), 60001)
    drop = the_one(seen.of(60001))
    assert names(probe, drop["reason"]) == known(probe, "NO_SOCKET")
    assert (address(source, family), port) == (ip(drop["source_ip"]), drop["source_port"])
    assert address(target, family) == ip(drop["destination_ip"])
    assert (family, 17, INGRESS) == (drop["ip_version"], drop["protocol"], drop["direction"])
    assert inode(target.namespace) == drop["netns"]
    assert drop["length"] == 8 + 32
    assert symbol_name(drop["symbol"]).endswith("rcv")


@pytest.mark.parametrize("family", [4, 6])
def test_a_datagram_of_many_fragments_is_one_drop(
    pods: tuple[Pod, Pod], seen: Seen, family: int
) -> None:
    source, target = pods
    send(source.namespace, address(target, family), 60002, size=9000)
    assert the_one(seen.of(60002))["length"] == 8 + 9000


NFT = """
table inet ciliary {
  chain prerouting { type filter hook prerouting priority 0; udp dport 60011 drop; }
  chain input { type filter hook input priority 0; udp dport 60012 drop; }
  chain forward { type filter hook forward priority 0; udp dport 60013 drop; }
  chain output { type filter hook output priority 0; udp dport 60014 drop; }
  chain postrouting { type filter hook postrouting priority 0; udp dport 60015 drop; }
}
"""


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("family", [4, 6])
def test_netfilter_drops_name_their_hook(
    pods: tuple[Pod, Pod], probe: DropProbe, seen: Seen, tmp_path: Path, family: int
) -> None:
    source, target = pods
    rules = tmp_path / "rules"
    rules.write_text(NFT)
    hooks = {60011: "PREROUTING", 60012: "INPUT", 60014: "OUTPUT", 60015: "POSTROUTING"}
    for at, ports in ((target, (60011, 60012)), (source, (60014, 60015))):
        run("ip", "netns", "exec", at.namespace, "nft", "-f", str(rules))
        for port in ports:
            send(source.namespace, address(target, family), port, count=3)
    everything = seen.everything()
    for port, hook in hooks.items():
        leaves = hook in ("OUTPUT", "POSTROUTING")
        drops = everything[everything["destination_port"] == port]
        assert [hook] * 3 == [HOOKS[drop["hook"]] for drop in drops]
        assert known(probe, "NETFILTER_DROP") == names(probe, drops["reason"])
        assert {EGRESS if leaves else INGRESS} == set(drops["direction"])
        assert {inode((source if leaves else target).namespace)} == set(drops["netns"])


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("family", [4, 6])
def test_a_forwarded_packet_that_netfilter_drops_names_the_hook(
    lab: Lab, probe: DropProbe, pods: tuple[Pod, Pod], seen: Seen, tmp_path: Path, family: int
) -> None:
    source, target = pods
    rules = tmp_path / "rules"
    rules.write_text(NFT)
    run("ip", "netns", "exec", lab.node, "nft", "-f", str(rules))
    with inside(lab.node):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    far = "10.99.0.1" if family == 4 else "fd99::1"
    gateway = "10.77.0.1" if family == 4 else "fd77::1"
    prefix = 32 if family == 4 else 128
    inner = ("ip", f"-{family}", "-n", source.namespace)
    run(*inner, "route", "add", f"{far}/{prefix}", "via", gateway)
    lab.ip(f"-{family}", "route", "add", f"{far}/{prefix}", "via", address(target, family))
    send(source.namespace, far, 60013)
    drop = the_one(seen.of(60013))
    assert HOOKS[drop["hook"]] == "FORWARD"
    assert lab.ifindex("br0") == drop["interface"]


@pytest.mark.usefixtures("hooks")
@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_both_iptables_are_recognised(
    pods: tuple[Pod, Pod], probe: DropProbe, seen: Seen, program: str
) -> None:
    source, target = pods
    run(
        "ip", "netns", "exec", target.namespace, program, "-A", "INPUT", "-p", "udp", "--dport",
        "60021", "-j", "DROP",
    )  # fmt: skip
    send(source.namespace, target.ipv4, 60021)
    drop = the_one(seen.of(60021))
    assert names(probe, drop["reason"]) == known(probe, "NETFILTER_DROP")
    assert HOOKS[drop["hook"]] == "INPUT"


def test_a_full_queue_of_an_interface_is_a_drop_on_the_way_out(
    pods: tuple[Pod, Pod], probe: DropProbe, seen: Seen
) -> None:
    source, target = pods
    slow = ("tc", "-n", source.namespace, "qdisc")
    run(*slow, "add", "dev", "eth0", "root", "tbf", *TBF)
    sent = 20
    port = send(source.namespace, target.ipv4, 60031, size=1000, count=sent)
    run(*slow, "del", "dev", "eth0", "root")
    drops = seen.of(60031)
    dropped = drops[drops["direction"] == EGRESS]
    arrived = drops[drops["direction"] == INGRESS]  # at a closed port
    # what waited when the queue was removed is purged, which is quiet by default
    assert sent - 2 <= len(dropped) + len(arrived) <= sent
    assert len(dropped) >= sent - 3
    assert known(probe, "QDISC_DROP") <= names(probe, dropped["reason"])
    assert {port} == set(drops["source_port"])


@pytest.mark.parametrize("family", [4, 6])
def test_losses_of_netem_are_told_as_often_as_it_counts_them(
    lab: Lab, pods: tuple[Pod, Pod], probe: DropProbe, seen: Seen, family: int
) -> None:
    source, target = pods
    lab.introduce(source)  # so nobody asks for a neighbour, whose packets could be lost
    sent = 200
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with inside(target.namespace), socket.socket(kind, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20)
        receiver.bind((address(target, family), 60032))
        with losing(source.namespace, 40) as lost:
            port = send(source.namespace, address(target, family), 60032, count=sent)
            expected = lost()
        drops = seen.of(60032)
        receiver.setblocking(False)
        received = 0
        with suppress(BlockingIOError):
            while receiver.recv(100):
                received += 1
    assert 0 < expected < sent
    assert expected == len(drops) == sent - received
    assert {port} == set(drops["source_port"])
    assert {EGRESS} == set(drops["direction"])
    assert {inode(source.namespace)} == set(drops["netns"])
    assert known(probe, "QDISC_DROP") == names(probe, drops["reason"])
    (place,) = {symbol_name(drop["symbol"]) for drop in drops}
    assert place in {
        "kfree_skb_list",  # 5.10
        "__dev_queue_xmit",
        "kfree_skb_list_reason",  # 6.1
        "__tcf_kfree_skb_list",  # 7.3
    }


def test_a_full_socket_is_a_drop_where_it_belongs(
    pods: tuple[Pod, Pod], probe: DropProbe, seen: Seen
) -> None:
    source, target = pods
    with inside(target.namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        deaf.bind((target.ipv4, 60041))
        sent = 200
        send(source.namespace, target.ipv4, 60041, size=1000, count=sent)
        drops = seen.of(60041)
        deaf.setblocking(False)
        received = 0
        while True:
            try:
                deaf.recv(2000)
            except BlockingIOError:
                break
            received += 1
    assert sent - received == len(drops)
    assert known(probe, "SOCKET_RCVBUFF") == names(probe, drops["reason"])
    assert {inode(target.namespace)} == set(drops["netns"])


def test_what_a_closed_socket_has_not_read_is_quiet_whosever_it_was(
    pods: tuple[Pod, Pod], probe: DropProbe
) -> None:
    source, target = pods
    for target_address in (target.ipv4, target.ipv6):
        family = socket.AF_INET6 if ":" in target_address else socket.AF_INET
        with inside(target.namespace), socket.socket(family, socket.SOCK_DGRAM) as lazy:
            lazy.bind((target_address, 60043))
            lazy.settimeout(30)
            lazy.setsockopt(socket.SOL_SOCKET, PEEK_OFFSET, 0)  # look at one after the other
            send(source.namespace, target_address, 60043, count=10)
            for _ in range(10):
                lazy.recv(100, socket.MSG_PEEK)
    told = ignored = 0

    def all_counted() -> bool:  # which is a while after the socket is closed
        nonlocal told, ignored
        drained = probe.last_drain()
        told += sum(
            symbol_name(drop["symbol"]).startswith("udp") for drop in drained.records["drops"]
        )
        ignored += drained.ignored.get("quiet", 0)
        return told + ignored >= 20

    wait_for(all_counted)
    assert told == 0


@pytest.mark.parametrize("tags", [1, 2])
def test_the_vlan_of_a_dropped_packet_is_told(pods: tuple[Pod, Pod], seen: Seen, tags: int) -> None:
    source, target = pods
    slow = ("tc", "-n", source.namespace, "qdisc")
    run(*slow, "add", "dev", "eth0", "root", "tbf", *TBF)
    # the kernel that this was written on has no VLAN devices, so frames are made by hand
    datagram = struct.pack(">HHHH", 60050, 60051, 8 + 1000, 0) + bytes(1000)
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0,
        socket.inet_aton(source.ipv4), socket.inet_aton(target.ipv4),
    )  # fmt: skip
    outer = struct.pack(">HH", 0x88A8, 7) + struct.pack(">HH", 0x8100, 8)
    tag = outer if tags == 2 else struct.pack(">HH", 0x8100, 7)
    frame = b"\2\0\0\0\0\1" + b"\2\0\0\0\0\2" + tag + b"\x08\x00" + header + datagram
    with inside(source.namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        for _ in range(10):
            with suppress(OSError):  # no room: that is the drop
                raw.send(frame)
    run(*slow, "del", "dev", "eth0", "root")
    drops = seen.of(60051)
    drops = drops[drops["direction"] == EGRESS]  # a receiver takes tags off as it goes on
    assert len(drops)
    assert {7} == set(drops["vlan"] & 0xFFF)
    assert HAS_VLAN == drops["flags"][0] & HAS_VLAN
    assert {target.ipv4} == {ip(drop["destination_ip"]) for drop in drops}
    assert b"\2\0\0\0\0\2" == drops["source_mac"][0].tobytes()


@pytest.mark.parametrize(
    "quiet", [("NO_SOCKET",), ("NO_SOCKET@udp_rcv", "NO_SOCKET@__udp4_lib_rcv")]
)
def test_what_is_quiet_is_counted_and_not_told(
    pods: tuple[Pod, Pod], quiet: tuple[str, ...]
) -> None:
    source, target = pods
    own = frozenset({inode(target.namespace)})
    probe = DropProbe(Place(LibbpfEngine(), namespaces=own), DropSettings(quiet=quiet))
    try:
        told = ignored = 0

        def all_counted() -> bool:
            nonlocal told, ignored
            drained = probe.last_drain()
            told += len(drained.records["drops"])
            ignored += drained.ignored.get("quiet", 0)
            return ignored == 6

        for _ in range(2):  # the second time by what the first taught
            send(source.namespace, target.ipv4, 60061, count=3)
        wait_for(all_counted)
        assert told == 0
    finally:
        probe.close()


def test_drops_in_foreign_namespaces_are_counted_and_not_told(pods: tuple[Pod, Pod]) -> None:
    source, target = pods
    own = frozenset({inode(source.namespace)})
    probe = DropProbe(Place(LibbpfEngine(), namespaces=own), DropSettings())
    try:
        send(source.namespace, target.ipv4, 60071, count=3)
        told = ignored = 0

        def all_counted() -> bool:
            nonlocal told, ignored
            drained = probe.last_drain()
            told += len(drained.records["drops"])
            ignored += drained.ignored.get("foreign", 0)
            return ignored >= 3

        wait_for(all_counted)
        assert told == 0
    finally:
        probe.close()


def test_a_full_ring_is_counted(pods: tuple[Pod, Pod]) -> None:
    source, target = pods
    own = frozenset({inode(target.namespace)})
    probe = DropProbe(Place(LibbpfEngine(), namespaces=own), DropSettings(ring_bytes=4096))
    try:
        sent = 100
        send(source.namespace, target.ipv4, 60081, count=sent)
        told = lost = 0

        def all_seen() -> bool:
            nonlocal told, lost
            drained = probe.last_drain()
            told += len(drained.records["drops"])
            lost += drained.lost.get("ring_full", 0)
            return told + lost == sent

        wait_for(all_seen)
        assert lost > 0
        assert told > 0
    finally:
        probe.close()


def test_a_segment_that_tcp_drops_is_told_with_its_namespace(
    lab: Lab, pods: tuple[Pod, Pod], probe: DropProbe
) -> None:
    source, target = pods
    with listening(target.namespace, target.ipv4) as server:
        with inside(source.namespace):
            client = socket.create_connection(server.getsockname()[:2], 10)
        port = client.getsockname()[1]
        accepted, _ = server.accept()
    # closed with data unread and nobody to take what still comes
    accepted.shutdown(socket.SHUT_RDWR)
    accepted.close()
    rows: list[Columns] = []

    def dropped() -> bool:
        with suppress(OSError):
            client.send(b"too late")
        drops = probe.last_drain().records["drops"]
        rows.append(drops[drops["source_port"] == port])
        return bool(len(rows[-1]))

    with client:
        wait_for(dropped)
    (drop, *_) = np.concatenate(rows)
    if tells_receivers():  # and then it has reasons for this, too
        assert probe.reasons.name(drop["reason"]).startswith(("TCP_", "NO_SOCKET"))
        assert drop["netns"] == inode(target.namespace)


def tells_receivers() -> bool:
    """Since 6.10 the kernel says which socket a dropped packet was for."""
    return bool(enum_members("sk_rst_reason"))
