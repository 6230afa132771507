r"""DNS messages: bytes in, a message out, or ``ProtocolError``; nothing else escapes.

Strategy: one walk over header, questions and answers. A compression pointer must point
before the name it stands in, so that names end; a name has at most 255 bytes. What was cut
off by whoever captured it is read as far as it goes. The sections behind the answers are
walked only for the EDNS record, whose bits extend the response code, and are not required to
be well-formed.

Names are text as Cilium's DNS proxy writes it: a dot behind each label, specials with a
backslash, bytes that do not print as ``\DDD``.

Formats: RFC 1035 section 4, RFC 6891 (EDNS). Not done: contents of records other than A,
AAAA and CNAME, which Hubble does not show.
"""

from __future__ import annotations

from struct import Struct
from types import MappingProxyType
from typing import NamedTuple

from parsers.errors import ProtocolError

HEADER_BYTES = 12
A, CNAME, AAAA, OPT = 1, 5, 28, 41

_HEADER = Struct(">HHHHHH")
_QUESTION = Struct(">HH")
_RECORD = Struct(">HHIH")
_FIRST_NAME = b"\xc0\x0c"  # a pointer to what begins behind the header
_LONGEST_NAME = 255
_MOST_POINTERS = 16  # of a name; compression as it is done needs a few, and time is at stake
_ADDRESS_BYTES = MappingProxyType({A: 4, AAAA: 16})
_RESPONSE, _CUT_BY_SERVER = 0x8000, 0x0200
_SPECIAL = frozenset(b".'@;()\"\\ ")
_TEXT = tuple(
    b"\\%c" % byte if byte in _SPECIAL else b"%c" % byte if 0x20 < byte < 0x7F else b"\\%03d" % byte
    for byte in range(256)
)
_PLAIN = bytes(byte for byte, text in enumerate(_TEXT) if len(text) == 1)


class DnsMessage(NamedTuple):
    """``queries``: names and types asked for. Lists of the answer section in its order:
    ``addresses`` (4 or 16 bytes), ``cnames``, ``types``. ``ttl``: the least of A, AAAA and CNAME
    records, 0 without any. ``whole``: nothing was cut off by the capture.
    """

    id: int
    is_response: bool
    opcode: int
    rcode: int  # with the bits of EDNS
    is_truncated: bool  # by the server: the client asks again by TCP
    queries: tuple[tuple[bytes, int], ...]
    addresses: tuple[bytes, ...]
    cnames: tuple[bytes, ...]
    types: tuple[int, ...]
    ttl: int
    whole: bool


class _Cut(Exception):  # noqa: N818 - no error: the capture ends here
    """The message goes on behind what was captured."""


def parse_message(data: bytes, *, cut: bool = False) -> DnsMessage:
    """A message without TCP's length. ``cut``: the capture is shorter than the message was.

    Raises ``ProtocolError`` when it is no DNS message, or cut before its first question ends.
    """
    if len(data) < HEADER_BYTES:
        raise _error(f"DNS message has {len(data)} bytes", data)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if len(data) + 1 < HEADER_BYTES + 5 * questions and not cut:
        raise _error(f"DNS message of {len(data)} bytes claims {questions} questions", data)
    queries: list[tuple[bytes, int]] = []
    found = _Answers()
    whole = True
    try:
        at = _read_questions(data, questions, queries)
        at = found.read(data, at, answers)
        rcode = flags & 15 | _extended_rcode(data, at, authorities, additional)
    except _Cut:
        if not cut:
            raise _error("DNS message ends before its records do", data) from None
        if questions and not queries:
            raise _error("DNS message was cut off in its first question", data) from None
        whole, rcode = False, flags & 15
    return DnsMessage(
        number,
        flags & _RESPONSE != 0,
        flags >> 11 & 15,
        rcode,
        flags & _CUT_BY_SERVER != 0,
        tuple(queries),
        tuple(found.addresses),
        tuple(found.cnames),
        tuple(found.types),
        found.ttl or 0,
        whole,
    )


