"""Go's gob encoding: integers, type definitions, and whole streams of one struct.

Strategy: a stream's type definitions are compiled once, against a schema of what we want,
into nested reader functions; a stream that begins with the same definitions (every record
of one agent process does) then costs its value alone. What is refused is what Go's decoder
refuses when it fills the schema's struct: wrong types of known fields (even where the value
lacks them), undefined ids, numbers that overflow, lengths beyond the data. Unknown fields
are skipped by their declared type. As in Go, the end of a message ends every open struct,
and what follows the value is not looked at.

Not done: sending, interface values with definitions inside, and complex or float fields in
a schema (they are skipped). Source: the documentation of package encoding/gob.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parsers.gob_schema import BUILTINS, Compiler, List, Signed, Struct, Text, WireType
from parsers.gob_values import Reader, read_type_id
from parsers.gob_wire import bad, read_uint

_WIRE_TYPE = 16  # the built-in id of a definition's own type
MOST_DEFINITIONS = 256  # of one stream; a LogRecord has 20
_FIRST_USER_ID = 64

_ID = Signed(32)
_COMMON_TYPE = Struct({"Name": Text(), "Id": _ID})
_MARSHALLER = Struct({"CommonType": _COMMON_TYPE}, optional=True)
_DEFINITION = Struct(
    {
        "ArrayT": Struct({"Elem": _ID, "Len": Signed(64), "CommonType": _COMMON_TYPE}, True),
        "SliceT": Struct({"Elem": _ID, "CommonType": _COMMON_TYPE}, True),
        "StructT": Struct(
            {"Field": List(Struct({"Name": Text(), "Id": _ID})), "CommonType": _COMMON_TYPE}, True
        ),
        "MapT": Struct({"Key": _ID, "Elem": _ID, "CommonType": _COMMON_TYPE}, True),
        "GobEncoderT": _MARSHALLER,
        "BinaryMarshalerT": _MARSHALLER,
        "TextMarshalerT": _MARSHALLER,
    }
)


class DefinitionReader:
    """Reads type definitions; make one and keep it."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self._read = Compiler(BUILTINS).reader(_WIRE_TYPE, _DEFINITION)

    def parse_wire_type(self, data: bytes, at: int) -> tuple[WireType, int]:
        """The content of a definition message, from behind its id: (type, offset)."""
        try:
            (array, slice_, struct, map_, *marshallers, _), at = self._read(data, at)
        except IndexError:
            raise bad("type definition ends too early", at) from None
        definition = WireType(
            array=array and (array[0], array[1]),
            slice=slice_ and slice_[0],
            struct=struct and tuple((n.decode("utf-8", "replace"), i) for n, i, _ in struct[0]),
            map=map_ and (map_[0], map_[1]),
            marshaller=tuple(m is not None for m in marshallers),  # type: ignore[arg-type]
        )
        return definition, at


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    """Who begins with certain definitions: those as bytes and as types, and their reader."""

    definitions: bytes
    type_id: bytes  # of the value, as encoded
    root: int  # the same as a number
    types: Mapping[int, WireType]
    read: Reader

    def fields(self, type_id: int) -> tuple[tuple[str, int], ...]:
        """Names and type ids of a struct's fields; nothing for other types."""
        return self.types.get(type_id, WireType()).struct or ()


class StreamDecoder:
    """Decodes complete streams (definitions, then one value) of one struct.

    Remembers the definitions of the last ``most_known`` senders.
    """

    __slots__ = ("_definition_reader", "_known", "_most_known", "_schema")

    def __init__(self, schema: Struct, most_known: int = 4) -> None:
        self._schema = schema
        self._most_known = most_known
        self._definition_reader = DefinitionReader()
        self._known: list[Sender] = []

    @property
    def latest(self) -> Sender | None:
        """Who sent the last value, if it had definitions."""
        return self._known[0] if self._known else None

    def statistics(self) -> dict[str, int]:
        """How many senders' definitions are remembered."""
        return {"known": len(self._known)}

    def decode(self, data: bytes, at: int = 0) -> list[Any]:
        """The value of the stream that begins at an offset. Raises ProtocolError (gob)."""
        try:
            for known in self._known:
                if data.startswith(known.definitions, at):
                    stop, start = _message(data, at + len(known.definitions))
                    if data.startswith(known.type_id, start, stop):
                        if known is not self._known[0]:
                            self._known.remove(known)
                            self._known.insert(0, known)
                        value: list[Any] = known.read(data[start:stop], len(known.type_id))[0]
                        return value
            return self._decode_new(data, at)
        except IndexError:
            raise bad("value does not fit its definitions", at) from None
        except RecursionError:
            raise bad("value is nested too deeply", at) from None

    def _decode_new(self, data: bytes, begin: int) -> list[Any]:
        types: dict[int, WireType] = {}
        at = begin
        while True:
            stop, start = _message(data, at)
            message = data[start:stop]
            type_id, start = read_type_id(message, 0)
            if type_id >= 0:
                break
            if -type_id < _FIRST_USER_ID or -type_id in types:
                raise bad(f"type {-type_id} is defined twice or reserved", at)
            if len(types) == MOST_DEFINITIONS:
                raise bad(f"more than {MOST_DEFINITIONS} type definitions", at)
            types[-type_id], end = self._definition_reader.parse_wire_type(message, start)
            if end != len(message):
                raise bad("bytes left over behind a type definition", at)
            at = stop
        read = Compiler(types).struct_stream(type_id, self._schema)
        value: list[Any] = read(message, start)[0]
        if at > begin:  # a stream without definitions has nothing to know it by
            self._known.insert(0, Sender(data[begin:at], message[:start], type_id, types, read))
            del self._known[self._most_known :]
        return value


def _message(data: bytes, at: int) -> tuple[int, int]:
    """(end, start) of the message whose length stands at an offset."""
    length, start = read_uint(data, at)
    if start + length > len(data):
        raise bad("message is longer than its data", at)
    return start + length, start
