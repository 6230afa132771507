"""DNS over TCP: from segments of one direction of a connection to messages.

Strategy: a position in the stream is kept, and segments are taken in the order of their
numbers; a few that came early wait. Each message has its length in front (RFC 1035 section
4.2.2). Only the beginning of a message is kept, ``KEPT`` bytes; what lies behind is skipped
by arithmetic, and so is what the capture cut out of a segment. When the position is lost (a
segment that never came, a length that cannot be), the next segment is taken for the beginning
of a message, which it nearly always is.

All of it is bounded: bytes by ``KEPT`` and what waits, segments that wait by ``EARLY``.
"""

from __future__ import annotations

from typing import NamedTuple

from parsers.dns_message import HEADER_BYTES

KEPT = 4096
"""Bytes of a message that are kept."""

EARLY = 8
"""Segments that may wait for one before them."""

_SPACE = 1 << 32
_LENGTH = 2


class Framed(NamedTuple):
    """A message without its length; ``cut`` when not all of it was kept."""

    data: bytes
    cut: bool


class DnsStream:
    """One direction of a connection. ``resynchronised`` counts how often the place was lost."""

    __slots__ = ("_buffer", "_early", "_next", "_skip", "resynchronised")

    def __init__(self) -> None:
        self._next: int | None = None  # number of the byte that comes next
        self._buffer = bytearray()
        self._skip = 0  # bytes that belong to a message that was handed over
        self._early: dict[int, tuple[bytes, int]] = {}
        self.resynchronised = 0

    def begin(self, sequence: int) -> None:
        """A SYN had this number."""
        self._next = (sequence + 1) % _SPACE
        self._buffer.clear()
        self._early.clear()
        self._skip = 0

    def feed(self, sequence: int, payload: bytes, length: int) -> list[Framed]:
        """Messages that a segment completes; ``payload`` is the captured beginning of
        ``length`` bytes.
        """
        if self._next is None:
            self._next = sequence
        ahead = (sequence - self._next) % _SPACE
        if ahead >= _SPACE // 2:  # old, at least in part
            known = _SPACE - ahead
            if known >= length:
                return []
            payload, length, ahead = payload[known:], length - known, 0
        if ahead:
            if len(self._early) < EARLY:
                self._early[sequence] = payload, length
                return []
            self._lose_place()
            self._next = sequence
        at = self._next
        found = self._take(payload, length)
        at = self._next = (at + length) % _SPACE
        while waiting := self._early.pop(at, None):
            found += self._take(*waiting)
            at = self._next = (at + waiting[1]) % _SPACE
        return found

    def _lose_place(self) -> None:
        """What was begun does not go on: the next bytes may begin a message."""
        self._buffer.clear()
        self._early.clear()
        self._skip = 0
        self.resynchronised += 1

    def _take(self, payload: bytes, length: int) -> list[Framed]:
        """The next bytes of the stream, of which the end may not have been captured."""
        skipped = min(self._skip, length)
        self._skip -= skipped
        self._buffer += payload[skipped:]
        found = self._whole_messages()
        missing = length - max(skipped, len(payload))
        if missing:
            found += self._skip_missing(missing)
        return found

    def _whole_messages(self) -> list[Framed]:
        buffer, found = self._buffer, []
        while len(buffer) >= _LENGTH:
            size = buffer[0] << 8 | buffer[1]
            if size < HEADER_BYTES:
                self._lose_place()
                break
            kept = min(size, KEPT)
            if len(buffer) < _LENGTH + kept:
                break
            found.append(Framed(bytes(buffer[_LENGTH : _LENGTH + kept]), kept < size))
            self._skip = max(0, _LENGTH + size - len(buffer))
            del buffer[: _LENGTH + size]
        return found

    def _skip_missing(self, missing: int) -> list[Framed]:
        """Go on behind bytes that were not captured."""
        buffer = self._buffer
        found: list[Framed] = []
        if not buffer and self._skip >= missing:
            self._skip -= missing
            return found
        if len(buffer) < _LENGTH:
            self._lose_place()
            return found
        size = buffer[0] << 8 | buffer[1]
        rest = _LENGTH + size - len(buffer)
        if len(buffer) >= _LENGTH + HEADER_BYTES:
            found.append(Framed(bytes(buffer[_LENGTH:]), cut=True))
        buffer.clear()
        if rest < missing:  # the next message began where nobody looked
            self.resynchronised += 1
        self._skip = max(0, rest - missing)
        return found
