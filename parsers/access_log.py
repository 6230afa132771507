"""L7 access-log records: the bytes of one record to what a flow needs of it at once.

A record is a gob stream of Cilium's ``LogRecord``. The stream decoder knows the definitions
of each agent process by their bytes and walks the value alone; labels, which few
identities share, are found by comparing their bytes. What only a reader wants (URL, headers,
answers, summary) stays encoded in ``AccessLogL7``.

Differences between releases show in the definitions (labels are strings until 1.15,
structs since; DNS answers are ``net.IP`` until 1.16, ``netip.Addr`` since) and need no
hint, except one: Hubble 1.20 no longer looks at Kafka.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from hashlib import blake2b
from typing import Any, NamedTuple

from parsers.access_log_schema import RECORD
from parsers.addresses import address_text, parse_address
from parsers.dns_names import type_name
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    L4_NONE,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L7_DNS,
    L7_GENERIC,
    L7_HTTP,
    L7_KAFKA,
    L7_NONE,
)  # fmt: skip
from parsers.go_text import parse_rfc3339, text
from parsers.gob import StreamDecoder
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels
from parsers.l7_content import REQUEST, RESPONSE, SAMPLE, UINT32, AccessLogL7


class AccessLogSide(NamedTuple):
    """One endpoint of a record."""

    endpoint_id: int  # as Hubble prints it, 32 bits
    identity: int
    address: bytes  # 16 bytes, network order, IPv4 mapped; empty when there is none
    address_text: str  # only where it differs from the text of ``address``, else empty
    port: int  # 0 without ports
    labels: tuple[str, ...]  # sorted, ``source:key=value``
    cluster_name: str


class AccessLog(NamedTuple):
    """One record. Enumerations have the Flow API's numbers."""

    verdict: int  # flow.Verdict
    direction: int  # flow.TrafficDirection
    ip_version: int  # flow.IPVersion
    l4: int  # L4_*
    source: AccessLogSide
    destination: AccessLogSide
    l7_record: int  # L7_*
    l7: AccessLogL7

    @property
    def is_reply(self) -> bool:
        """Only responses are."""
        return self.l7.type == RESPONSE


TYPES = {b"Request": REQUEST, b"Response": RESPONSE, b"Sample": SAMPLE}
VERDICTS = {b"Forwarded": 1, b"Denied": 2, b"Error": 3, b"Redirected": 5}
DIRECTIONS = {b"Ingress": 1, b"Egress": 2}
TRANSPORTS = {6: L4_TCP, 17: L4_UDP, 132: L4_SCTP}

LATENCY_CACHE = 10_000  # requests whose response is awaited; as Hubble
_LONGEST_REQUEST_ID = 256  # bytes; longer ones are kept by their hash
_MOST_SECONDS = 64  # whose texts are known
_LONGEST_ADDRESS = 64  # bytes of text
_LONGEST_INTERNED = 512  # bytes and numbers in the key of a label object
_MOST_INTERNED = 8192  # label objects and addresses, each; then the table starts anew
_LARGEST_LATENCY = (1 << 63) - 1


_TRACEPARENT = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-(.*))?", re.DOTALL
)


