"""Recorded access logs, and what can be done to them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.fixtures import expected, payloads
from tests.parsers.access_log_json import Event

ACCESS_LOG = 129
MUTATED = ("v1.19", "mutated")  # bytes of definitions and values changed, 4,000 times


def records(release: str, mix: str) -> Iterator[tuple[bytes, Event]]:
    for payload, line in zip(payloads(release, mix), expected(release, mix), strict=True):
        if payload.type == 9 and payload.data[:1] == bytes([ACCESS_LOG]):
            yield payload.data, line


def value_of(record: bytes) -> int:
    """Where the value begins, behind a length of two bytes: its type id, then its type."""
    at = max(record.rfind(b"\1\7Request"), record.rfind(b"\1\x08Response")) - 2
    assert 0xFE == record[at - 3]
    return at


def edited(rng: random.Random, record: bytes) -> bytes:
    """The record with bytes of its value changed, removed or added, its length made right."""
    data = bytearray(record)
    head = value_of(record)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(head, len(data))
        some = bytes(rng.choice((0, 1, 2, 97, 127, 128, 255)) for _ in range(rng.randrange(3)))
        other = rng.randrange(head, len(data))
        new, gone = rng.choice(
            ((some, len(some)), (some, rng.randrange(3)), (data[other : other + 8], 8))
        )
        data[at : at + gone] = new
    data[head - 2 : head] = (len(data) - head).to_bytes(2, "big")
    return bytes(data)
