"""``Flow.extensions``: what own probes know and Hubble's message has no field for.

It is a ``google.protobuf.Struct``, as Retina's is, because clients print a flow as JSON only
when they know the type of what it holds. Fields:

==================  ======================================================================
``packets``         packets that the flow stands for: since it was last told of
``bytes``           their bytes, with the link header but for most drops
``drop_reason``     the kernel's own name, where the API's enumeration has only a near one
others              by probe: ``Detail.extension``
==================  ======================================================================

The bytes are written here, by the fast and the plain path alike, since a Struct's map may be
serialized in any order. Counts come last and have a fixed width; what stands for no packet,
such as the close of a socket, has none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from api.v1.flow import flow_pb2
from parsers.details import Detail

URL: Final = "type.googleapis.com/google.protobuf.Struct"
_FIELD: Final = flow_pb2.Flow.EXTENSIONS_FIELD_NUMBER << 3 | 2
_BYTES = 2  # wire types
_FIXED64 = 1


def number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _sized(tag: int, content: bytes) -> bytes:
    return number(tag << 3 | _BYTES) + number(len(content)) + content


def _entry(name: str, value: str | float) -> bytes:
    """One entry of ``Struct.fields``."""
    if isinstance(value, str):
        told = _sized(3, value.encode())
    else:
        told = number(2 << 3 | _FIXED64) + struct.pack("<d", value)
    return _sized(1, _sized(1, name.encode()) + _sized(2, told))


_PACKETS: Final = _entry("packets", 0.0)[:-8]
_OCTETS: Final = _entry("bytes", 0.0)[:-8]
COUNTS_WIDTH: Final = len(_PACKETS) + len(_OCTETS) + 16
"""Bytes of ``extension_counts`` a flow."""


def extension_head(detail: Detail, drop_reason: str, *, counted: bool) -> bytes:
    """The extension up to its counts, which have to follow if it is ``counted``: tag and lengths
    are those of ``Flow.extensions`` with them. Empty when there is nothing to tell.
    """
    width = COUNTS_WIDTH if counted else 0
    fields: Iterable[tuple[str, str | float]] = detail.extension
    if drop_reason:
        fields = sorted([*fields, ("drop_reason", drop_reason)])
    told = b"".join(_entry(*field) for field in fields)
    if not told and not counted:
        return b""
    value = number(2 << 3 | _BYTES) + number(len(told) + width) + told
    value = _sized(1, URL.encode()) + value
    return number(_FIELD) + number(len(value) + width) + value


def extension_counts(packets: NDArray[Any], octets: NDArray[Any]) -> list[bytes]:
    """The end of each flow's extension."""
    rows = np.empty((len(packets), COUNTS_WIDTH), dtype=np.uint8)
    at = 0
    for name, column in ((_PACKETS, packets), (_OCTETS, octets)):
        rows[:, at : at + len(name)] = np.frombuffer(name, dtype=np.uint8)
        at += len(name)
        rows[:, at : at + 8] = column.astype("<f8").view(np.uint8).reshape(-1, 8)
        at += 8
    found: list[bytes] = rows.view(f"V{COUNTS_WIDTH}").ravel().tolist()
    return found
