"""Access logs as nearly all are: recognised piece by piece instead of decoded.

Of the two kilobytes of a record only some hundred bytes change from one to the next: time,
ports, request id, URL, answer. What stands between them repeats, and is looked up by its
exact bytes:

    type | TIME | node, direction | id, addresses | PORT | identity, labels | (the same for
    the other side) | address family, verdict | INFO | transport | HTTP or DNS

Gob reads from left to right without looking ahead, so equal bytes in an equal place mean
the same. A piece is remembered when the readers of ``parsers.gob`` have read it and where
it ends is beyond doubt: its values, encoded, are the piece. Header names and values are
stepped over, as their order is any. Whatever is not usual (further fields, long texts) is
left to those readers, and so are all errors.

``read`` does this for one record, ``walk`` for many in a compiled loop, which learns nothing:
it finds what ``read`` has learned, and leaves all else to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.access_log_meaning import (
    DIRECTIONS,
    TYPES,
    VERDICTS,
    AccessLogKind,
    AccessLogMeanings,
    AccessLogSide,
    Labels,
)
from parsers.access_log_pieces import DNS, HTTP, KIND, SIDE, URL, KnownPieces
from parsers.access_log_schema import ENDPOINT, PARTS, RECORD
from parsers.errors import ProtocolError
from parsers.flow_batch import I64, L7_DNS, L7_HTTP
from parsers.go_url import accepts_url, is_plain_url
from parsers.gob import Sender
from parsers.gob_schema import Compiler
from parsers.gob_values import Reader, read_texts
from parsers.l7_content import Part

Found: TypeAlias = tuple[
    AccessLogKind, AccessLogSide, AccessLogSide, int, int, bytes, bytes, bytes,
    Labels | None, tuple[Part, ...],
]  # fmt: skip
"""Kind, source, destination, their ports, timestamp, request id, traceparent, labels, parts."""


@dataclass(slots=True)
class Recognised:
    """Some of many records, column by column; where ``type`` is 0, nothing is known.

    ``parts``: of each record, as ``AccessLogL7`` has them. ``rest``: those that are not
    recognised, and those that say something about another: place, type, begin and end of the
    request id in ``bytes``, begin of the trace id (0: none), ns since the epoch.
    """

    kind: list[Any]  # these of AccessLogs' types, or anything where nothing is known
    source: list[Any]
    destination: list[Any]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    labels: list[Any]
    type: list[int]
    parts: Sequence[Any]
    rest: Iterable[tuple[int, ...]]
    bytes: bytes

    @classmethod
    def none(cls, count: int) -> Recognised:
        """Of so many records none."""
        kind, source, destination, labels = ([None] * count for _ in range(4))
        ports = np.zeros((2, count), dtype=np.uint16)
        return cls(
            kind, source, destination, ports[0], ports[1], labels, [0] * count, [()] * count,
            ((place, 0, 0, 0, 0, 0) for place in range(count)), b"",
        )  # fmt: skip


_FIELDS = (
    "Type", "Timestamp", "NodeAddressInfo", "ObservationPoint", "SourceEndpoint",
    "DestinationEndpoint", "IPVersion", "Verdict", "Info", "Metadata", "TransportProtocol",
    "FlowEvent", "ServiceInfo", "DropReason", "HTTP", "Kafka", "DNS", "L7",
)  # fmt: skip
_DENIED = (3, 0xFF, 133)  # DropReason: by policy, the only one that proxies give
# What stands between TransportProtocol and the part, the step to the part, and the part.
_PARTS = (
    ((), 4, L7_HTTP), ((), 6, L7_DNS), (_DENIED, 1, L7_HTTP), (_DENIED, 3, L7_DNS),
)  # fmt: skip

_MOST_SIDES = 8192  # pieces of each sort; then its table starts anew
_MOST_PARTS = 4096
_LONGEST_TAIL = 1024  # bytes of a piece that is remembered
_LONGEST_PART = 256
_FOLLOWED = (b"X-Request-Id", b"Traceparent")


class _UnusualError(Exception):
    """The record must be decoded."""


class UsualRecords:
    """Recognises the records of one sender; ``of`` says whether they are usual at all."""

    __slots__ = (
        "_answers", "_begin", "_heads", "_kinds", "_meanings", "_node", "_read_dns",
        "_read_endpoint", "_read_http", "_read_node", "_sides", "_type_length", "_urls",
        "definitions", "pieces", "readers",
    )  # fmt: skip

    def __init__(self, sender: Sender, ids: dict[str, int], meanings: AccessLogMeanings) -> None:
        compiler = Compiler(sender.types)
        self.definitions = sender.definitions
        self._begin = 1 + len(sender.definitions)  # behind the message type
        self._meanings = meanings
        self._read_node = compiler.reader(ids["NodeAddressInfo"], RECORD.fields["NodeAddressInfo"])
        self._read_endpoint = compiler.reader(ids["SourceEndpoint"], ENDPOINT)
        self._read_http = compiler.reader(ids["HTTP"], PARTS["HTTP"].inner)
        self._read_dns = compiler.reader(ids["DNS"], PARTS["DNS"].inner)
        self._type_length = len(sender.type_id) + 1
        types = {sender.type_id + b"\1" + _text(text) + b"\1": text for text in TYPES}
        directions = {b"\1" + _text(text) + b"\1": text for text in DIRECTIONS}
        self._node = b""  # none was seen
        ends = {
            # The address family is absent for IPv4, as zero always is.
            (b"\2", b"\1\1\1")[version] + _text(verdict) + bytes([protocol, *drop, step]):
            (version, verdict, protocol, record)
            for version, verdict, protocol, (drop, step, record) in product(
                (0, 1), VERDICTS, (6, 17), _PARTS
            )
        }  # fmt: skip
        self._kinds = {
            a + b + c: meanings.kind(type_text, direction, *rest)
            for (a, type_text), (b, direction), (c, rest) in product(
                types.items(), directions.items(), ends.items()
            )
        }
        self._sides: dict[bytes, tuple[bytes, tuple[AccessLogSide, AccessLogSide]]] = {}
        self._heads: dict[tuple[bytes, bytes, int], Labels] = {}
        self._answers: dict[tuple[bytes, int], Labels] = {}
        self._urls: set[bytes] = set()
        self.readers: dict[int, Reader] = {L7_HTTP: self._read_http, L7_DNS: self._read_dns}
        self.pieces: KnownPieces | None = None
        if compiled.kernels is not None:
            self.pieces = KnownPieces(
                sender.definitions, self._type_length, skip_query=not meanings.query_labels
            )
            self._tell_kinds(self.pieces)

    @classmethod
    def of(cls, sender: Sender, meanings: AccessLogMeanings) -> UsualRecords | None:
        """None when the sender's definitions are in another order than all known releases'."""
        root = sender.fields(sender.root)
        ids = dict(root)
        usual = tuple(ids) == _FIELDS and len(root) == len(ids)
        for name, schema in (("SourceEndpoint", ENDPOINT), ("HTTP", PARTS["HTTP"].inner),
                             ("DNS", PARTS["DNS"].inner)):  # fmt: skip
            usual = usual and tuple(n for n, _ in sender.fields(ids[name])) == tuple(schema.fields)
        return cls(sender, ids, meanings) if usual else None

    def statistics(self) -> dict[str, int]:
        """Fill of every table; ``pieces`` has the same again."""
        return {
            "known_sides": len(self._sides),
            "known_parts": len(self._heads) + len(self._answers),
            "known_urls": len(self._urls),
        }

    def read(self, data: bytes) -> Found | None:
        """A record that begins with ``definitions``, or None when it must be decoded."""
        try:
            end, at = len(data), self._begin
            if data[at] != 0xFE or at + 3 + (data[at + 1] << 8 | data[at + 2]) != end:
                raise _UnusualError
            at += 3
            stop = at + self._type_length
            stop += data[stop] + 2
            type_piece = data[at:stop]
            length = data[stop]
            if length > 127:
                raise _UnusualError
            at = stop + 1 + length
            timestamp = data[stop + 1 : at]
            if not (self._node and data.startswith(self._node, at)):
                self._learn_node(data, at)
            at += len(self._node)
            stop = at + data[at + 1] + 3
            direction_piece = data[at:stop]
            source, source_port, at = self._side(data, stop)
            if data[at] != 1:
                raise _UnusualError
            destination, destination_port, at = self._side(data, at + 1)
            stop = at + 2 if data[at] == 1 else at  # an address family stands first
            stop += data[stop + 1] + 2
            verdict_piece = data[at:stop]
            step, at = 3, stop
            if data[at] == 1:  # Info: text that is not shown
                length = data[at + 1]
                if length > 127:
                    raise _UnusualError
                step, at = 2, at + 2 + length
            if data[at] == step - 1:  # Metadata: texts that are not shown
                _, at = read_texts(data, at + 1)
                step = 1
            if data[at] != step:
                raise _UnusualError
            stop = at + 3
            if data[stop - 1] == _DENIED[0]:
                stop += len(_DENIED)
            kind = self._kinds[type_piece + direction_piece + verdict_piece + data[at + 1 : stop]]
            version = kind.ip_version - 1
            request_id = traceparent = b""
            if kind.l7_record == L7_HTTP:
                labels, request_id, traceparent = self._http(data, stop, end, kind.type)
                part = (L7_HTTP, data[stop : end - 1], self._read_http)
            else:
                labels = self._dns(data, stop, end, kind.type)
                part = (L7_DNS, data[stop : end - 1], self._read_dns)
            return (
                kind, source[version], destination[version], source_port, destination_port,
                timestamp, request_id, traceparent, labels, (part,),
            )  # fmt: skip
        except (_UnusualError, IndexError, KeyError, ProtocolError):
            return None

    def walk(self, buffer: NDArray[np.uint8], offset: I64, length: I64) -> Recognised | None:
        """The records at ``offset``, behind which 192 bytes stand; None without a walk."""
        if self.pieces is None:
            return None
        walked = self.pieces.walk(buffer, offset, length)
        if walked is None:
            self._forget()
            return None
        traits = self.pieces.traits(walked.kind)
        type_ = traits >> 8 & 0xFF
        ends, l7 = walked.end.tolist(), (traits >> 16).tolist()
        meaning = self.pieces.meanings.__getitem__
        texts = [walked.parts[begin:end] for begin, end in pairwise([0, *ends])]
        rest = ((walked.kind == 0) | (walked.request != 0) | (walked.trace != 0)).nonzero()[0]
        told = np.array(
            [rest, type_[rest]]
            + [
                column[rest]
                for column in (walked.request, walked.request_end, walked.trace, walked.time)
            ]
        )
        return Recognised(
            list(map(meaning, walked.kind.tolist())),
            list(map(meaning, walked.source.tolist())),
            list(map(meaning, walked.destination.tolist())),
            walked.source_port.astype(np.uint16),
            walked.destination_port.astype(np.uint16),
            list(map(meaning, walked.labels.tolist())),
            type_.tolist(),
            list(zip(zip(l7, texts, map(self.readers.get, l7), strict=True), strict=True)),
            zip(*told.tolist(), strict=True),
            walked.parts,
        )

    def _learn_node(self, data: bytes, at: int) -> None:
        _, stop = self._read_node(data, at + 1)
        if data[at] != 1 or stop == len(data) or stop - at > _LONGEST_TAIL:
            raise _UnusualError
        self._node = data[at:stop]
        if self.pieces is not None:
            self.pieces.see_node(self._node)

    def _side(
        self, data: bytes, begin: int
    ) -> tuple[tuple[AccessLogSide, AccessLogSide], int, int]:
        """A side as either address family sees it, its port, and the offset behind it."""
        # Steps over the fields before the port unchecked: a head that this gets wrong is
        # never one of those that are known.
        field = data[begin]
        at = begin + 1
        if field == 1:
            length = data[at]
            at += 1 if length < 128 else 257 - length
            field += data[at]
            at += 1
        if field == 2:
            at += data[at] + 1
            field += data[at]
            at += 1
        if field == 3:
            at += data[at] + 2
        head = data[begin:at]
        port = data[at]
        if port == 254:
            port = data[at + 1] << 8 | data[at + 2]
            at += 3
        elif port < 128:  # as 53
            at += 1
        else:
            raise _UnusualError
        known = self._sides.get(head)
        if known is None or not data.startswith(known[0], at):
            known = self._learn_side(data, begin, head, at)
        return known[1], port, at + len(known[0])

    def _learn_side(
        self, data: bytes, begin: int, head: bytes, at: int
    ) -> tuple[bytes, tuple[AccessLogSide, AccessLogSide]]:
        values, stop = self._read_endpoint(data, begin)
        if stop == len(data) or head != _encoded(_uint(values[0]), *map(_text, values[1:3])):
            raise _UnusualError
        side = self._meanings.side
        known = data[at:stop], (side(values, 0), side(values, 1))
        if len(known[0]) <= _LONGEST_TAIL:
            self._keep(self._sides, _MOST_SIDES, head, known)
            self._tell(SIDE, head, known[1], tail=known[0])
        return known

    def _http(self, data: bytes, begin: int, end: int, type_: int) -> tuple[Labels, bytes, bytes]:
        """Labels, request id and traceparent of the HTTP part that ends the record."""
        at = begin
        if data[at] == 1:  # responses have a code
            length = data[at + 1]
            at += 2 if length < 128 else 258 - length
        at += data[at + 1] + 3
        head = data[begin:at]
        length = data[at]
        at += 1
        if length > 127:
            if length != 255:
                raise _UnusualError
            length = data[at]
            at += 1
        stop = at + length
        url = data[at:stop]
        at = stop + data[stop + 1] + 3
        protocol = data[stop:at]
        labels = self._heads.get((head, protocol, type_)) or self._learn_http(
            data, begin, head, url, protocol, type_
        )
        if url not in self._urls:
            self._accept(url)
        request_id = traceparent = b""
        count = data[at]
        at += 1
        if count > 127:
            raise _UnusualError
        for _ in range(count):
            length = data[at]
            stop = at + 1 + length
            if length > 127:
                raise _UnusualError
            if data[stop] == 1 and data[stop + 1] < 128:
                value = stop + 2
                stop = value + data[stop + 1]
                if length == 12 and data.startswith(b"X-Request-Id", at + 1):
                    request_id = data[value:stop]
                elif length == 11 and data.startswith(b"Traceparent", at + 1):
                    traceparent = data[value:stop]
            elif data[at + 1 : stop] in _FOLLOWED:
                raise _UnusualError
            else:
                _, stop = read_texts(data, stop)
            at = stop
        if data[at]:  # missing or rejected headers, which few records have
            _, stop = self._read_http(data, begin)
            at = stop - 1
        if at + 2 == end and not data[at] and not data[at + 1]:
            return labels, request_id, traceparent
        raise _UnusualError

    def _learn_http(
        self, data: bytes, begin: int, head: bytes, url: bytes, protocol: bytes, type_: int
    ) -> Labels:
        (code, method, read_url, name, *_), _ = self._read_http(data, begin)
        if (
            head != _encoded(_sint(code), _text(method))
            or url != read_url
            or protocol != b"\1" + _text(name) + b"\1"
        ):
            raise _UnusualError
        labels = self._meanings.http_labels(type_, code, method, name)
        if len(head) + len(protocol) <= _LONGEST_PART:
            self._keep(self._heads, _MOST_PARTS, (head, protocol, type_), labels)
            sort = HTTP | type_ << 8 | len(head) << 16
            self._tell(sort, head + protocol, (labels, labels))
        return labels

    def _accept(self, url: bytes) -> None:
        if not accepts_url(url):
            raise _UnusualError
        if len(self._urls) >= _MOST_PARTS:
            self._urls.clear()
        self._urls.add(url)
        if len(url) <= _LONGEST_PART and not is_plain_url(url):
            self._tell(URL, url, (None, None))

    def _dns(self, data: bytes, begin: int, end: int, type_: int) -> Labels:
        """Labels of the DNS part that ends the record."""
        if data[begin] != 1 or data[begin + 1] > 127:
            raise _UnusualError
        rest = begin if self._meanings.query_labels else begin + 2 + data[begin + 1]
        key = data[rest:], type_
        labels = self._answers.get(key)
        if labels is None:
            values, stop = self._read_dns(data, begin)
            if stop + 1 != end or data[stop]:
                raise _UnusualError
            labels = self._meanings.dns_labels(type_, *values)
            if end - rest <= _LONGEST_PART:
                self._keep(self._answers, _MOST_PARTS, key, labels)
                self._tell(DNS | type_ << 8, key[0], (labels, labels))
        return labels

    def _keep(self, table: dict[Any, Any], most: int, key: Any, meaning: Any) -> None:
        if len(table) >= most:
            self._forget()
        table[key] = meaning

    def _tell(
        self, sort: int, head: bytes, meanings: tuple[Any, Any], *, tail: bytes = b""
    ) -> None:
        """Have the walk find what was learned just now."""
        if self.pieces is not None:
            self.pieces.learn(sort, head, meanings, tail=tail)

    def _tell_kinds(self, pieces: KnownPieces) -> None:
        for piece, kind in self._kinds.items():
            traits = kind.l7_record << 16 | kind.type << 8 | kind.ip_version
            pieces.learn(KIND, piece, (kind, kind), traits=traits)

    def _forget(self) -> None:
        """All pieces that were learned, as the walk is told of those alone that are new."""
        self._urls.clear()
        self._sides.clear()
        self._heads.clear()
        self._answers.clear()
        if self.pieces is not None:
            self.pieces.forget()
            self._tell_kinds(self.pieces)


def _encoded(*fields: bytes) -> bytes:
    """The beginning of a struct as Go sends it, up to the field behind these."""
    out, step = b"", 1
    for field in fields:
        if field == b"\0":  # zero, or no text: not sent
            step += 1
        else:
            out += bytes([step]) + field
            step = 1
    return out + bytes([step])


def _uint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([256 - len(digits)]) + digits


def _sint(value: int) -> bytes:
    return _uint(2 * value if value >= 0 else 2 * ~value + 1)


def _text(value: bytes) -> bytes:
    return _uint(len(value)) + value
