"""Recorded monitor streams and what Hubble's own parser made of them.

``data/fixtures/<release>/``: ``<mix>.stream.xz`` holds the bytes of one connection to the
monitor socket, ``<mix>.flows.jsonl.xz`` one line a payload with Hubble's result, and
``world.json.xz`` everything that was known about addresses, identities and endpoints.

The payload reader below is the test's own, so that a fault in the product's framing
cannot hide itself.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FIXTURES = Path(__file__).parent / "data" / "fixtures"
RELEASES = ("v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19", "v1.20")
MIXES = ("all", "steady", "hostile", "l7")


class Payload(NamedTuple):
    """One record of the stream as the agent sent it."""

    data: bytes
    cpu: int
    lost: int
    type: int


def streams() -> list[tuple[str, str]]:
    """Every (release, mix) there is; ``l7`` exists for the newest releases only."""
    return [(r, m) for r in RELEASES for m in MIXES if _path(r, f"{m}.stream").exists()]


def release_number(release: str) -> tuple[int, int]:
    """``v1.19`` as (1, 19)."""
    major, minor = release[1:].split(".")
    return int(major), int(minor)


def stream_bytes(release: str, mix: str) -> bytes:
    """The stream as it came from the socket."""
    return lzma.decompress(_path(release, f"{mix}.stream").read_bytes())


@cache
def payloads(release: str, mix: str) -> list[Payload]:
    """The payloads of a stream, in order."""
    return split_stream(stream_bytes(release, mix))


@cache
def expected(release: str, mix: str) -> list[dict[str, Any]]:
    """Hubble's result for each payload: ``i``, ``kind``, ``event`` or ``class``, ``stale``."""
    text = lzma.decompress(_path(release, f"{mix}.flows.jsonl").read_bytes())
    return [json.loads(line) for line in text.splitlines()]


@cache
def world(release: str) -> dict[str, Any]:
    """What Hubble's parser could ask while it made the results."""
    loaded: dict[str, Any] = json.loads(lzma.decompress(_path(release, "world.json").read_bytes()))
    return loaded


def _path(release: str, name: str) -> Path:
    return FIXTURES / release / f"{name}.xz"


def gob_uint(data: bytes, at: int) -> tuple[int, int]:
    """A gob unsigned integer: one byte below 128, else 256 - n and n bytes big-endian."""
    first = data[at]
    if first < 128:
        return first, at + 1
    stop = at + 1 + 256 - first
    return int.from_bytes(data[at + 1 : stop], "big"), stop


def _signed(value: int) -> int:
    return -(value >> 1) - 1 if value & 1 else value >> 1


def split_stream(stream: bytes) -> list[Payload]:
    """The payloads of a stream that is known to be whole."""
    found: list[Payload] = []
    at = 0
    while at < len(stream):
        length, at = gob_uint(stream, at)
        stop = at + length
        type_id, at = gob_uint(stream, at)
        if not type_id & 1:  # a positive id: a value and not a definition
            found.append(_payload(stream, at))
        at = stop
    return found


def _payload(stream: bytes, at: int) -> Payload:
    """Fields 0 Data, 1 CPU, 2 Lost, 3 Type; zero ones are left out."""
    data, numbers, field = b"", [0, 0, 0, 0], -1
    while stream[at]:
        field += stream[at]
        number, at = gob_uint(stream, at + 1)
        if field == 0:
            data, at = stream[at : at + number], at + number
        else:
            numbers[field] = number
    return Payload(data, _signed(numbers[1]), numbers[2], _signed(numbers[3]))
