"""Structs of a compiled object, read from its type information.

The test's own reader of ELF (System V gABI, 64-bit little-endian) and BTF (the kernel's
``Documentation/bpf/btf.rst``), so that nothing of the product vouches for itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

OBJECTS = Path(__file__).parents[2] / "native_probes" / "objects"

_INT, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 3, 4, 5, 6
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _ENUM64 = 13, 14, 15, 17, 19
_EXTRA = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


@dataclass(frozen=True, slots=True)
class Layout:
    """``fields``: name to offset in bytes, in order."""

    size: int
    fields: dict[str, int]


def section(path: Path, wanted: str) -> bytes:
    """The bytes of an ELF section."""
    image = path.read_bytes()
    (table,) = struct.unpack_from("<Q", image, 0x28)
    entry, count, names = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", image, table + entry * i) for i in range(count)]
    strings = headers[names][4]
    for name, _, _, _, offset, size in headers:
        start = strings + name
        if image[start : image.index(b"\0", start)].decode() == wanted:
            return image[offset : offset + size]
    raise AssertionError(f"{path.name} has no section {wanted}")


def layouts(path: Path) -> dict[str, Layout]:
    """Every named struct of an object."""
    data = section(path, ".BTF")
    _, _, _, header, types, type_bytes, strings, _ = struct.unpack_from("<HBBIIIII", data)
    at, end = header + types, header + types + type_bytes
    text = header + strings

    def name(offset: int) -> str:
        return data[text + offset : data.index(b"\0", text + offset)].decode()

    found = {}
    while at < end:
        name_at, info, size = struct.unpack_from("<III", data, at)
        kind, count = info >> 24 & 31, info & 0xFFFF
        if kind == _STRUCT and name_at:
            members = (struct.unpack_from("<III", data, at + 12 + 12 * i) for i in range(count))
            fields = {name(member): (bits & 0xFFFFFF) // 8 for member, _, bits in members}
            found[name(name_at)] = Layout(size, fields)
        at += 12 + _EXTRA.get(kind, 0) + _EACH.get(kind, 0) * count
    return found
