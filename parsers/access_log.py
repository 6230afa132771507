"""L7 access-log records: the bytes of one record to what a flow needs of it at once.

A record is a gob stream of Cilium's ``LogRecord``. Nearly all are recognised by the pieces
they are made of (``access_log_usual``), and any other is decoded by its definitions. What
only a reader wants (URL, headers, answers, summary) stays encoded in ``AccessLogL7``.

Differences between releases show in the definitions (labels are strings until 1.15,
structs since; DNS answers are ``net.IP`` until 1.16, ``netip.Addr`` since) and need no
hint, except one: Hubble 1.20 no longer looks at Kafka.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsers.access_log_meaning import (
    TYPES,
    AccessLogKind,
    AccessLogMeanings,
    AccessLogSide,
    Labels,
)
from parsers.access_log_schema import RECORD
from parsers.access_log_usual import Found, Recognised, UsualRecords
from parsers.errors import ProtocolError
from parsers.flow_batch import I64, L7_DNS, L7_GENERIC, L7_HTTP, L7_KAFKA, L7_NONE
from parsers.go_text import parse_rfc3339
from parsers.gob import Sender, StreamDecoder
from parsers.l7_content import REQUEST, RESPONSE, AccessLogL7
from parsers.redaction import DEFAULT_REDACTION, Redaction


class AccessLog(NamedTuple):
    """One record."""

    kind: AccessLogKind
    source: AccessLogSide
    destination: AccessLogSide
    source_port: int  # 0 without ports
    destination_port: int
    l7: AccessLogL7


@dataclass(slots=True)
class AccessLogs:
    """Records column by column; ``place`` (int64): of each among those that were given."""

    place: I64
    kind: list[AccessLogKind]
    source: list[AccessLogSide]
    destination: list[AccessLogSide]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    l7: list[AccessLogL7]

    def without(self, places: Iterable[int]) -> AccessLogs:
        """All but those."""
        keep = np.ones(len(self.place), dtype=np.bool_)
        keep[list(places)] = False
        kept = keep.tolist()
        return AccessLogs(
            self.place[keep],
            list(compress(self.kind, kept)),
            list(compress(self.source, kept)),
            list(compress(self.destination, kept)),
            self.source_port[keep],
            self.destination_port[keep],
            list(compress(self.l7, kept)),
        )


LATENCY_CACHE = 10_000  # requests whose response is awaited; as Hubble
_LONGEST_REQUEST_ID = 256  # bytes; longer ones are kept by their hash
_MOST_SECONDS = 64  # whose texts are known
_Z = 90
_MOST_SENDERS = 4  # whose usual records are known
_LARGEST_LATENCY = (1 << 63) - 1


_TRACEPARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-(.*))?", re.DOTALL
)


class AccessLogDecoder:
    """Decodes access-log records; remembers requests to time their responses.

    ``release``: the agent's (major, minor) where known. ``redaction``: what not to show.
    """

    def __init__(
        self,
        release: tuple[int, int] | None = None,
        *,
        redaction: Redaction = DEFAULT_REDACTION,
    ) -> None:
        self._redaction = redaction
        self._kafka = release is None or release < (1, 20)
        self._meanings = AccessLogMeanings(redaction)
        self._stream = StreamDecoder(RECORD)
        self._usual: UsualRecords | None = None
        self._previous: Sender | None = None
        self._usual_of: dict[Sender, UsualRecords | None] = {}
        self._request_times: OrderedDict[bytes, int] = OrderedDict()
        self._trace_ids: OrderedDict[bytes, str] = OrderedDict()
        self._seconds: dict[bytes, int] = {}

    def label_queries(self, *, wanted: bool) -> None:
        """Put the query into ``DnsLabels`` from now on, for metrics that count by it."""
        if wanted != self._meanings.query_labels:
            self._meanings.query_labels = wanted
            # They remember answers with or without what was asked.
            self._usual, self._previous = None, None
            self._usual_of.clear()

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return (
            self._stream.statistics()
            | self._meanings.statistics()
            | (self._usual.statistics() if self._usual else {})
            | {
                "request_times": len(self._request_times),
                "trace_ids": len(self._trace_ids),
            }
        )

    def decode(self, data: bytes | memoryview) -> AccessLog:
        """One record, its message type byte included.

        Raises ProtocolError of class ``gob``, or ``decode`` when the time is none.
        """
        data = bytes(data)
        usual = self._usual
        found = None
        if usual is not None and data.startswith(usual.definitions, 1):
            found = usual.read(data)
        (
            kind, source, destination, source_port, destination_port, timestamp, request_id,
            traceparent, labels, parts,
        ) = found or self._read_any(data)  # fmt: skip
        second = self._seconds.get(timestamp[:20])  # with the point behind it
        fraction = timestamp[20:-1]
        time, latency, trace_id = 0, 0, ""
        if second is None or not fraction.isdigit() or timestamp[-1] != _Z:
            time = self._time(timestamp)
        elif request_id:  # else nothing is timed
            time = second + int(fraction[:9].ljust(9, b"0"))
        if request_id or traceparent:
            if traceparent and kind.type == REQUEST:
                trace_id = _trace_id(traceparent)
            latency, trace_id = self._follow(kind.type, request_id, trace_id, time)
        return AccessLog(
            kind, source, destination, source_port, destination_port,
            AccessLogL7(kind.type, latency, trace_id, labels, parts, self._redaction),
        )  # fmt: skip

    def decode_all(
        self, buffer: NDArray[np.uint8], offset: I64, length: I64
    ) -> tuple[AccessLogs, dict[int, ProtocolError]]:
        """The records at ``offset``, and the error of each place that has none.

        Behind the last of them, ``buffer`` has 192 bytes more.
        """
        count = len(offset)
        usual = self._usual
        seen = usual.walk(buffer, offset, length) if usual is not None else None
        if seen is None:
            seen = Recognised.none(count)
        latencies, trace_ids = [0] * count, [""] * count
        decoded: dict[int, AccessLogL7] = {}
        errors: dict[int, ProtocolError] = {}
        # In order: requests before their responses, senders before what else they send.
        for place, type_, begin, end, trace, time in seen.rest:
            if type_:
                trace_id = seen.bytes[trace : trace + 32].decode() if trace else ""
                latencies[place], trace_ids[place] = self._follow(
                    type_, seen.bytes[begin:end], trace_id, time
                )
                continue
            start = offset[place]
            try:
                log = self.decode(buffer[start : start + length[place]].tobytes())
            except ProtocolError as error:
                errors[place] = error
                continue
            (
                seen.kind[place], seen.source[place], seen.destination[place],
                seen.source_port[place], seen.destination_port[place], decoded[place],
            ) = log  # fmt: skip
        fields = (
            seen.type, latencies, trace_ids, seen.labels, seen.parts, repeat(self._redaction),
        )  # fmt: skip
        # As AccessLogL7._make, which would look at each one's length.
        l7 = list(map(tuple.__new__, repeat(AccessLogL7), zip(*fields, strict=False)))
        for place, record in decoded.items():
            l7[place] = record
        logs = AccessLogs(
            np.arange(count), seen.kind, seen.source, seen.destination,
            seen.source_port, seen.destination_port, l7,
        )  # fmt: skip
        return (logs.without(errors) if errors else logs), errors

    def _read_any(self, data: bytes) -> Found:
        """A record in whatever form the definitions allow."""
        (
            type_text, timestamp, observation_point, source, destination, ip_version, verdict,
            protocol, http, kafka, dns, generic, *_,
        ) = self._stream.decode(data, 1)  # fmt: skip
        if not self._kafka:
            kafka = None
        self._expect_more()
        meanings = self._meanings
        type_ = TYPES.get(type_text, 0)
        request_id = traceparent = b""
        if http:
            headers = http[0][4]
            request_id, traceparent = (
                (headers.get(name) or [b""])[0] for name in (b"X-Request-Id", b"Traceparent")
            )
        labels: Labels | None = None
        l7_record = L7_NONE
        if dns:
            l7_record, labels = L7_DNS, meanings.dns_labels(type_, *dns[0])
        elif http:
            code, method, _, name, *_ = http[0]
            l7_record, labels = L7_HTTP, meanings.http_labels(type_, code, method, name)
        elif kafka:
            l7_record, labels = L7_KAFKA, meanings.kafka_labels(type_, *kafka[0])
        elif generic:
            l7_record = L7_GENERIC
        kind = meanings.kind(type_text, observation_point, ip_version, verdict, protocol, l7_record)
        parts = ((L7_HTTP, http), (L7_KAFKA, kafka), (L7_DNS, dns), (L7_GENERIC, generic))
        return (
            kind,
            meanings.side(source, ip_version),
            meanings.side(destination, ip_version),
            source[3] if kind.l4 else 0,
            destination[3] if kind.l4 else 0,
            timestamp,
            request_id,
            traceparent,
            labels,
            tuple((number, *part[1:]) for number, part in parts if part),
        )

    def _expect_more(self) -> None:
        """Be quick with further records of the sender whose definitions were read."""
        sender = self._stream.latest
        if sender is None:
            return
        if sender in self._usual_of:
            self._usual = self._usual_of[sender]
        elif sender is self._previous:  # definitions that come once are not worth it
            if len(self._usual_of) >= _MOST_SENDERS:
                self._usual_of.clear()
            self._usual = self._usual_of[sender] = UsualRecords.of(sender, self._meanings)
        self._previous = sender

    def _time(self, timestamp: bytes) -> int:
        """Ns since the epoch; remembers the second of a usual text."""
        time = parse_rfc3339(timestamp)
        if time is None:
            raise ProtocolError("access log has no valid time", excerpt=timestamp)
        if timestamp[19:20] == b"." and timestamp[-1:] == b"Z":
            if len(self._seconds) == _MOST_SECONDS:
                self._seconds.clear()
            self._seconds[timestamp[:20]] = time - time % 1_000_000_000
        return time

    def _follow(self, type_: int, request: bytes, trace_id: str, time: int) -> tuple[int, str]:
        """Latency of a response and the trace id, joined by the request's id."""
        if len(request) > _LONGEST_REQUEST_ID:  # too long to keep by the thousands
            request = blake2b(request, digest_size=32).digest()
        if type_ == REQUEST:
            if request:
                _remember(self._request_times, request, time)
                if trace_id:
                    _remember(self._trace_ids, request, trace_id)
            return 0, trace_id
        if type_ != RESPONSE or not request:
            return 0, ""
        latency = time - self._request_times.pop(request, time)
        if not 0 <= latency <= _LARGEST_LATENCY:
            latency = 0 if latency < 0 else _LARGEST_LATENCY
        return latency, self._trace_ids.pop(request, "")


def _remember(cache: OrderedDict[Any, Any], key: bytes, value: Any) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > LATENCY_CACHE:
        cache.popitem(last=False)


def _trace_id(traceparent: bytes) -> str:
    """Trace id of a W3C ``traceparent`` header, or nothing when it is not valid."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return ""
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and (more or int(flags, 16) > 2)):
        return ""
    if not int(trace_id, 16) or not int(span_id, 16):
        return ""
    return trace_id.decode()
