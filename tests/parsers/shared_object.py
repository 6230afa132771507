"""What a shared object exports and how it lies in memory, read from its bytes (ELF-64)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from parsers import compiled

OBJECTS = Path(compiled.__file__).parent / "objects"
PROCESSORS = ("x86_64", "aarch64")

_DYNAMIC_SYMBOLS, _RELOCATIONS = 11, {4, 9, 19}  # SHT_DYNSYM; SHT_RELA, SHT_REL, SHT_RELR
_LOAD = 1  # PT_LOAD


def exports(data: bytes) -> dict[str, int]:
    """The address of each dynamic symbol; 0 where the object wants it of others."""
    found: dict[str, int] = {}
    sections = list(_sections(data))
    for kind, offset, size, link in sections:
        if kind != _DYNAMIC_SYMBOLS:
            continue
        names = sections[link][1]
        for at in range(offset + 24, offset + size, 24):  # the first one is nobody's
            name, _, _, _, value = struct.unpack_from("<IBBHQ", data, at)
            start = names + name
            found[data[start : data.index(b"\0", start)].decode()] = value
    return found


def has_relocations(data: bytes) -> bool:
    """Whether a loader would have to change it."""
    return any(kind in _RELOCATIONS for kind, *_ in _sections(data))


def image(data: bytes) -> bytes:
    """Its memory once it is loaded, from address 0 on."""
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    memory = bytearray()
    for at in range(headers, headers + size * count, size):
        kind, _, offset, address, _, stored, _ = struct.unpack_from("<IIQQQQQ", data, at)
        if kind == _LOAD:
            memory.extend(bytes(max(0, address + stored - len(memory))))
            memory[address : address + stored] = data[offset : offset + stored]
    return bytes(memory)


def _sections(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, offset, size and link of each section."""
    (headers,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    for at in range(headers, headers + size * count, size):
        kind, _, _, offset, length, link = struct.unpack_from("<IQQQQI", data, at + 4)
        yield kind, offset, length, link
