"""Gob streams are read by their own definitions, and refused where Go refuses them."""

from __future__ import annotations

from typing import Any

import pytest

from parsers.errors import ProtocolError
from parsers.gob import MOST_DEFINITIONS, DefinitionReader, StreamDecoder
from parsers.gob_schema import (
    Dict,
    List,
    Repeated,
    Schema,
    Signed,
    Struct,
    Text,
    Unsigned,
    WireType,
)

# The documentation of encoding/gob: struct Point of two ints, X = 22 and Y = 33.
POINT = bytes.fromhex("1fff8103010105506f696e7401ff820001020101580104000101590104000000")
POINT_22_33 = bytes.fromhex("07ff82012c014200")

BYTES, STRING, INT, UINT = 5, 6, 2, 3


# A writer for hostile definitions; what Go's own encoder writes is in the recordings.


def uint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([256 - len(digits)]) + digits


def sint(value: int) -> bytes:
    return uint(2 * value if value >= 0 else 2 * ~value + 1)


def text(value: str) -> bytes:
    return uint(len(value)) + value.encode()


def message(content: bytes) -> bytes:
    return uint(len(content)) + content


def struct(type_id: int, *fields: tuple[str, int]) -> bytes:
    listed = b"".join(b"\1" + text(name) + b"\1" + sint(of) + b"\0" for name, of in fields)
    content = b"\3\1\1" + text("T") + b"\1" + sint(type_id) + b"\0\1" + uint(len(fields)) + listed
    return message(sint(-type_id) + content + b"\0\0")


def slice_of(type_id: int, element: int) -> bytes:
    return message(sint(-type_id) + b"\2\1\1" + text("S") + b"\0\1" + sint(element) + b"\0\0")


def map_of(type_id: int, key: int, element: int) -> bytes:
    ends = b"\1" + sint(key) + b"\1" + sint(element)
    return message(sint(-type_id) + b"\4\1\1" + text("M") + b"\0" + ends + b"\0\0")


def value(type_id: int, content: bytes) -> bytes:
    return message(sint(type_id) + content)


def read(stream: bytes, **fields: Schema) -> list[Any]:
    return StreamDecoder(Struct(fields)).decode(stream)[:-1]


def refused(stream: bytes, **fields: Schema) -> None:
    decoder = StreamDecoder(Struct(fields))
    with pytest.raises(ProtocolError) as error:
        decoder.decode(stream)
    assert "gob" == error.value.error_class
    assert {"known": 0} == decoder.statistics()


def test_the_example_of_gobs_documentation() -> None:
    assert [22, 33] == read(POINT + POINT_22_33, X=Signed(64), Y=Signed(64))


def test_definitions_are_read_as_they_stand() -> None:
    content = POINT[3:]  # behind length and id
    definition, end = DefinitionReader().parse_wire_type(content, 0)
    assert WireType(struct=(("X", INT), ("Y", INT))) == definition
    assert len(content) == end


def test_fields_are_matched_by_name_and_the_rest_is_skipped() -> None:
    assert [33] == read(POINT + POINT_22_33, Y=Signed(8))
    assert [0, 22] == read(POINT + POINT_22_33, Z=Unsigned(8), X=Signed(8))


def test_a_stream_of_no_known_field_is_refused() -> None:
    refused(POINT + POINT_22_33, Z=Signed(64))


def test_a_known_field_of_another_type_is_refused_even_where_it_is_absent() -> None:
    refused(POINT + value(65, b"\2\2\0"), X=Text(), Y=Signed(64))


def test_numbers_that_overflow_the_schema_are_refused() -> None:
    assert [127, -128] == read(POINT + value(65, b"\1" + sint(127) + b"\1" + sint(-128) + b"\0"),
                               X=Signed(8), Y=Signed(8))  # fmt: skip
    refused(POINT + value(65, b"\1" + sint(128) + b"\0"), X=Signed(8))
    refused(POINT + value(65, b"\1" + sint(-129) + b"\0"), X=Signed(8))
    counted = struct(65, ("N", UINT))
    assert [65535] == read(counted + value(65, b"\1" + uint(65535) + b"\0"), N=Unsigned(16))
    refused(counted + value(65, b"\1" + uint(65536) + b"\0"), N=Unsigned(16))


def test_the_end_of_the_message_ends_the_struct_and_what_follows_is_not_read() -> None:
    assert [22, 0] == read(POINT + value(65, b"\1\x2c"), X=Signed(64), Y=Signed(64))
    assert [22, 33] == read(POINT + POINT_22_33 + b"garbage", X=Signed(64), Y=Signed(64))
    with_rest = value(65, b"\1\x2c\0 and more")
    assert [22, 0] == read(POINT + with_rest, X=Signed(64), Y=Signed(64))


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\0",
        POINT,  # no value
        POINT + b"\x08\xff\x82\x01\x2c\x01\x42\x00",  # a byte too few
        POINT + value(66, b"\0"),  # a type never defined
        POINT + value(65, b"\4\2\0"),  # field 3 of two
        POINT + value(65, b"\xf7\0\0\0\0\0\0\0\0\1\2\0"),  # a number of nine bytes
        POINT + value(65, b"\1"),  # a field without its value
        POINT + POINT + POINT_22_33,  # defined twice
        struct(63, ("X", INT)) + value(63, b"\1\2\0"),  # a reserved id
        struct(65, ("", INT), ("X", INT)) + value(65, b"\2\2\0"),  # a field without a name
        struct(65, ("X", INT), ("Other", 99)) + value(65, b"\1\2\0"),  # of an unknown type
        slice_of(65, INT) + value(65, b"\0\0"),  # not a struct
        POINT[:-1] + b"\0\0" + POINT_22_33,
    ],
)
def test_streams_that_go_refuses_are_refused(stream: bytes) -> None:
    refused(stream, X=Signed(64))


