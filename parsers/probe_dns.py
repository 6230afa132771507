"""L7 flows of DNS messages that the probe saw on port 53: equal in form to those of Cilium's
DNS proxy.

A query is a REQUEST, its answer a RESPONSE with the time it took. A query whose time is up
(``dns_exchange.PATIENCE_NS``) is told of once more: as a REQUEST with the verdict ERROR,
which metrics of queries do not count. One record is looked at after the other, in the order
of time; what the packets hold is hostile, and a message that is none is booked as such.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, NamedTuple

import numpy as np

from parsers.access_log_meaning import AccessLogMeanings
from parsers.dns_exchange import PATIENCE_NS, ExchangeKey, Exchanges, Sighting
from parsers.dns_message import DnsMessage, parse_message
from parsers.dns_stream import DnsStream, Framed
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    CONVERSATION,
    FLAG_L7,
    FLOW_CLASS,
    L4_TCP,
    L4_UDP,
    L7_DNS,
    ORIGIN_TC,
    REPLY_FALSE,
    REPLY_TRUE,
)
from parsers.flow_columns import EGRESS, INGRESS
from parsers.headers import ACCESS_LOG
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels, L7Content
from parsers.l7_content import REQUEST, RESPONSE, dns_record, dns_summary
from parsers.probe_flows import ProbeFlows, empty_flows
from parsers.probe_records import POINT_INGRESS, TRANSLATION
from parsers.probe_translation import known_as
from parsers.windows import Columns

PAYLOAD = 2048
DNS_RECORD = np.dtype(
    [
        ("time_ns", "<u8"),  # boot clock
        ("ifindex", "<u4"),
        ("received_on", "<u4"),  # by which interface the node got it, 0 for its own
        ("sequence", "<u4"),  # of TCP: number of the payload's first byte
        ("length", "<u4"),  # bytes of payload, of a fragmented datagram all of them
        ("copied", "<u2"),  # of them, in payload
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("ip_version", "u1"),  # 4 or 6
        ("protocol", "u1"),  # 6 or 17
        ("source_ip", "V16"),
        ("destination_ip", "V16"),
        ("point", "u1"),  # POINT_*
        ("tcp_flags", "u1"),
        ("reserved", "u1", 6),
        ("payload", f"V{PAYLOAD}"),
    ]
)
"""``struct dns_record`` of ``bpf/dns.h``."""

SOURCE = b"probe"
"""flow.DNS.observation_source; Cilium's own are "proxy" and "agent-poller"."""

MOST_STREAMS = 1024
"""Directions of TCP connections whose messages may be unfinished."""

_FIN, _SYN, _RST = 1, 2, 4
_TCP = 6
_FORWARDED, _ERROR = 1, 3  # flow.Verdict
_L7 = 2  # flow.FlowType
_KEY = Struct("<16s16s12xIIIIBBH")
_CLASS = Struct("<12B2BHBBBxIII")
assert _KEY.size == CONVERSATION.itemsize and _CLASS.size == FLOW_CLASS.itemsize  # noqa: S101, PT018

_RECORD_BYTES = 400
Fields = tuple[bytes, tuple[int, list[bytes]], int, list[bytes], bytes, int, list[int], list[int]]
"""What ``l7_content`` makes a record of: query, addresses, TTL, CNAMEs, source, code, types."""


class ProbeDns(NamedTuple):
    """The ``L7Record`` of a message. ``note`` stands behind the summary."""

    type: int
    latency_ns: int
    labels: HttpLabels | DnsLabels | KafkaLabels | None
    fields: Fields
    note: str = ""
    trace_id: str = ""

    @property
    def nbytes(self) -> int:
        """About what its texts and lists take."""
        query, (_, addresses), _, cnames, _, _, qtypes, types = self.fields
        parts = len(addresses) + len(cnames) + len(qtypes) + len(types)
        return _RECORD_BYTES + len(query) + sum(map(len, cnames)) + 64 * parts

    def content(self) -> L7Content:
        """See ``L7Record``."""
        return L7Content(
            dns_record(self.type, *self.fields), dns_summary(self.type, *self.fields) + self.note
        )


