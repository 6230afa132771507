"""A packet gives the same columns whether it goes with the others or alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.headers import Datapath, Layout, read_datapath
from parsers.packet_columns import PacketColumns, read_packets
from tests.fixtures import Payload, payloads, release_number, streams
from tests.parsers.recorded import batch_of

COLUMNS = ("key", "l4", "source_port", "destination_port", "l4_type", "l4_code", "tcp_flags")


def both_ways(
    records: Sequence[bytes], layout: Layout
) -> tuple[Datapath, PacketColumns, PacketColumns]:
    batch = batch_of([Payload(data, 0, 0, 9) for data in records])
    datapath = read_datapath(batch.buffer, batch.offset, batch.length, layout)
    start = batch.offset + datapath.length
    fast, slow = (read_packets(batch.buffer, start, datapath, fast=f) for f in (True, False))
    return datapath, fast, slow


def assert_equal(fast: PacketColumns, slow: PacketColumns) -> None:
    assert {row: str(e) for row, e in fast.refused.items()} == {
        row: str(e) for row, e in slow.refused.items()
    }
    assert fast.odd == slow.odd
    kept = np.ones(len(fast.l4), dtype=np.bool_)
    kept[list(fast.refused)] = False
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(fast, name)[kept], getattr(slow, name)[kept], name)


@pytest.mark.parametrize(("release", "mix"), streams())
def test_recorded_packets(release: str, mix: str) -> None:
    records = [p.data for p in payloads(release, mix) if p.data[:1] in (b"\1", b"\3", b"\4", b"\5")]
    if not records:
        return
    _, fast, slow = both_ways(records, Layout.of(release_number(release)))
    assert_equal(fast, slow)


numbers = st.integers(0, 0xFFFF)
macs = st.sampled_from([b"\x0a\x58\x0a\x00\x00\x07", b"\xff" * 6, bytes(6)])
v4_addresses = st.sampled_from([b"\x0a\x00\x00\x05", b"\xc6\x33\x64\x0a", bytes(4)])
v6_addresses = st.sampled_from(
    [bytes.fromhex("fd000001" + "00" * 11 + "0d"), bytes(10) + b"\xff\xff\x0a\0\0\1", bytes(16)]
)


@st.composite
def tcp(draw: st.DrawFn) -> tuple[int, bytes]:
    options = b"".join(draw(st.lists(tcp_option, max_size=6)))[:40]
    options += b"\1" * (-len(options) % 4)
    words = draw(st.one_of(st.just(5 + len(options) // 4), st.integers(0, 15)))
    flags = draw(st.integers(0, 0xFFF))
    fixed = struct.pack(
        ">HHIIHHHH", draw(numbers), draw(numbers), 1, 2, words << 12 | flags, 9, 0, 0
    )
    return 6, fixed + options


tcp_option = st.one_of(
    st.sampled_from([b"\1", b"\0", b"\2\4\5\xb4", b"\3\3\7", b"\4\2", b"\x1e\x0c" + bytes(10)]),
    st.binary(min_size=1, max_size=5),
)


@st.composite
def udp(draw: st.DrawFn) -> tuple[int, bytes]:
    length = draw(st.one_of(st.just(8), st.integers(0, 40)))
    return 17, struct.pack(">HHHH", draw(numbers), draw(numbers), length, 0)


@st.composite
def sctp(draw: st.DrawFn) -> tuple[int, bytes]:
    chunk = draw(st.one_of(st.just(b""), st.integers(0, 255).map(lambda n: bytes([n, 0, 0, 4]))))
    return 132, struct.pack(">HHII", draw(numbers), draw(numbers), 1, 2) + chunk


others = st.tuples(
    st.sampled_from([1, 58, 2, 112, 50, 47, 4, 41, 0, 43, 44, 60]), st.binary(max_size=48)
)
layers_4 = st.one_of(tcp(), udp(), sctp(), others)


@st.composite
def ipv4(draw: st.DrawFn) -> tuple[int, bytes]:
    protocol, payload = draw(layers_4)
    options = draw(st.sampled_from([b"", b"", b"", b"\x94\4\0\0", b"\1\1\1\0", b"\x07\1\0\0"]))
    words = draw(st.one_of(st.just(5 + len(options) // 4), st.integers(0, 15)))
    whole = 20 + len(options) + len(payload)
    total = draw(st.one_of(st.just(whole), st.just(0), st.integers(0, whole + 40)))
    fragment = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 0x8000, 1, 0x1FFF]))
    first = draw(st.sampled_from([0x40, 0x40, 0x60, 0])) | words
    head = struct.pack(">BBHHHBBH", first, 0, total, 7, fragment, 64, protocol, 0)
    return 0x0800, head + draw(v4_addresses) + draw(v4_addresses) + options + payload


@st.composite
def ipv6(draw: st.DrawFn) -> tuple[int, bytes]:
    protocol, payload = draw(layers_4)
    if draw(st.booleans()) and draw(st.booleans()):  # a hop-by-hop header
        payload = bytes([protocol, draw(st.integers(0, 1))]) + draw(
            st.sampled_from([b"\1\4\0\0\0\0", b"\5\2\0\0\1\0", b"\xc2\4\0\1\0\0", b"\0" * 6])
        ) + payload  # fmt: skip
        protocol = 0
    length = draw(st.one_of(st.just(len(payload)), st.integers(0, len(payload) + 40)))
    head = struct.pack(">IHBB", 0x60000000, length, protocol, 64)
    return 0x86DD, head + draw(v6_addresses) + draw(v6_addresses) + payload


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    ether_type, payload = draw(st.one_of(ipv4(), ipv6()))
    ether_type = draw(st.sampled_from([ether_type] * 6 + [0x0800, 0x86DD, 0x8100, 0x0806]))
    packet = draw(macs) + draw(macs) + struct.pack(">H", ether_type) + payload
    packet += draw(st.binary(max_size=6))
    cut = draw(st.one_of(st.just(len(packet)), st.integers(0, len(packet))))
    return packet[:cut]


@st.composite
def traces(draw: st.DrawFn) -> bytes:
    packet = draw(packets())
    captured = draw(st.one_of(st.just(len(packet)), st.integers(0, len(packet) + 8)))
    flags = draw(st.sampled_from([0] * 8 + [1, 2, 3, 4, 8]))
    head = struct.pack("<BBHIIHBBIIHBBI", 4, 3, 152, 0, 200, captured, 1, 0, 7, 8, 0, 0, flags, 2)
    return head + bytes(16) + packet + draw(st.binary(max_size=7))


@settings(deadline=None, max_examples=150)
@given(records=st.lists(traces(), min_size=1, max_size=12))
def test_invented_packets(records: list[bytes]) -> None:
    _, fast, slow = both_ways(records, Layout.of((1, 18)))
    assert_equal(fast, slow)


V4 = bytes.fromhex(
    "0a580a000007 0a580a00000c 0800 4500 0000 0007 4000 40 00 0000 0a000005 c633640a"
)
V6 = bytes.fromhex("0a580a000007 0a580a00000c 86dd 60000000 0000 00 40" + "fd" * 16 + "fe" * 16)
TCP = "9c40 1f90 00000001 00000002 b012 ffff 0000 0000"
WHOLE = {
    "tcp": (6, TCP + "020405b4 0402 080a0000000100000002 01 030307 00000000"),
    "multipath tcp": (6, TCP + "1e0c0081 0000000000000001 1e0c1001 000000010000002a"),
    "udp": (17, "9c40 0035 000a 0000 abcd"),
    "sctp": (132, "9c40 1f90 00000001 00000002 01000004"),
    "icmp": (1, "0800 0000 0001 0002"),
    "icmpv6": (58, "8000 0000 0001 0002"),
}


def ordinary(name: str, *, ipv6: bool) -> bytes:
    protocol, text = WHOLE[name]
    payload = bytes.fromhex(text)
    if ipv6:
        return V6[:18] + struct.pack(">HB", len(payload), protocol) + V6[21:] + payload
    total = struct.pack(">H", 20 + len(payload))
    return V4[:16] + total + V4[18:23] + bytes([protocol]) + V4[24:] + payload


def record_of(packet: bytes, captured: int) -> bytes:
    head = struct.pack("<BBHIIHBBIIHBBI", 4, 3, 152, 0, 200, captured, 1, 0, 7, 8, 0, 0, 0, 2)
    return head + bytes(16) + packet + b"\x01\x06\x0e\x11"  # filler that could be a chunk


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_packets_cut_at_every_byte(name: str, *, ipv6: bool) -> None:
    whole = ordinary(name, ipv6=ipv6)
    cut = [record_of(whole[:end], end) for end in range(len(whole) + 1)]
    long = [record_of(whole[:end], end + 3) for end in range(len(whole) + 1)]
    _, fast, slow = both_ways(cut + long, Layout.of((1, 18)))
    assert_equal(fast, slow)


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_packets_with_any_one_byte_changed(name: str, *, ipv6: bool) -> None:
    whole = ordinary(name, ipv6=ipv6)
    addresses = range(22, 54) if ipv6 else range(26, 34)
    changed = [
        record_of(whole[:at] + bytes([value]) + whole[at + 1 :], len(whole))
        for at in range(12, len(whole))
        if at not in addresses
        for value in range(256)
    ]
    _, fast, slow = both_ways(changed, Layout.of((1, 18)))
    assert_equal(fast, slow)


@settings(deadline=None, max_examples=50)
@given(records=st.lists(traces(), min_size=2, max_size=12))
def test_a_packet_does_not_depend_on_its_neighbours(records: list[bytes]) -> None:
    _, together, _ = both_ways(records, Layout.of((1, 18)))
    for row, record in enumerate(records):
        _, alone, _ = both_ways([record], Layout.of((1, 18)))
        assert (row in together.refused) == (0 in alone.refused)
        if row not in together.refused:
            for name in COLUMNS:
                assert getattr(together, name)[row] == getattr(alone, name)[0], name
