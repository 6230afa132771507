"""Framing of the monitor socket: bytes in, columns of payloads out.

The stream is Go gob: length-prefixed messages, first a definition of the payload
struct, then one message a payload. Strategy: a scalar walk over the length prefixes
(nothing else decides where a message begins, so packet bytes cannot fake one), then a
pass over all messages at once for the fields. Only messages whose bytes have
the one usual shape pass; each other one is decoded field by field. Both ways give the
same columns, and so do the compiled code and its twins here.

Type ids are learned from the stream's own definitions. One ``PayloadStream`` a
connection: ids mean nothing on the next one.

Deliberately not done: resynchronising after a bad length prefix. A stream that broke its
framing is closed by raising ``ProtocolError``; a message that is bad inside costs itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.errors import ProtocolError
from parsers.gob_wire import TypeTable, read_int, read_uint, skip_value
from parsers.windows import windows

MAX_MESSAGE = 1 << 24
"""Largest message accepted, in bytes. A payload is bounded by a perf record (64 kB) or an
access-log record; 16 MiB leaves room for any header a proxy may log, and none for an attack."""

PAYLOAD_SAMPLE = 9
PAYLOAD_LOST = 2

_KEPT_BYTES = 192  # a gather of a record's head may read this far beyond the last message

_LONGEST_PREFIX = 5  # type id and field step, so that three bytes of length fit a word

# Ends of a sample, as little-endian words: CPU (field 1; its number doubled as signed gob has
# it, in one byte, in one or two behind a marker, or left out when 0), Type (field 3) 9, end.
_SMALL_CPU, _SMALL_CPU_MASK = np.uint64(0x0012020001), np.uint64(0xFFFFFF00FF)
_BYTE_CPU, _BYTE_CPU_MASK = np.uint64(0x00120200FF01), np.uint64(0xFFFFFF00FFFF)
_WIDE_CPU, _WIDE_CPU_MASK = np.uint64(0x0012020000FE01), np.uint64(0xFFFFFF0000FFFF)
_NO_CPU = np.uint64(0x001203)

I64: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PayloadBatch:
    """``n`` payloads in order; every column has length ``n``.

    ``buffer``: the bytes they lie in, followed by at least 192 zero bytes.
    ``offset``, ``length`` (int64): each payload's data within ``buffer``.
    ``cpu`` (int64), ``lost`` (uint64), ``kind`` (int64): the struct's CPU, Lost and Type.
    ``malformed``: messages before or between them that were not a payload at all.
    """

    buffer: NDArray[np.uint8]
    offset: I64
    length: I64
    cpu: I64
    lost: NDArray[np.uint64]
    kind: I64
    malformed: int

    def __len__(self) -> int:
        return len(self.offset)

    def data(self, row: int) -> bytes:
        """The bytes of one payload."""
        start = int(self.offset[row])
        return self.buffer[start : start + int(self.length[row])].tobytes()


class PayloadStream:
    """Sans-I/O reader of one connection: ``feed`` bytes, ``take`` batches."""

    __slots__ = ("_buffer", "_failure", "_fields", "_payload_id", "_types", "_usual", "offset")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._types = TypeTable()
        self._payload_id: int | None = None
        self._fields: dict[int, tuple[str, int]] = {}
        self._usual = False
        self._failure: ProtocolError | None = None  # raised once what came before it is taken
        self.offset = 0  # bytes consumed since the connection began

    @property
    def waiting(self) -> int:
        """Bytes fed and not yet taken."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes as they came from the socket."""
        self._buffer += data

    def take(self, limit: int = 5000) -> PayloadBatch | None:
        """The next complete payloads; None when there is none.

        About ``limit`` of them, at most half as many more: a batch has a fixed cost, so
        what little is left over comes along instead of making one of its own.

        Raises ``ProtocolError`` when the stream can no longer be framed: a bad or absurd
        length prefix, or a value whose type was never defined. What came before it is
        returned first; afterwards every call raises.
        """
        while self._failure is None:
            # Until the payload is defined, message by message: the rest goes the fast way.
            starts, end = self._walk(1 if self._payload_id is None else limit + limit // 2)
            if len(starts) > limit and len(starts) == limit + limit // 2:
                end = int(starts[limit])
                starts = starts[:limit]
            if not len(starts):
                break
            batch = self._take_bytes(np.append(starts, end), end)
            self.offset += end
            if len(batch) or batch.malformed:
                return batch
        if self._failure is not None:
            raise self._failure
        return None

    def _take_bytes(self, bounds: I64, end: int) -> PayloadBatch:
        """Decode the messages of the first ``end`` bytes, which leave the buffer."""
        buffer = self._buffer
        size = len(buffer)
        if size - end > end:
            raw = np.empty(end + _KEPT_BYTES, dtype=np.uint8)
            raw[end:] = 0
            raw[:end] = np.frombuffer(memoryview(buffer)[:end], dtype=np.uint8)
            batch = self._decode(raw, bounds)
            del buffer[:end]
            return batch
        # Little is left: the batch keeps this buffer, and the rest begins a new one.
        buffer += bytes(_KEPT_BYTES)
        batch = self._decode(np.frombuffer(buffer, dtype=np.uint8), bounds)
        self._buffer = buffer[end:size]
        return batch

    def _walk(self, limit: int) -> tuple[I64, int]:
        """Where the next whole messages start, and where the last of them ends."""
        if compiled.kernels is not None:
            starts, state = np.empty(limit, dtype=np.int64), np.zeros(2, dtype=np.int64)
            count = compiled.kernels.framing_walk(
                np.frombuffer(self._buffer, dtype=np.uint8), len(self._buffer), limit, starts, state
            )
            if not state[1]:
                return starts[:count], int(state[0])
        found, end = self._walk_any(limit)
        return np.array(found, dtype=np.int64), end

    def _walk_any(self, limit: int) -> tuple[list[int], int]:
        """As ``_walk``, whatever the length prefixes are."""
        buffer = self._buffer
        starts: list[int] = []
        append = starts.append
        position = 0
        try:
            for _ in range(limit):
                first = buffer[position]
                append(position)
                if first == 0xFF:
                    position += 2 + buffer[position + 1]
                elif 0 < first < 0x80:
                    position += 1 + first
                elif first == 0xFE:
                    position += 3 + (buffer[position + 1] << 8 | buffer[position + 2])
                else:
                    position += self._long_message(position, first)
        except ProtocolError as failure:
            self._failure = failure
            starts.pop()
            return starts, position
        except IndexError:  # the buffer ends, maybe inside a length prefix: need more
            if starts and starts[-1] == position:
                starts.pop()
        if position > len(buffer):
            position = starts.pop()
        return starts, position

    def _long_message(self, position: int, first: int) -> int:
        """Size, prefix included, of a message whose length prefix is rare or wrong."""
        if not first:
            raise self._broken("a message of length 0", position)
        if first < 0xF8:
            raise self._broken(f"length marker 0x{first:02x}", position)
        width = 256 - first
        prefix = self._buffer[position + 1 : position + 1 + width]
        if len(prefix) < width:
            raise IndexError
        length = int.from_bytes(prefix, "big")
        if length > MAX_MESSAGE:
            raise self._broken(f"a message of {length} bytes", position)
        return 1 + width + length

    def _broken(self, what: str, position: int) -> ProtocolError:
        return ProtocolError(
            f"monitor stream cannot be framed: {what}",
            error_class="framing",
            offset=self.offset + position,
            excerpt=bytes(self._buffer[position : position + 16]),
        )

    def _decode(self, raw: NDArray[np.uint8], bounds: I64) -> PayloadBatch:
        starts, ends = bounds[:-1], bounds[1:]
        count = len(starts)
        batch = PayloadBatch(
            raw,
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.uint64),
            np.zeros(count, dtype=np.int64),
            0,
        )
        done = self._decode_usual(batch, bounds)
        keep = np.ones(count, dtype=np.bool_)
        malformed = 0
        for row in (~done).nonzero()[0].tolist():
            try:
                keep[row] = self._decode_one(batch, row, int(starts[row]), int(ends[row]))
            except ProtocolError as error:
                if error.error_class == "framing":
                    self._failure = error
                    keep[row:] = False
                    break
                keep[row] = False
                malformed += 1
        if keep.all():
            return batch
        columns = (batch.offset, batch.length, batch.cpu, batch.lost, batch.kind)
        offset, length, cpu, lost, kind = (column[keep] for column in columns)
        return PayloadBatch(raw, offset, length, cpu, lost, kind, malformed)  # type: ignore[arg-type]

    def _decode_usual(self, batch: PayloadBatch, bounds: I64) -> NDArray[np.bool_]:
        """Fill the rows that are a sample with Data, maybe CPU, and Type 9; say which.

        The rest of a row that is none is not meant to be read.
        """
        if not self._usual or self._payload_id is None:
            return np.zeros(len(batch), dtype=np.bool_)
        raw = batch.buffer
        prefix = _encode_int(self._payload_id) + b"\x01"
        width = len(prefix)
        if width > _LONGEST_PREFIX:
            return np.zeros(len(batch), dtype=np.bool_)
        if compiled.kernels is not None:
            done = np.empty(len(batch), dtype=np.bool_)
            compiled.kernels.framing_decode(
                raw, len(batch), bounds, np.frombuffer(prefix, dtype=np.uint8), width,
                batch.offset, batch.length, batch.cpu, done,
            )  # fmt: skip
            batch.kind[done] = PAYLOAD_SAMPLE
            return done
        starts, ends = bounds[:-1], bounds[1:]
        first = raw[starts]
        position = starts + np.where(first < 0x80, 1, 257 - first.astype(np.int64))
        head = windows(raw, position, 8).view(np.uint64)
        usual: NDArray[np.bool_] = head & _mask(width) == int.from_bytes(prefix, "little")
        length = head >> np.uint64(8 * width)  # of the data, by its one to three bytes
        one, two = length & 0xFF == 0xFF, length & 0xFF == 0xFE
        usual &= (length & 0xFF < 0x80) | one | two
        byte, second = length >> 8 & 0xFF, length >> 16 & 0xFF
        length = np.where(one, byte, np.where(two, byte << 8 | second, length & 0xFF))
        length = length.astype(np.int64)
        offset = position + (width + 1) + one + 2 * two
        # A hostile length must not send the next read out of the buffer.
        tail = windows(raw, np.minimum(offset + length, ends), 8).view(np.uint64)
        rest = ends - offset - length
        cpu = tail >> 8 & 0xFF
        small = (tail & _SMALL_CPU_MASK == _SMALL_CPU) & (rest == 5) & (cpu < 0x80)
        cpu[~small] = 0
        ended = small | (tail & _mask(3) == _NO_CPU) & (rest == 3)
        if not ended.all():
            one = (tail & _BYTE_CPU_MASK == _BYTE_CPU) & (rest == 6)
            two = (tail & _WIDE_CPU_MASK == _WIDE_CPU) & (rest == 7)
            cpu[one] = tail[one] >> 16 & 0xFF
            cpu[two] = (tail[two] >> 16 & 0xFF) << 8 | tail[two] >> 24 & 0xFF
            ended |= one | two
        usual &= ended & (cpu & 1 == 0) & (length > 0)
        batch.offset[:] = offset
        batch.length[:] = length
        batch.cpu[:] = cpu >> 1
        batch.kind[:] = PAYLOAD_SAMPLE
        return usual

    def _decode_one(self, batch: PayloadBatch, row: int, start: int, end: int) -> bool:
        """Decode a message field by field into ``row``; False when it was a definition."""
        data = batch.buffer[start:end].tobytes()
        _, position = read_uint(data, 0)
        type_id, position = read_int(data, position)
        if type_id < 0:
            self._types.define(-type_id, data, position)
            self._learn()
            return False
        if type_id not in self._fields_of_payload():
            raise self._broken(f"a value of type {type_id}, which was never defined", start)
        values = {"Data": (0, 0), "CPU": (0, 0), "Lost": (0, 0), "Type": (0, 0)}
        number = -1
        while True:
            delta, position = read_uint(data, position)
            if not delta:
                break
            number += delta
            if number not in self._fields:
                raise ProtocolError(f"payload has no field {number}", error_class="gob")
            name, kind = self._fields[number]
            if name == "Data" and kind == 5:
                length, position = read_uint(data, position)
                values[name] = (start + position, length)
                position += length
            elif name == "Lost" and kind == 3:
                value, position = read_uint(data, position)
                values[name] = (value, 0)
            elif name in ("CPU", "Type") and kind == 2:
                value, position = read_int(data, position)
                values[name] = (value, 0)
            else:
                position = skip_value(self._types, kind, data, position)
            if position > len(data):
                raise ProtocolError("payload ends inside a field", error_class="gob")
        if position != len(data):
            raise ProtocolError("bytes after the payload", error_class="gob", offset=position)
        batch.offset[row], batch.length[row] = values["Data"]
        batch.cpu[row] = _clamp(values["CPU"][0])
        batch.lost[row] = values["Lost"][0]
        batch.kind[row] = _clamp(values["Type"][0])
        return True

    def _learn(self) -> None:
        """Take the payload struct from the definitions: the one that has a Data field."""
        for type_id, fields in self._types.structs():
            names = [name for name, _ in fields]
            if "Data" in names and "Type" in names:
                self._payload_id = type_id
                self._fields = dict(enumerate(fields))
                self._usual = fields[:4] == [("Data", 5), ("CPU", 2), ("Lost", 3), ("Type", 2)]

    def _fields_of_payload(self) -> tuple[int, ...]:
        return () if self._payload_id is None else (self._payload_id,)


def _clamp(value: int) -> int:
    return max(-(2**62), min(2**62, value))


def _encode_int(value: int) -> bytes:
    unsigned = 2 * value if value >= 0 else 2 * (-value - 1) + 1
    if unsigned < 0x80:
        return bytes([unsigned])
    body = unsigned.to_bytes((unsigned.bit_length() + 7) // 8, "big")
    return bytes([256 - len(body)]) + body


def _mask(width: int) -> np.uint64:
    """The lowest bytes of a little-endian word."""
    return np.uint64((1 << 8 * width) - 1)
