"""What we want of a gob stream, and how that is joined with what the stream declares.

``Compiler`` makes one reader of a schema and of a stream's type definitions, by field
names. It refuses what Go refuses when it compiles a decoder for a struct: known fields of
another type (whether or not a value has them), undefined ids, fields without a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from parsers import gob_values as values
from parsers.errors import ProtocolError
from parsers.gob_values import CALL, INLINE_TEXT, INLINE_UNSIGNED, Field, Reader
from parsers.gob_wire import (
    BOOL,
    BYTES,
    COMPLEX,
    FLOAT,
    INT,
    INTERFACE,
    STRING,
    UINT,
    bad,
    read_bytes,
    read_uint,
)  # fmt: skip

# What a field of a schema may be. Strings come out as bytes: Go does not check them.


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A byte slice."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An unsigned integer of the schema's width."""

    bits: int


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed integer of the schema's width."""

    bits: int


@dataclass(frozen=True, slots=True)
class Marshalled:
    """A type with a binary marshaller: its bytes, once ``accepts`` has nodded."""

    accepts: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class List:
    """A slice; a Python list."""

    element: Schema


@dataclass(frozen=True, slots=True)
class Dict:
    """A map from strings; a Python dict."""

    element: Schema


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct: a Python list of its fields' values in this order, zero when absent.

    ``optional``: a pointer, None when absent.
    """

    fields: Mapping[str, Schema]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Either:
    """One of two shapes, as the definitions say: ``(shape, value)`` with 0 or 1."""

    first: Schema
    second: Schema


@dataclass(frozen=True, slots=True)
class Kept:
    """A struct that is read again later: ``(value, its bytes, its reader)`` or None."""

    inner: Struct


@dataclass(frozen=True, slots=True)
class Repeated:
    """A part that few distinct encodings fill: known ones are found by comparing bytes.

    The value is what ``make`` gives for it, shared by all that are equal.
    """

    inner: Schema
    make: Callable[[Any], Any]


Schema: TypeAlias = (
    Text | Bytes | Unsigned | Signed | Marshalled | List | Dict | Struct | Either | Kept | Repeated
)


@dataclass(frozen=True, slots=True)
class WireType:
    """A type definition. Go allows several parts at once, so each may be there or not."""

    array: tuple[int, int] | None = None  # element, length
    slice: int | None = None  # element
    struct: tuple[tuple[str, int], ...] | None = None  # (name, type id)
    map: tuple[int, int] | None = None  # key, element
    marshaller: tuple[bool, bool, bool] = (False, False, False)  # gob, binary, text


_COMMON = (("CommonType", 18),)
BUILTINS: dict[int, WireType] = {
    16: WireType(
        struct=(
            ("ArrayT", 17), ("SliceT", 19), ("StructT", 20), ("MapT", 23),
            ("GobEncoderT", 24), ("BinaryMarshalerT", 24), ("TextMarshalerT", 24),
        )
    ),
    17: WireType(struct=(*_COMMON, ("Elem", INT), ("Len", INT))),
    18: WireType(struct=(("Name", STRING), ("Id", INT))),
    19: WireType(struct=(*_COMMON, ("Elem", INT))),
    20: WireType(struct=(*_COMMON, ("Field", 22))),
    21: WireType(struct=(("Name", STRING), ("Id", INT))),
    22: WireType(slice=21),
    23: WireType(struct=(*_COMMON, ("Key", INT), ("Elem", INT))),
    24: WireType(struct=_COMMON),  # not a public id; the encoder types share this shape
}  # fmt: skip


class Compiler:
    """Makes readers from a stream's definitions; one stream's use only."""

    def __init__(self, types: Mapping[int, WireType]) -> None:
        self._types = types
        self._skippers: dict[int, Reader] = {}

    def struct_stream(self, type_id: int, schema: Struct) -> Reader:
        """Reader of the stream's value; at least one field must be ours, if it has any."""
        wire = BUILTINS.get(type_id) or self._types.get(type_id, WireType())
        if wire.struct is None:
            raise self._mismatch(type_id, schema)
        read = self._struct(wire.struct, schema)
        unknown = not any(name in schema.fields for name, _ in wire.struct)
        if wire.struct and unknown and type_id not in BUILTINS:
            raise bad("no field of the value's type is known")
        return read

    def reader(self, type_id: int, schema: Schema) -> Reader:
        """Reader of a value of the wire type into the schema; raises when they differ."""
        match schema:
            case Repeated():
                return values.repeated_reader(self.reader(type_id, schema.inner), schema.make)
            case Kept():
                return values.kept_reader(self.reader(type_id, schema.inner))
            case Either():
                return self._either(type_id, schema)
        wire = self._types.get(type_id, WireType())
        if wire.marshaller != (False, isinstance(schema, Marshalled), False):
            raise self._mismatch(type_id, schema)
        match schema:
            case Text() if type_id == STRING:
                return read_bytes
            case Bytes() if type_id == BYTES:
                return read_bytes
            case Unsigned() if type_id == UINT:
                return values.unsigned_reader((1 << schema.bits) - 1)
            case Signed() if type_id == INT:
                return values.signed_reader(1 << (schema.bits - 1))
            case Marshalled():
                return values.marshalled_reader(schema.accepts)
            case Dict() if wire.map and wire.map[0] == STRING:
                element = self.reader(wire.map[1], schema.element)
                if schema.element == List(Text()):
                    return values.text_lists_reader
                return values.map_reader(read_bytes, element)
            case List():
                wire = BUILTINS.get(type_id, wire)
                if wire.slice is not None:
                    element = self.reader(wire.slice, schema.element)
                    if isinstance(schema.element, Unsigned):
                        return values.small_numbers_reader((1 << schema.element.bits) - 1)
                    return values.list_reader(element)
            case Struct():
                wire = BUILTINS.get(type_id, wire)
                if wire.struct is not None:
                    return self._struct(wire.struct, schema)
        raise self._mismatch(type_id, schema)

    @staticmethod
    def _mismatch(type_id: int, schema: Schema) -> ProtocolError:
        return bad(f"type {type_id} cannot be read as {type(schema).__name__.lower()}")

    def _either(self, type_id: int, schema: Either) -> Reader:
        try:
            return values.tagged_reader(0, self.reader(type_id, schema.first))
        except ProtocolError:
            return values.tagged_reader(1, self.reader(type_id, schema.second))

    def _struct(self, wire_fields: tuple[tuple[str, int], ...], schema: Struct) -> Reader:
        slots = {name: slot for slot, name in enumerate(schema.fields)}
        fields: list[Field] = []
        made: dict[int, Reader] = {}
        for name, type_id in wire_fields:
            if not name:
                raise bad("field without a name")
            wanted = schema.fields.get(name)
            if wanted is None:  # its value goes to a slot behind the known ones
                fields.append((CALL, len(slots), self._skipper(type_id)))
                continue
            read = made.get(id(wanted)) or self.reader(type_id, wanted)
            if isinstance(wanted, Struct):
                # As in Go, a second field of one struct type is read like the first one,
                # whatever type id the stream declares for it.
                if any(self._types.get(type_id, WireType()).marshaller):
                    raise self._mismatch(type_id, wanted)
                made[id(wanted)] = read
            match wanted:
                case Text():
                    fields.append((INLINE_TEXT, slots[name], read))
                case Unsigned():
                    fields.append((INLINE_UNSIGNED, slots[name], (1 << wanted.bits) - 1))
                case _:
                    fields.append((CALL, slots[name], read))
        return values.struct_reader(tuple(fields), [*map(_zero, schema.fields.values()), None])

    def _skipper(self, type_id: int) -> Reader:
        """Reader that throws its value away."""
        if type_id in (BOOL, INT, UINT, FLOAT):
            return read_uint
        if type_id in (BYTES, STRING):
            return read_bytes
        if type_id == COMPLEX:
            return values.skip_complex
        if type_id == INTERFACE:
            return values.skip_interface
        if type_id not in self._skippers:
            # A type may contain itself: until it is done, refer to it by its id.
            self._skippers[type_id] = lambda data, at: self._skippers[type_id](data, at)  # noqa: PLW0108
            try:
                self._skippers[type_id] = self._skipper_of(type_id)
            except ProtocolError:
                del self._skippers[type_id]
                raise
        return self._skippers[type_id]

    def _skipper_of(self, type_id: int) -> Reader:
        wire = self._types.get(type_id, WireType())
        if wire.array is not None:
            return values.array_skipper(self._skipper(wire.array[0]), wire.array[1])
        if wire.map is not None:
            return values.map_skipper(self._skipper(wire.map[0]), self._skipper(wire.map[1]))
        if wire.slice is not None:
            return values.list_skipper(self._skipper(wire.slice))
        if wire.struct is not None:
            return self._struct(wire.struct, Struct({}))
        if any(wire.marshaller):
            return read_bytes
        raise bad(f"type {type_id} is not defined")


def _zero(schema: Schema) -> Any:
    """The value of a field that is absent."""
    match schema:
        case Text() | Bytes() | Marshalled():
            return b""
        case Unsigned() | Signed():
            return 0
        case List():
            return []
        case Dict():
            return {}
        case Struct():
            return None if schema.optional else [*map(_zero, schema.fields.values()), None]
        case Either():
            return (0, _zero(schema.first))
        case Repeated():
            return schema.make(_zero(schema.inner))
    return None
