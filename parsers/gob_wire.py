"""The wire rules of Go's gob encoding: integers, type definitions, skipping a value.

Source: the package documentation of ``encoding/gob``. Everything works on one message in
``bytes``; a read past its end is a ``ProtocolError`` of class ``gob``, as is anything that
breaks a limit. Limits are there because the bytes are hostile: depth, counts, number of
definitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from parsers.errors import ProtocolError

BOOL, INT, UINT, FLOAT, BYTES, STRING, COMPLEX, INTERFACE = range(1, 9)
"""Built-in type ids."""

MAX_DEPTH = 16
MAX_DEFINITIONS = 512

Fields: TypeAlias = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Definition:
    """One type of the stream. ``kind`` is the field number of gob's ``wireType``."""

    kind: int  # 0 array, 1 slice, 2 struct, 3 map, 4 to 6 a marshaller (bytes on the wire)
    name: str
    element: int = 0  # array, slice, map
    key: int = 0  # map
    length: int = 0  # array
    fields: tuple[tuple[str, int], ...] = ()  # struct


ARRAY, SLICE, STRUCT, MAP = range(4)


def bad(text: str, offset: int = 0) -> ProtocolError:
    """A gob error."""
    return ProtocolError(text, error_class="gob", offset=offset)


def read_uint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned integer and the position behind it."""
    try:
        first = data[position]
    except IndexError:
        raise bad("gob data ends inside a number", position) from None
    if first < 0x80:
        return first, position + 1
    width = 256 - first
    end = position + 1 + width
    if width > 8 or end > len(data):
        raise bad("gob number is out of range", position)
    return int.from_bytes(data[position + 1 : end], "big"), end


def read_int(data: bytes, position: int) -> tuple[int, int]:
    """A signed integer and the position behind it."""
    value, position = read_uint(data, position)
    return (-(value >> 1) - 1 if value & 1 else value >> 1), position


def read_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    """A byte slice or string and the position behind it."""
    length, position = read_uint(data, position)
    end = position + length
    if end > len(data):
        raise bad("gob string is longer than its message", position)
    return data[position:end], end


class TypeTable:
    """The definitions of one stream, by positive type id."""

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[int, Definition] = {}

    def __getitem__(self, type_id: int) -> Definition:
        try:
            return self._by_id[type_id]
        except KeyError:
            raise bad(f"gob type {type_id} was never defined") from None

    def __contains__(self, type_id: int) -> bool:
        return type_id in self._by_id

    def structs(self) -> list[tuple[int, Fields]]:
        """Every struct: its id and (name, type id) of its fields in order."""
        return [(i, list(d.fields)) for i, d in self._by_id.items() if d.kind == STRUCT]

    def define(self, type_id: int, data: bytes, position: int) -> None:
        """Read a ``wireType`` that ends the message, and keep it under ``type_id``."""
        if len(self._by_id) >= MAX_DEFINITIONS:
            raise bad(f"gob stream defines more than {MAX_DEFINITIONS} types")
        kind, position = read_uint(data, position)
        kind -= 1
        if not 0 <= kind <= 6:
            raise bad(f"gob definition of unknown kind {kind}", position)
        name, parts, fields, position = _read_definition(kind, data, position)
        end, position = read_uint(data, position)
        if end or position != len(data):
            raise bad("bytes after a gob definition", position)
        self._by_id[type_id] = Definition(
            kind,
            name,
            element=parts.get(2, 0) if kind == MAP else parts.get(1, 0),
            key=parts.get(1, 0) if kind == MAP else 0,
            length=parts.get(2, 0) if kind == ARRAY else 0,
            fields=tuple(fields),
        )


def _read_definition(
    kind: int, data: bytes, position: int
) -> tuple[str, dict[int, int], Fields, int]:
    """The content struct of a ``wireType``: common name, numbered integers, fields."""
    name = ""
    parts: dict[int, int] = {}
    fields: Fields = []
    number = -1
    while True:
        delta, position = read_uint(data, position)
        if not delta:
            return name, parts, fields, position
        number += delta
        if number == 0:
            name, _, position = _read_named(data, position)
        elif number == 1 and kind == STRUCT:
            fields, position = _read_fields(data, position)
        elif number in (1, 2):
            parts[number], position = read_int(data, position)
        else:
            raise bad(f"gob definition has a field {number}", position)


def _read_fields(data: bytes, position: int) -> tuple[Fields, int]:
    count, position = read_uint(data, position)
    if count > len(data) - position:
        raise bad("gob field list is longer than its message", position)
    fields: Fields = []
    for _ in range(count):
        name, type_id, position = _read_named(data, position)
        fields.append((name, type_id))
    return fields, position


def _read_named(data: bytes, position: int) -> tuple[str, int, int]:
    """A struct of a string and a type id (``CommonType``, ``fieldType``)."""
    name, type_id, number = "", 0, -1
    while True:
        delta, position = read_uint(data, position)
        if not delta:
            return name, type_id, position
        number += delta
        if number == 0:
            raw, position = read_bytes(data, position)
            name = raw.decode("utf-8", "replace")
        elif number == 1:
            type_id, position = read_int(data, position)
        else:
            raise bad(f"gob definition has a field {number}", position)


def skip_value(types: TypeTable, type_id: int, data: bytes, position: int, depth: int = 0) -> int:
    """The position behind a value of ``type_id`` that nobody wants."""
    if depth > MAX_DEPTH:
        raise bad(f"gob value is nested deeper than {MAX_DEPTH}", position)
    if type_id in (BOOL, INT, UINT, FLOAT):
        return read_uint(data, position)[1]
    if type_id in (BYTES, STRING):
        return read_bytes(data, position)[1]
    if type_id == COMPLEX:
        return read_uint(data, read_uint(data, position)[1])[1]
    if type_id == INTERFACE:
        name, position = read_bytes(data, position)
        if not name:
            return position
        _, position = read_int(data, position)
        return read_bytes(data, position)[1]
    definition = types[type_id]
    if definition.kind == STRUCT:
        return _skip_struct(types, definition, data, position, depth)
    if definition.kind in (ARRAY, SLICE, MAP):
        count, position = read_uint(data, position)
        if count > len(data) - position:
            raise bad("gob list is longer than its message", position)
        for _ in range(count):
            if definition.kind == MAP:
                position = skip_value(types, definition.key, data, position, depth + 1)
            position = skip_value(types, definition.element, data, position, depth + 1)
        return position
    return read_bytes(data, position)[1]


def _skip_struct(
    types: TypeTable, definition: Definition, data: bytes, position: int, depth: int
) -> int:
    number = -1
    while True:
        delta, position = read_uint(data, position)
        if not delta:
            return position
        number += delta
        if number >= len(definition.fields):
            raise bad(f"gob struct {definition.name} has no field {number}", position)
        position = skip_value(types, definition.fields[number][1], data, position, depth + 1)
