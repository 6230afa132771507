"""Times and quoted strings as Go's standard library reads and prints them.

Source: documentation of packages time (layout RFC3339Nano) and strconv (Quote).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_EPOCH_ORDINAL = datetime(1970, 1, 1, tzinfo=UTC).toordinal()
_RFC3339 = re.compile(
    # Go takes one-digit hours and a comma, and any number of digits behind it.
    rb"(\d{4})-(\d\d)-(\d\d)T(\d\d?):(\d\d):(\d\d)(?:[.,](\d+))?(?:Z|([+-])(\d\d):(\d\d))"
)
_FIRST = -62_135_596_800 * 10**9  # 0001-01-01, where google.protobuf.Timestamp begins
_BEHIND_LAST = 253_402_300_800 * 10**9  # 10000-01-01


def parse_rfc3339(text: bytes) -> int | None:
    """Nanoseconds since the epoch, or None when Go or a protobuf Timestamp refuses it."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, zone_hours, zone_minutes = match.groups()[6:]
    try:
        ordinal = datetime(year, month, day, hour, minute, second, tzinfo=UTC).toordinal()
    except ValueError:
        return None
    seconds = (ordinal - _EPOCH_ORDINAL) * 86400 + hour * 3600 + minute * 60 + second
    if sign:
        if int(zone_hours) > 24 or int(zone_minutes) > 60:
            return None
        offset = int(zone_hours) * 3600 + int(zone_minutes) * 60
        seconds += offset if sign == b"-" else -offset
    time = seconds * 10**9 + (int(fraction[:9].ljust(9, b"0")) if fraction else 0)
    return time if _FIRST <= time < _BEHIND_LAST else None


def text(value: bytes) -> str:
    """Strings of the API are UTF-8."""
    return value.decode("utf-8", "replace")


_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def ranged(value: bytes) -> str:
    """As Go ranges over a string: one U+FFFD for each byte that is not UTF-8."""
    return _ESCAPED_BYTE.sub("\ufffd", value.decode("utf-8", "surrogateescape"))


_ESCAPES = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b",
    "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def quote(text: bytes) -> str:
    r"""A string in double quotes with Go's escapes; bytes that are not UTF-8 as ``\xNN``."""
    return '"' + "".join(map(_quoted, text.decode("utf-8", "surrogateescape"))) + '"'


def _quoted(character: str) -> str:
    code = ord(character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that could not be decoded
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
