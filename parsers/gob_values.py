"""Readers of gob values: integers, strings, lists, maps, structs.

A reader is a function (data, offset) -> (value, offset behind it); what it reads is fixed
when it is made. As in Go, the end of the data ends every open struct. IndexError means:
beyond the end, or a field number that the type does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from parsers.gob_wire import bad, read_bytes, read_int, read_uint

Reader: TypeAlias = Callable[[bytes, int], tuple[Any, int]]

_INT64_RANGE = 1 << 63


def read_type_id(data: bytes, at: int) -> tuple[int, int]:
    """The id that begins a message; negative for a definition. Go keeps 32 bits of it."""
    value, at = read_int(data, at)
    return (value + (1 << 31)) % (1 << 32) - (1 << 31), at


# Kinds of a struct's fields that its reader handles itself, without a call.
INLINE_TEXT, INLINE_UNSIGNED, CALL = range(3)
Field: TypeAlias = tuple[int, int, Any]  # kind, slot, reader or largest number


def unsigned_reader(largest: int) -> Reader:
    """An unsigned integer up to ``largest``."""

    def read(data: bytes, at: int) -> tuple[int, int]:
        value, at = read_uint(data, at)
        if value > largest:
            raise bad("unsigned number out of range", at)
        return value, at

    return read


def signed_reader(bound: int) -> Reader:
    """A signed integer in ``[-bound, bound)``."""

    def read(data: bytes, at: int) -> tuple[int, int]:
        value, at = read_int(data, at)
        if not -bound <= value < bound:
            raise bad("signed number out of range", at)
        return value, at

    return read


def marshalled_reader(accepts: Callable[[bytes], bool]) -> Reader:
    """Bytes that a type's own decoder would accept."""

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        value, stop = read_bytes(data, at)
        if not accepts(value):
            raise bad("value that its type's own decoder refuses", at)
        return value, stop

    return read


def tagged_reader(shape: int, inner: Reader) -> Reader:
    """A value together with the shape it came in."""

    def read(data: bytes, at: int) -> tuple[tuple[int, Any], int]:
        value, at = inner(data, at)
        return (shape, value), at

    return read


def kept_reader(inner: Reader) -> Reader:
    """A value, its bytes, and the reader to read them again."""

    def read(data: bytes, at: int) -> tuple[tuple[Any, bytes, Reader], int]:
        value, stop = inner(data, at)
        return (value, data[at:stop], inner), stop

    return read


_HEADS = (64, 6)  # bytes by which a known encoding is looked up: a long one, a short one
_LONGEST_REPEATED = 4096  # bytes; longer encodings are not remembered
_MOST_REPEATED = 1024  # encodings; so at most 4 MiB a part, then it starts anew


def repeated_reader(inner: Reader, make: Callable[[Any], Any]) -> Reader:
    """A value out of few: known encodings are compared, not decoded."""
    long_head, short_head = _HEADS
    known: dict[bytes, list[tuple[bytes, Any]]] = {}
    count = 0

    def read(data: bytes, at: int) -> tuple[Any, int]:
        nonlocal count
        for encoding, value in known.get(data[at : at + long_head], ()):
            if data.startswith(encoding, at):
                return value, at + len(encoding)
        for encoding, value in known.get(data[at : at + short_head], ()):
            if data.startswith(encoding, at):
                return value, at + len(encoding)
        raw, stop = inner(data, at)
        value = make(raw)
        # What the end of the message cut off would match longer values too.
        if stop < len(data) and stop - at <= _LONGEST_REPEATED:
            if count == _MOST_REPEATED:
                known.clear()
                count = 0
            # A head must not reach beyond the encoding, into what does not repeat.
            head = long_head if stop - at >= long_head else short_head
            if stop - at >= head:
                known.setdefault(data[at : at + head], []).append((data[at:stop], value))
                count += 1
        return value, stop

    return read


def list_reader(element: Reader) -> Reader:
    """A slice."""

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = read_uint(data, at)
        if count > len(data) - at:
            raise bad("list has more elements than bytes", at)
        values = []
        for _ in range(count):
            if at == len(data):
                raise bad("list ends too early", at)
            value, at = element(data, at)
            values.append(value)
        return values, at

    return read


read_texts = list_reader(read_bytes)