def test_counts_beyond_the_data_are_refused_before_anything_is_made_of_them() -> None:
    for definition in (slice_of(66, STRING), map_of(66, STRING, STRING)):
        stream = struct(65, ("X", 66)) + definition + value(65, b"\1" + uint(1 << 40) + b"\0")
        refused(stream, X=List(Text()))
        refused(stream, X=Dict(Text()))
        refused(stream + b"", Y=Text())


def test_unknown_fields_are_skipped_whatever_they_are() -> None:
    unknown = (
        struct(65, ("List", 66), ("Map", 67), ("Struct", 68), ("Bytes", BYTES), ("X", INT))
        + slice_of(66, 67) + map_of(67, STRING, 68) + struct(68, ("A", UINT), ("B", STRING))
    )  # fmt: skip
    inner = b"\1\7\1" + text("b") + b"\0"
    content = (
        b"\1" + uint(2) + uint(1) + text("key") + inner + uint(0)
        + b"\1" + uint(1) + text("k") + inner + b"\1" + inner + b"\1" + text("raw")
        + b"\1" + sint(-5) + b"\0"
    )  # fmt: skip
    assert [-5] == read(unknown + value(65, content), X=Signed(64))


def test_a_type_that_contains_itself_is_skipped_to_a_bounded_depth() -> None:
    nested = struct(65, ("X", INT), ("Self", 66)) + struct(66, ("Self", 66))
    assert [1] == read(nested + value(65, b"\1\2\1" + b"\1" * 50 + b"\0" * 52), X=Signed(64))
    deep = 200_000
    refused(nested + value(65, b"\1\2\1" + b"\1" * deep + b"\0" * (deep + 2)), X=Signed(64))


def test_steps_between_fields_may_be_written_at_length_without_reading_anything_twice() -> None:
    depth = 100  # reading each level twice would take for ever
    chain = [struct(66 + n, ("In", 67 + n), ("N", INT)) for n in range(depth)]
    definitions = struct(65, ("Chain", 66), ("X", INT)) + b"".join(chain) + struct(66 + depth)
    long_step = b"\xff\x01"
    nested = b"\1" * depth + b"\0" + (long_step + b"\2\xff\0") * depth
    content = b"\1" + nested + long_step + b"\x2c\0"
    assert [22] == read(definitions + value(65, content), X=Signed(64))


def test_definitions_are_limited() -> None:
    many = b"".join(struct(65 + n, ("X", INT)) for n in range(MOST_DEFINITIONS + 1))
    assert [1] == read(many[: many.index(struct(65 + MOST_DEFINITIONS, ("X", INT)))]
                       + value(65, b"\1\2\0"), X=Signed(64))  # fmt: skip
    refused(many + value(65, b"\1\2\0"), X=Signed(64))


def test_known_definitions_are_few_and_their_order_does_not_matter() -> None:
    decoder = StreamDecoder(Struct({"X": Signed(64)}), most_known=2)
    senders = [struct(65, ("X", INT), (f"Extra{n}", INT)) for n in range(5)]
    for definitions in senders + senders[::-1]:
        assert 1 == decoder.decode(definitions + value(65, b"\1\2\0"))[0]
    assert {"known": 2} == decoder.statistics()


def test_a_part_that_repeats_is_made_once_and_never_mixed_up() -> None:
    made: list[tuple[bytes, ...]] = []

    def make(found: list[bytes]) -> tuple[bytes, ...]:
        made.append(tuple(found))
        return tuple(found)

    fields: dict[str, Schema] = {"L": Repeated(List(Text()), make), "N": Signed(64)}
    decoder = StreamDecoder(Struct(fields))
    definitions = struct(65, ("L", 66), ("N", INT)) + slice_of(66, STRING)
    short = [("abcdef",), ("abcdef", "b"), ("abcdeg", "b")]
    long = [("a" * 70, "b"), ("a" * 70, "c"), ("a" * 70,)]
    unremembered = [("a",), ("a" * 5000,)]  # too short to look up, too long to keep
    known = [("known",)] * 2  # definitions are known for good from the second time on
    for number, wanted in enumerate(known + (short + long + unremembered) * 3):
        if number == len(known):
            made.clear()
        encoded = uint(len(wanted)) + b"".join(map(text, wanted))
        stream = definitions + value(65, b"\1" + encoded + b"\1" + sint(number) + b"\0")
        found, count, _ = decoder.decode(stream)
        assert (tuple(s.encode() for s in wanted), number) == (found, count)
    assert len(short + long) + 3 * len(unremembered) == len(made)
