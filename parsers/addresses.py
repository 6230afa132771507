"""Addresses as 16 bytes, network order; IPv4 is mapped (RFC 4291 section 2.5.5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

MAPPED = bytes(10) + b"\xff\xff"
UNSPECIFIED = MAPPED + bytes(4)
"""0.0.0.0."""


def mapped(four: bytes) -> bytes:
    """The 16-byte form of an IPv4 address."""
    return MAPPED + four


@lru_cache(maxsize=1 << 14)
def address_text(sixteen: bytes) -> str:
    """The text of an address; a mapped one prints as IPv4 whatever header it stood in."""
    if sixteen.startswith(MAPPED):
        return str(IPv4Address(sixteen[12:]))
    return str(IPv6Address(sixteen))


def parse_address(text: str) -> bytes | None:
    """The 16 bytes of an address's text, or None when it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return mapped(address.packed) if isinstance(address, IPv4Address) else address.packed


def is_prefix(text: str) -> bool:
    """Whether a text is an address and how many bits of it count."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def first_of_each_family(texts: Sequence[str]) -> tuple[bytes, ...]:
    """A pod's address of each family: the first text that looks like one, if it is one."""
    first = (next((t for t in texts if (":" in t) is v6), "") for v6 in (False, True))
    return tuple(address for text in first if (address := parse_address(text)) is not None)