def map_reader(key: Reader, element: Reader) -> Reader:
    """A map; of equal keys the last one counts."""

    def read(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
        count, at = read_uint(data, at)
        if count >= _INT64_RANGE:  # negative in Go, where such a map is an empty one
            return {}, at
        if count > len(data) - at:
            raise bad("map has more entries than bytes", at)
        values = {}
        for _ in range(count):
            name, at = key(data, at)
            value, at = element(data, at)
            values[name] = value
        return values, at

    return read


def text_lists_reader(data: bytes, at: int) -> tuple[dict[bytes, list[bytes]], int]:
    """A map from strings to slices of strings (HTTP headers), in one loop."""
    count, at = read_uint(data, at)
    if count >= _INT64_RANGE:
        return {}, at
    if count > len(data) - at:
        raise bad("map has more entries than bytes", at)
    values = {}
    end = len(data)
    for _ in range(count):
        stop = at + 1 + data[at]
        if data[at] < 128 and stop < end:
            key = data[at + 1 : stop]
            at = stop
        else:
            key, at = read_bytes(data, at)
        if data[at] == 1 and data[at + 1] < 128 and (stop := at + 2 + data[at + 1]) <= end:
            values[key] = [data[at + 2 : stop]]
            at = stop
        else:
            values[key], at = read_texts(data, at)
    return values, at


def small_numbers_reader(largest: int) -> Reader:
    """A slice of unsigned integers that are nearly always below 128."""
    usual = list_reader(unsigned_reader(largest))

    def read(data: bytes, at: int) -> tuple[list[int], int]:
        stop = at + 1 + data[at]
        numbers = data[at + 1 : stop]
        if stop <= len(data) and data[at] < 128 and numbers.isascii():
            return list(numbers), stop
        return usual(data, at)

    return read


def struct_reader(fields: tuple[Field, ...], zeros: list[Any]) -> Reader:
    """A struct: ``fields`` by number on the wire, ``zeros`` the values of absent ones by slot."""

    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        values = zeros.copy()
        end = len(data)
        field = -1
        while at < end:
            delta = data[at]
            if delta < 128:
                at += 1
            else:
                delta, at = read_uint(data, at)
            if not delta:
                break
            field += delta
            kind, slot, detail = fields[field]
            if kind == INLINE_TEXT:
                length = data[at]
                if length < 128:
                    at += 1
                else:
                    length, at = read_uint(data, at)
                stop = at + length
                if stop > end:
                    raise bad("string is longer than its data", at)
                values[slot] = data[at:stop]
                at = stop
            elif kind == INLINE_UNSIGNED:
                number = data[at]
                if number < 128:
                    at += 1
                else:
                    if number == 254:  # two bytes: ports and most identities
                        number = data[at + 1] << 8 | data[at + 2]
                        at += 3
                    else:
                        number, at = read_uint(data, at)
                    if number > detail:
                        raise bad("unsigned number out of range", at)
                values[slot] = number
            else:
                values[slot], at = detail(data, at)
        return values, at

    return read


def list_skipper(element: Reader) -> Reader:
    """Throws a slice away."""

    def read(data: bytes, at: int) -> tuple[None, int]:
        count, at = read_uint(data, at)
        if count < _INT64_RANGE:  # else negative in Go, and so an empty list
            at = _skip_elements(element, count, data, at)
        return None, at

    return read


def array_skipper(element: Reader, length: int) -> Reader:
    """Throws an array away."""

    def read(data: bytes, at: int) -> tuple[None, int]:
        count, at = read_uint(data, at)
        if count != length % (1 << 64):
            raise bad("array of another length than its type's", at)
        return None, _skip_elements(element, max(length, 0), data, at)

    return read


def _skip_elements(element: Reader, count: int, data: bytes, at: int) -> int:
    if count > len(data) - at:
        raise bad("list has more elements than bytes", at)
    for _ in range(count):
        if at == len(data):
            raise bad("list ends too early", at)
        _, at = element(data, at)
    return at


def map_skipper(key: Reader, element: Reader) -> Reader:
    """Throws a map away."""

    def read(data: bytes, at: int) -> tuple[None, int]:
        count, at = read_uint(data, at)
        if count >= _INT64_RANGE:
            return None, at
        if count > len(data) - at:
            raise bad("map has more entries than bytes", at)
        for _ in range(count):
            _, at = key(data, at)
            _, at = element(data, at)
        return None, at

    return read


def skip_complex(data: bytes, at: int) -> tuple[None, int]:
    """Throws a complex number away."""
    _, at = read_uint(data, at)
    _, at = read_uint(data, at)
    return None, at


def skip_interface(data: bytes, at: int) -> tuple[None, int]:
    """Throws an interface value away; a concrete type must be defined before."""
    name, at = read_bytes(data, at)
    if name:
        type_id, at = read_type_id(data, at)
        if type_id < 0:
            raise bad("type definition inside a value", at)
        _, at = read_bytes(data, at)
    return None, at