class AccessLogDecoder:
    """Decodes access-log records; remembers requests to time their responses.

    ``release``: the agent's (major, minor) where known. ``query_labels``: put the query
    into ``DnsLabels``, for metrics that were configured to count by it.
    """

    def __init__(
        self, release: tuple[int, int] | None = None, *, query_labels: bool = False
    ) -> None:
        self._kafka = release is None or release < (1, 20)
        self._query_labels = query_labels
        self._stream = StreamDecoder(RECORD)
        self._request_times: OrderedDict[bytes, int] = OrderedDict()
        self._trace_ids: OrderedDict[bytes, str] = OrderedDict()
        self._seconds: dict[bytes, int] = {}
        self._addresses: dict[bytes, tuple[bytes, str]] = {}
        self._labels: dict[Any, HttpLabels | DnsLabels | KafkaLabels] = {}

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return self._stream.statistics() | {
            "request_times": len(self._request_times),
            "trace_ids": len(self._trace_ids),
            "addresses": len(self._addresses),
            "labels": len(self._labels),
        }

    def decode(self, data: bytes | memoryview) -> AccessLog:
        """One record, its message type byte included.

        Raises ProtocolError of class ``gob``, or ``decode`` when the time is none.
        """
        (
            type_text, timestamp, observation_point, source, destination, ip_version, verdict,
            protocol, http, kafka, dns, generic, *_,
        ) = self._stream.decode(bytes(data), 1)  # fmt: skip
        time = self._time(timestamp)
        type_ = TYPES.get(type_text, 0)
        if not self._kafka:
            kafka = None
        latency, trace_id = self._follow(type_, http[0][4], time) if http else (0, "")
        labels: HttpLabels | DnsLabels | KafkaLabels | None = None
        l7_record = L7_NONE
        if dns:
            l7_record, labels = L7_DNS, self._dns_labels(type_, *dns[0])
        elif http:
            l7_record, labels = L7_HTTP, self._http_labels(type_, http[0])
        elif kafka:
            l7_record, labels = L7_KAFKA, self._kafka_labels(type_, *kafka[0])
        elif generic:
            l7_record = L7_GENERIC
        l4 = TRANSPORTS.get(protocol & 0xFF, L4_NONE)
        return AccessLog(
            VERDICTS.get(verdict, 0),
            DIRECTIONS.get(observation_point, 0),
            ip_version + 1 if ip_version < 2 else 0,
            l4,
            self._side(source, ip_version, l4),
            self._side(destination, ip_version, l4),
            l7_record,
            AccessLogL7(
                type_, latency, trace_id, labels, http and http[1:], kafka and kafka[1:],
                dns and dns[1:], generic and generic[1:],
            ),
        )  # fmt: skip

    def _time(self, timestamp: bytes) -> int:
        """Ns since the epoch; texts of one second are parsed once."""
        second = self._seconds.get(timestamp[:20])  # with the point behind it
        if second is not None:
            fraction = timestamp[20:-1]
            if fraction.isdigit() and timestamp[-1:] == b"Z":
                return second + int(fraction[:9].ljust(9, b"0"))
        time = parse_rfc3339(timestamp)
        if time is None:
            raise ProtocolError("access log has no valid time", excerpt=timestamp)
        if timestamp[19:20] == b"." and timestamp[-1:] == b"Z":
            if len(self._seconds) == _MOST_SECONDS:
                self._seconds.clear()
            self._seconds[timestamp[:20]] = time - time % 1_000_000_000
        return time

    def _follow(self, type_: int, headers: dict[bytes, list[bytes]], time: int) -> tuple[int, str]:
        """Latency of a response and the trace id, joined by the request's id."""
        ids = headers.get(b"X-Request-Id")
        request = ids[0] if ids else b""
        if type_ == REQUEST:
            trace_id = ""
            if b"Traceparent" in headers:
                trace_id = _trace_id(headers[b"Traceparent"])
            if request:
                request = _bounded(request)
                _remember(self._request_times, request, time)
                if trace_id:
                    _remember(self._trace_ids, request, trace_id)
            return 0, trace_id
        if type_ != RESPONSE or not request:
            return 0, ""
        request = _bounded(request)
        begun = self._request_times.pop(request, time)
        return min(max(time - begun, 0), _LARGEST_LATENCY), self._trace_ids.pop(request, "")

    def _side(self, endpoint: list[Any], ip_version: int, l4: int) -> AccessLogSide:
        endpoint_id, ipv4, ipv6, port, identity, (labels, cluster_name), _ = endpoint
        shown = (ipv4, ipv6)[ip_version] if ip_version < 2 else b""
        found = self._addresses.get(shown)
        if found is None:
            found = self._address(shown)
        address, address_text_ = found
        return AccessLogSide(
            endpoint_id & UINT32,
            identity & UINT32,
            address,
            address_text_,
            port if l4 else 0,
            labels,
            cluster_name,
        )

    def _address(self, shown: bytes) -> tuple[bytes, str]:
        found = _address(shown)
        if len(self._addresses) >= _MOST_INTERNED:
            self._addresses.clear()
        if len(shown) <= _LONGEST_ADDRESS:
            self._addresses[shown] = found
        return found

    def _http_labels(self, type_: int, values: list[Any]) -> HttpLabels:
        code, method, _, protocol, *_ = values
        key = (method, protocol, 0 if type_ == REQUEST else code & UINT32)
        labels = self._labels.get(key)
        if labels is None:
            labels = self._intern(key, HttpLabels(text(method), text(protocol), key[2]))
        return labels  # type: ignore[return-value]

    def _dns_labels(
        self, type_: int, query: bytes, ips: tuple[int, list[bytes]], _ttl: int,
        _cnames: list[bytes], _source: bytes, rcode: int, qtypes: list[int], rrtypes: list[int],
        _unknown: Any,
    ) -> DnsLabels:  # fmt: skip
        query = query if self._query_labels else b""
        if type_ == REQUEST:
            key: tuple[Any, ...] = (query, tuple(qtypes), 0, 0, ())
        else:
            key = (query, tuple(qtypes), rcode & UINT32, len(ips[1]), tuple(rrtypes))
        labels = self._labels.get(key)
        if labels is None:
            labels = self._intern(
                key,
                DnsLabels(
                    ",".join(map(type_name, qtypes)),
                    key[2],
                    key[3],
                    tuple(map(type_name, key[4])),
                    text(query),
                ),
            )
        return labels  # type: ignore[return-value]

    def _kafka_labels(
        self, type_: int, error: int, _version: int, key: bytes, _id: int, topic: list[Any],
        _unknown: Any,
    ) -> KafkaLabels:  # fmt: skip
        signed_error = (error + (1 << 31)) % (1 << 32) - (1 << 31)
        names = ("kafka", topic[0], key, 0 if type_ == REQUEST else signed_error)
        labels = self._labels.get(names)
        if labels is None:
            labels = self._intern(names, KafkaLabels(text(topic[0]), text(key), names[3]))
        return labels  # type: ignore[return-value]

    def _intern(self, key: Any, labels: Any) -> Any:
        if sum(len(x) for x in key if not isinstance(x, int)) > _LONGEST_INTERNED:
            return labels
        if len(self._labels) >= _MOST_INTERNED:
            self._labels.clear()
        return self._labels.setdefault(key, labels)


def _bounded(request: bytes) -> bytes:
    """A request id as a key; one that is too long to keep by the thousands is hashed."""
    if len(request) > _LONGEST_REQUEST_ID:
        return blake2b(request, digest_size=32).digest()
    return request


def _remember(cache: OrderedDict[Any, Any], key: bytes, value: Any) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > LATENCY_CACHE:
        cache.popitem(last=False)


def _trace_id(headers: list[bytes]) -> str:
    """Trace id of a W3C ``traceparent`` header, or nothing when it is not valid."""
    match = _TRACEPARENT.fullmatch(headers[0]) if headers else None
    if match is None:
        return ""
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and (more or int(flags, 16) > 2)):
        return ""
    if not int(trace_id, 16) or not int(span_id, 16):
        return ""
    return trace_id.decode()


def _address(shown: bytes) -> tuple[bytes, str]:
    """(16 bytes, its text where the bytes would print as another one)."""
    as_text = text(shown)
    # An address with a zone is none that anybody has; Go's look-ups fail for it.
    address = b"" if "%" in as_text else parse_address(as_text) or b""
    canonical = address_text(address) if address else ""
    return address, "" if as_text == canonical else as_text
