"""Makes ``tests/data/fixtures/v1.19/rare.*``: odd records that random streams hardly hit.

    python -m tests.conformance.make_rare_fixture ORACLE

The program (tests/conformance/oracle) says what Hubble's parser makes of each record, over
the world of the other fixtures.
"""

from __future__ import annotations

import json
import lzma
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.fixtures import FIXTURES, Payload, payloads, stream_bytes, world

RELEASE = "v1.19"
MAC = b"\x0a\x58\x0a\x00\x00\x07\x0a\x58\x0a\x00\x00\x0c"
OWN, PEER = bytes([10, 0, 0, 13]), bytes([10, 0, 4, 8])
VXLAN, GENEVE = 4, 8  # flags of a trace
VXLAN_HEADER = bytes.fromhex("08000000 0004b700")
GENEVE_HEADER = bytes.fromhex("00006558 0004b700")


def trace(packet: bytes, *, flags: int = 0, captured: int | None = None) -> bytes:
    head = struct.pack(
        "<BBHIIHBBIIHBBI", 4, 3, 152, 0, len(packet),
        len(packet) if captured is None else captured, 2, 0, 1207, 1207, 0, 0, flags, 2,
    )  # fmt: skip
    return head + bytes(24) + packet


def ethernet(payload: bytes, ether_type: int = 0x0800) -> bytes:
    return MAC + struct.pack(">H", ether_type) + payload


def ipv4(protocol: int, payload: bytes, total: int | None = None) -> bytes:
    length = 20 + len(payload) if total is None else total
    return struct.pack(">BBHHHBBH", 0x45, 0, length, 7, 0, 64, protocol, 0) + OWN + PEER + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(payload), protocol, 64)
    return head + bytes.fromhex("fd0000010000000000000000000000ff" * 2) + payload


def udp(payload: bytes = b"", source: int = 40000, destination: int = 8472) -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


TCP = struct.pack(">HHIIHHHH", 40000, 8080, 1, 2, 5 << 12 | 2, 9, 0, 0)


def records() -> Iterator[bytes]:
    yield bytes([1]) * 2000  # refused; the reader's buffer is large from here on
    inner = ethernet(ipv4(6, TCP))
    for ether_type in (0xFFFF, 0x6558, 0x8100, 0x88A8, 0x8847, 0x05FF, 0x0600, 0x880B):
        for payload in (ipv4(6, TCP), inner, b"", b"\x45", ipv6(6, TCP)):
            yield trace(ethernet(payload, ether_type))
            tunnelled = udp(GENEVE_HEADER[:2] + struct.pack(">H", ether_type) + GENEVE_HEADER[4:])
            yield trace(ethernet(ipv4(17, tunnelled + payload)), flags=GENEVE)
    for protocol in range(256):
        yield trace(ethernet(ipv4(protocol, ipv4(6, TCP))))
        yield trace(ethernet(ipv6(protocol, ipv4(6, TCP) + bytes(40)), 0x86DD))
    # Below a tunnel the library goes on by port.
    for header, flags in ((VXLAN_HEADER, VXLAN), (GENEVE_HEADER, GENEVE)):
        for nested in (VXLAN_HEADER + inner, GENEVE_HEADER + inner, VXLAN_HEADER[:5], b"", b"\0"):
            for ports in PORTS:
                packet = ethernet(ipv4(17, udp(nested, *ports)))
                yield trace(ethernet(ipv4(17, udp(header + packet))), flags=flags)
                yield trace(packet)
    deep = ethernet(ipv4(17, udp(VXLAN_HEADER + ethernet(ipv4(50, b"")), 1, 4789)))
    yield trace(ethernet(ipv4(17, udp(VXLAN_HEADER + deep))), flags=VXLAN)
    yield trace(ethernet(ipv6(17, udp(VXLAN_HEADER + inner)), 0x86DD), flags=VXLAN)
    # A tunnel's flag on something else.
    for packet in (inner, ethernet(b"", 0x0806), ethernet(ipv4(17, udp())), ethernet(b"")):
        for flags in (VXLAN, GENEVE, VXLAN | GENEVE):
            yield trace(packet, flags=flags)
    # Advertisements of VRRP whose addresses are cut.
    vrrp = bytes.fromhex("2133640200010000 0a000001 0a000002")
    for end in range(len(vrrp) + 1):
        yield trace(ethernet(ipv4(112, vrrp[:end])))
        yield trace(ethernet(ipv4(112, vrrp[:end], total=36)))
        yield trace(ethernet(ipv6(112, vrrp[:end]), 0x86DD))
    # Verdicts of connection tracking: states, and the reasons of drops.
    for state in range(256):
        yield struct.pack("<BBHIIII", 2, 15, 0, 7, state, 8, 0)
    # Agent notifications whose text is no text.
    for sent in payloads(RELEASE, "all"):
        if sent.data[:1] == b"\x82" and b'"' in sent.data:
            at = sent.data.rindex(b'"') - 1
            yield sent.data[:at] + b"\xff" + sent.data[at + 1 :]


PORTS = [
    (source, destination)
    for source in (40000, 4789, 6081, 53)
    for destination in (40000, 4789, 6081, 53, 67, 68, 123, 546, 547, 623, 666, 1000, 1812, 2123,
                        2152, 2222, 3784, 5060, 6343, 44818, 8472)
]  # fmt: skip


def encoded(payload: Payload, type_id: bytes) -> bytes:
    """One message of the stream."""

    def unsigned(value: int) -> bytes:
        if value < 128:
            return bytes([value])
        body = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return bytes([256 - len(body)]) + body

    body = type_id + b"\x01" + unsigned(len(payload.data)) + payload.data + b"\x03\x12\x00"
    return unsigned(len(body)) + body


def stream_of(records: Iterable[bytes]) -> bytes:
    """The bytes of a connection that carries these records."""
    definition = stream_bytes(RELEASE, "all")
    definition = definition[: definition[0] + 1]
    # The definition names the negated type id, which gob writes as one more.
    number = definition[1] if definition[1] < 128 else definition[2]
    type_id = bytes([number + 1]) if number < 127 else b"\xff" + bytes([number + 1])
    return definition + b"".join(encoded(Payload(r, 0, 0, 9), type_id) for r in records)


def main(oracle: str) -> None:
    stream = stream_of(records())
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "stream").write_bytes(stream)
        (directory / "world.json").write_text(json.dumps(world(RELEASE)))
        subprocess.run(
            [
                oracle, "flows", "--stream", directory / "stream",
                "--world", directory / "world.json", "--flows", directory / "flows",
            ],
            check=True,
        )  # fmt: skip
        flows = (directory / "flows").read_bytes()
    for suffix, data in (("stream", stream), ("flows.jsonl", flows)):
        (FIXTURES / RELEASE / f"rare.{suffix}.xz").write_bytes(lzma.compress(data, preset=9))


if __name__ == "__main__":
    main(sys.argv[1])
