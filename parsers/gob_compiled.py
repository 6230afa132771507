"""Struct readers written out as Python and compiled, once per type a sender defines.

A loop over fields with a branch on each one's kind costs twice as much as the same reads
written one after the other, and L7 records are what the pipeline spends most of its time
on. The text is made of field numbers alone; names and values of the stream never enter it.

Fields come in rising order, so the written-out reader tests "is it this one?" once for each
field.
"""

from __future__ import annotations

from typing import Any

from parsers.gob_values import INLINE_TEXT, INLINE_UNSIGNED, Field, Reader, struct_reader
from parsers.gob_wire import bad, read_uint

_MOST_FIELDS = 64  # more would be a long text for a struct nobody has

_TEXT = """
        n = data[at]
        if n < 128:
            s = at + 1
        elif n == 255:
            n = data[at + 1]
            s = at + 2
        else:
            n, s = read_uint(data, at)
        at = s + n
        if at > end:
            raise bad("string is longer than its data", s)
        v{slot} = data[s:at]"""

_UNSIGNED = """
        n = data[at]
        if n < 128:
            at += 1
        else:
            if n == 254:  # two bytes: ports and most identities
                n = data[at + 1] << 8 | data[at + 2]
                at += 3
            else:
                n, at = read_uint(data, at)
            if n > d{field}:
                raise bad("unsigned number out of range", at)
        v{slot} = n"""

_CALL = """
        v{slot}, at = d{field}(data, at)"""

_NEXT = """
        if at >= end:
            return [{values}], at
        n = data[at]
        if not n:
            return [{values}], at + 1
        if n < 128:
            at += 1
        else:
            n, at = read_uint(data, at)
            if not n:
                return [{values}], at
        field += n"""


def compiled_struct(fields: tuple[Field, ...], zeros: list[Any]) -> Reader:
    """A reader equal to ``struct_reader`` of the same arguments."""
    if len(fields) > _MOST_FIELDS:
        return struct_reader(fields, zeros)
    names: dict[str, Any] = {"read_uint": read_uint, "bad": bad}
    values = ", ".join(f"v{slot}" for slot in range(len(zeros)))
    lines = ["def read(data, at):", "    end = len(data)", "    field = -1"]
    for slot, zero in enumerate(zeros):
        names[f"z{slot}"] = zero
        lines.append(f"    v{slot} = z{slot}")
    # The step to the first field, as behind each field.
    lines.append("    if True:" + _NEXT.format(values=values))
    for number, (kind, slot, detail) in enumerate(fields):
        names[f"d{number}"] = detail
        template = {INLINE_TEXT: _TEXT, INLINE_UNSIGNED: _UNSIGNED}.get(kind, _CALL)
        lines.append(
            f"    if field == {number}:"
            + template.format(slot=slot, field=number)
            + _NEXT.format(values=values)
        )
    lines.append("    raise IndexError(field)")
    exec("\n".join(lines), names)  # noqa: S102  # made of numbers only, see above
    reader: Reader = names["read"]
    return reader