def read_name(data: bytes, at: int) -> tuple[bytes, int]:
    """The name at ``at`` and where it ends. Raises ``ProtocolError``, or ``_Cut``."""
    parts: list[bytes] = []
    end = 0  # behind the first pointer, if there is one
    size, pointers = 1, 0
    segment = at  # where what is read now began: pointers lead before it
    while True:
        if at >= len(data):
            raise _Cut
        length = data[at]
        if length >= 0xC0:
            if at + 2 > len(data):
                raise _Cut
            target = (length & 0x3F) << 8 | data[at + 1]
            if target >= segment:
                raise _error("DNS name points forward", data)
            end = end or at + 2
            at = segment = target
            pointers += 1
            if pointers > _MOST_POINTERS:
                raise _error(f"DNS name has more than {_MOST_POINTERS} pointers", data)
            continue
        if length >= 0x40:
            raise _error(f"DNS label has the unknown type {length >> 6}", data)
        at += 1
        if not length:
            return b"".join(parts) or b".", end or at
        size += length + 1
        if size > _LONGEST_NAME:
            raise _error("DNS name is longer than 255 bytes", data)
        if at + length > len(data):
            raise _Cut
        label = data[at : at + length]
        if label.translate(None, _PLAIN):
            label = b"".join(map(_TEXT.__getitem__, label))
        parts += (label, b".")
        at += length


def _read_questions(data: bytes, count: int, queries: list[tuple[bytes, int]]) -> int:
    at = HEADER_BYTES
    for _ in range(count):
        name, at = read_name(data, at)
        if at + _QUESTION.size > len(data):
            raise _Cut
        type_, _ = _QUESTION.unpack_from(data, at)
        queries.append((name, type_))
        at += _QUESTION.size
    return at


class _Answers:
    """The answer section while it is read."""

    __slots__ = ("addresses", "cnames", "ttl", "types")

    def __init__(self) -> None:
        self.addresses: list[bytes] = []
        self.cnames: list[bytes] = []
        self.types: list[int] = []
        self.ttl: int | None = None

    def read(self, data: bytes, at: int, count: int) -> int:
        for _ in range(count):
            if data[at : at + 2] == _FIRST_NAME and at > HEADER_BYTES:
                at += 2  # nearly always; that name was read
            else:
                _, at = read_name(data, at)
            type_, ttl, body, at = _record(data, at)
            if at > len(data):
                raise _Cut
            self._take(data, type_, ttl, body, at)
        return at

    def _take(self, data: bytes, type_: int, ttl: int, body: int, end: int) -> None:
        if type_ in _ADDRESS_BYTES:
            if end - body != _ADDRESS_BYTES[type_]:
                raise _error(f"DNS address has {end - body} bytes", data)
            self.addresses.append(data[body:end])
        elif type_ == CNAME:
            name, behind = read_name(data, body)
            if behind != end:
                raise _error("DNS name does not fill its record", data)
            self.cnames.append(name)
        self.types.append(type_)
        if type_ in (A, AAAA, CNAME):
            self.ttl = ttl if self.ttl is None else min(self.ttl, ttl)


def _record(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Type, TTL, and where the contents of a record begin and end, behind its name."""
    body = at + _RECORD.size
    if body > len(data):
        raise _Cut
    type_, _, ttl, length = _RECORD.unpack_from(data, at)
    return type_, ttl, body, body + length


def _extended_rcode(data: bytes, at: int, authorities: int, additional: int) -> int:
    """The upper bits of the response code, from the EDNS record."""
    try:
        for number in range(authorities + additional):
            _, at = read_name(data, at)
            type_, ttl, _, end = _record(data, at)
            if type_ == OPT and number >= authorities:
                return ttl >> 24 << 4
            at = end
    except (_Cut, ProtocolError):
        pass
    return 0


def _error(text: str, data: bytes) -> ProtocolError:
    return ProtocolError(text, excerpt=data[:16])
