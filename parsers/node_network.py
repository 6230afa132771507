"""What a node's own addresses and routes tell of an address that nobody has a name for.

The node's own addresses are the host. Where the node has a route of its own to, other than to
the network at an uplink, pods may be: nobody knows who has such an address. Nor who has one of a
service, which the node has only to catch its packets. All else is the world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from parsers.addresses import MAPPED
from parsers.reserved import HOST, WORLD

Prefix = tuple[bytes, int]
"""An address of 16 bytes and how many bits of it count (IPv4 mapped: 96 and up)."""

_LOOPBACK = MAPPED + b"\x7f"  # 127.0.0.0/8


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """``addresses``: the node's own; ``near``: prefixes by which pods, or services, may be."""

    addresses: frozenset[bytes]
    near: frozenset[Prefix]
    _near: Mapping[int, frozenset[int]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        by_length: dict[int, set[int]] = {}
        for address, length in self.near:
            by_length.setdefault(length, set()).add(_leading(address, length))
        leading = {length: frozenset(bits) for length, bits in by_length.items()}
        object.__setattr__(self, "_near", leading)

    def is_own(self, address: bytes) -> bool:
        """Whether packets to ``address`` (16 bytes) stay here."""
        return address in self.addresses or address.startswith(_LOOPBACK)

    def identity_of(self, address: bytes) -> int:
        """``HOST``, ``WORLD``, or 0 for who may be a pod."""
        if self.is_own(address):
            return HOST
        near = any(_leading(address, length) in bits for length, bits in self._near.items())
        return 0 if near else WORLD


def _leading(address: bytes, length: int) -> int:
    return int.from_bytes(address, "big") >> (128 - length)


def changed_addresses(
    before: NodeNetwork | None, now: NodeNetwork | None
) -> Iterable[bytes] | None:
    """The addresses of which the two tell differently; None when these are too many to name."""
    if before is None or now is None:
        return None
    near = before.near ^ now.near
    if any(length < 128 for _, length in near):
        return None
    return (before.addresses ^ now.addresses) | {address for address, _ in near}
