"""Ethernet frames made by hand, for what no ordinary program sends.

Layouts: IEEE 802.1Q, RFC 791, RFC 8200, RFC 768, RFC 9260. Checksums are left out where
nobody on the way looks at them.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

IPV4, IPV6, VLAN, SERVICE_VLAN = 0x0800, 0x86DD, 0x8100, 0x88A8
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60


def ethernet(
    source: str, destination: str, kind: int, body: bytes, *tags: tuple[int, int]
) -> bytes:
    """``tags``: (Ethernet type, VLAN) from the outermost inwards."""
    addresses = bytes.fromhex((destination + source).replace(":", ""))
    behind = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return addresses + behind + struct.pack("!H", kind) + body


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    body: bytes,
    *,
    options: bytes = b"",
    offset: int = 0,
) -> bytes:
    """``offset`` is in units of 8 bytes; ``options`` a multiple of 4 bytes."""
    length = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | length // 4, 0, length + len(body), 1, offset, 64, protocol, 0,
        ip_address(source).packed, ip_address(destination).packed,
    )  # fmt: skip
    head += options
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + body


def ipv6(source: str, destination: str, protocol: int, body: bytes) -> bytes:
    """``protocol`` is that of the first header in ``body``."""
    return (
        struct.pack("!IHBB", 6 << 28, len(body), protocol, 64)
        + ip_address(source).packed
        + ip_address(destination).packed
        + body
    )


def extension(following: int, *, words: int = 1) -> bytes:
    """A hop-by-hop, routing or destination header of ``words`` times 8 bytes, padded."""
    padding = words * 8 - 4
    return bytes((following, words - 1, 1, padding)) + bytes(padding)


def authentication(following: int) -> bytes:
    """RFC 4302: its length is in units of 4 bytes, less 2."""
    return bytes((following, 4, 0, 0)) + bytes(20)


def fragment(following: int, offset: int) -> bytes:
    """``offset`` is in units of 8 bytes."""
    return struct.pack("!BBHI", following, 0, offset << 3, 7)


def udp(source: int, destination: int, body: bytes = b"") -> bytes:
    """Of IPv4 and IPv6."""
    return struct.pack("!HHHH", source, destination, 8 + len(body), 0) + body


def tcp(source: int, destination: int, flags: int) -> bytes:
    """Without options or data."""
    return struct.pack("!HHIIBBHHH", source, destination, 1, 0, 5 << 4, flags, 1000, 0, 0)


def sctp(source: int, destination: int) -> bytes:
    """An empty DATA chunk."""
    return struct.pack("!HHII", source, destination, 1, 0) + struct.pack("!BBH", 0, 3, 4)


def send_frames(interface: str, frames: list[bytes]) -> None:
    """By an interface of the calling thread's network namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for frame in frames:
            raw.send(frame)
