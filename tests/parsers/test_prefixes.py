"""Addresses in prefixes are those that the standard library finds in them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from parsers.address_table import ADDRESS
from parsers.addresses import parse_address
from parsers.prefixes import Prefix, within

_TEXTS = ["10.0.0.1", "10.0.0.255", "10.0.1.0", "192.0.2.9", "::", "fd00::1", "fd00:0:0:1::1",
          "fd00::ffff:ffff", "::ffff:0:0", "2001:db8::"]  # fmt: skip


@given(
    asked=st.lists(st.sampled_from(_TEXTS), min_size=1),
    told=st.lists(st.tuples(st.sampled_from(_TEXTS), st.integers(1, 128)), max_size=6),
)
def test_any_addresses_are_within_the_prefixes_that_have_them(
    asked: list[str], told: list[tuple[str, int]]
) -> None:
    networks = [ip_network(f"{sixteen_of(text)}/{length}", strict=False) for text, length in told]
    prefixes = [
        Prefix(n.prefixlen, int(n.network_address) >> (128 - n.prefixlen)) for n in networks
    ]
    packed = [parse_address(text) for text in asked]
    addresses = np.frombuffer(b"".join(filter(None, packed)), dtype=ADDRESS)
    expected = [any(sixteen_of(text) in n for n in networks) for text in asked]
    assert expected == within(addresses, prefixes).tolist()


def sixteen_of(text: str) -> IPv6Address:
    address = ip_address(text)
    return IPv6Address(f"::ffff:{text}") if isinstance(address, IPv4Address) else address