class _Head(NamedTuple):
    """A record without its payload; fields as in DNS_RECORD."""

    time_ns: int
    ifindex: int
    received_on: int
    sequence: int
    length: int
    copied: int
    source_port: int
    destination_port: int
    ip_version: int
    protocol: int
    source_ip: bytes
    destination_ip: bytes
    point: int
    tcp_flags: int


_HEAD_FIELDS = list(_Head._fields)
_NOT_TRANSLATED = bytes(TRANSLATION.itemsize)


class _Packet(NamedTuple):
    """What the flows of a packet's messages have in common; ``known_as`` is a TRANSLATION."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    ip_version: int
    protocol: int
    leaves: bool  # a pod, or the node
    known_as: bytes


class _Asked(NamedTuple):
    """What is remembered of a query for when no answer comes."""

    packet: _Packet
    fields: Fields


class _Flow(NamedTuple):
    time: int
    packet: _Packet
    verdict: int
    is_reply: bool
    record: ProbeDns


@dataclass(frozen=True, slots=True)
class DnsFlows:
    """``errors``: messages that were none, by error class. ``beyond``: events that no record
    of its own stands for: unanswered queries, and further messages in one TCP segment.
    """

    flows: ProbeFlows
    errors: Counter[str]
    beyond: int


class DnsWatcher:
    """Makes flows of DNS records; remembers open queries and TCP streams.

    ``patience_ns``: after which a query is unanswered.
    """

    def __init__(self, patience_ns: int = PATIENCE_NS) -> None:
        self._exchanges = Exchanges(patience_ns)
        self._meanings = AccessLogMeanings()
        self._streams: OrderedDict[tuple[Any, ...], DnsStream] = OrderedDict()

    def label_queries(self, *, wanted: bool) -> None:
        """Put the query into ``DnsLabels`` from now on, for metrics that count by it."""
        self._meanings.query_labels = wanted

    def statistics(self) -> dict[str, int]:
        """Fill of every cache, and what was given up for want of room."""
        return self._meanings.statistics() | {
            "dns_open": len(self._exchanges),
            "dns_given_up": self._exchanges.given_up,
            "dns_streams": len(self._streams),
        }

    def flows(
        self, records: Columns, covered: frozenset[int], pods: frozenset[int], now_ns: int
    ) -> DnsFlows:
        """Flows of DNS_RECORD rows, and of queries that have no answer at ``now_ns`` (boot clock).

        ``covered``, ``pods``: as in ``ProbeBatch``.
        """
        found: list[_Flow] = []
        errors: Counter[str] = Counter()
        beyond = 0
        for head, payload, known in _in_order(records):
            messages = self._messages(head, payload)
            beyond += max(0, len(messages) - 1)
            for framed in messages:
                try:
                    message = parse_message(framed.data, cut=framed.cut)
                except ProtocolError as error:
                    errors[error.error_class] += 1
                else:
                    self._take(head, message, known, covered, pods, found)
        unanswered = [
            self._unanswered(query.about, query.time_ns + self._exchanges.patience_ns)
            for _, query in self._exchanges.unanswered(now_ns)
            if isinstance(query.about, _Asked)
        ]
        return DnsFlows(_columns(found + unanswered), errors, beyond + len(unanswered))

    def _messages(self, head: _Head, payload: bytes) -> list[Framed]:
        if head.protocol != _TCP:
            return [Framed(payload, head.copied < head.length)]
        flags, sequence = head.tcp_flags, head.sequence
        name = (
            head.ifindex, head.point, head.source_ip, head.destination_ip, head.source_port,
            head.destination_port,
        )  # fmt: skip
        stream = self._streams.get(name)
        if stream is None or flags & _SYN:
            stream = self._streams[name] = DnsStream()
            if len(self._streams) > MOST_STREAMS:
                self._streams.popitem(last=False)
        if flags & _SYN:
            stream.begin(sequence)
            sequence = (sequence + 1) & 0xFFFFFFFF
        messages = stream.feed(sequence, payload, head.length) if head.length else []
        if flags & (_FIN | _RST):
            self._streams.pop(name, None)
        return messages

    def _take(
        self, head: _Head, message: DnsMessage, known: bytes, covered: frozenset[int],
        pods: frozenset[int], found: list[_Flow],
    ) -> None:  # fmt: skip
        inward, time = head.point == POINT_INGRESS, head.time_ns
        packet = _Packet(
            head.source_ip, head.destination_ip, head.source_port, head.destination_port,
            head.ip_version, head.protocol, inward == (head.ifindex in pods), known,
        )  # fmt: skip
        seen = Sighting(time, head.ifindex, not inward and head.received_on in covered)
        fields = _fields(message)
        if not message.is_response:
            key = ExchangeKey(packet.source, packet.source_port, message.id, packet.protocol)
            if self._exchanges.query(key, seen, _Asked(packet, fields)):
                labels = self._meanings.dns_labels(REQUEST, *fields, None)
                found.append(
                    _Flow(time, packet, _FORWARDED, False, ProbeDns(REQUEST, 0, labels, fields))
                )
            return
        key = ExchangeKey(packet.destination, packet.destination_port, message.id, packet.protocol)
        wanted, query = self._exchanges.answer(key, seen)
        if not wanted:
            return
        latency = max(0, time - query.time_ns) if query is not None else 0
        if not message.queries and query is not None and isinstance(query.about, _Asked):
            # some errors do not repeat the question
            asked, _, _, _, _, _, qtypes, _ = query.about.fields
            fields = (asked, *fields[1:6], qtypes, fields[7])
        labels = self._meanings.dns_labels(RESPONSE, *fields, None)
        found.append(
            _Flow(time, packet, _FORWARDED, True, ProbeDns(RESPONSE, latency, labels, fields))
        )

    @staticmethod
    def _unanswered(asked: _Asked, time: int) -> _Flow:
        record = ProbeDns(REQUEST, 0, None, asked.fields, " (unanswered)")
        return _Flow(time, asked.packet, _ERROR, False, record)


def _in_order(records: Columns) -> Iterator[tuple[_Head, bytes, bytes]]:
    """Records by time, each with what was captured of its payload and its TRANSLATION."""
    if not len(records):
        return
    order = np.argsort(records["time_ns"], kind="stable")
    heads = records[_HEAD_FIELDS][order].tolist()
    raw = records.view(np.uint8).reshape(len(records), records.itemsize)
    begin = DNS_RECORD.itemsize - PAYLOAD
    told = known_as(records)
    for row, values in zip(order.tolist(), heads, strict=True):
        head = _Head._make(values)
        known = told[row].tobytes() if len(told) else _NOT_TRANSLATED
        yield head, raw[row, begin : begin + head.copied].tobytes(), known


def _fields(message: DnsMessage) -> Fields:
    return (
        message.queries[0][0].lower() if message.queries else b"",
        (1, list(message.addresses)),
        message.ttl,
        list(message.cnames),
        SOURCE,
        message.rcode,
        [type_ for _, type_ in message.queries],
        list(message.types),
    )


def _columns(found: list[_Flow]) -> ProbeFlows:
    told = b"".join([flow.packet.known_as for flow in found])
    columns = empty_flows(len(found), np.frombuffer(told, TRANSLATION))
    flows = columns.flows
    keys, classes = bytearray(), bytearray()
    for row, (time, packet, verdict, is_reply, record) in enumerate(found):
        version = 1 if packet.ip_version == 4 else 2
        keys += _KEY.pack(packet.source, packet.destination, 0, 0, 0, 0, 0, version, 0)
        # an answer has the direction of its query
        direction = EGRESS if packet.leaves != is_reply else INGRESS
        classes += _CLASS.pack(
            ACCESS_LOG, 0, verdict, direction, REPLY_TRUE if is_reply else REPLY_FALSE, _L7,
            version, L4_TCP if packet.protocol == _TCP else L4_UDP, 0, 0, 0, FLAG_L7,
            0, 0, 0, record.type, L7_DNS, ORIGIN_TC,
            0, 0, 0,
        )  # fmt: skip
        flows.source_port[row] = packet.source_port
        flows.destination_port[row] = packet.destination_port
        flows.extra[row] = {"l7": record}
        columns.time[row] = time
    if found:
        flows.key[:] = np.frombuffer(keys, dtype=CONVERSATION)
        flows.flow_class[:] = np.frombuffer(classes, dtype=FLOW_CLASS)
    return columns
