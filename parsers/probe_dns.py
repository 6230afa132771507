"""L7 flows of DNS messages that the probe saw on port 53: equal in form to those of Cilium's
DNS proxy.

A query is a REQUEST, its answer a RESPONSE with the time it took. A query whose time is up
(``dns_exchange.PATIENCE_NS``) is told of once more: as a REQUEST with the verdict ERROR,
which metrics of queries do not count. Records are looked at one after the other, in the order
of time, but only for what their messages say and whether they are told of here; all else are
columns. What the packets hold is hostile, and a message that is none is booked as such.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsers.dns_exchange import PATIENCE_NS, Exchanges, Sighting
from parsers.dns_stream import DnsStream, Framed
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    FLAG_L7,
    L4_TCP,
    L4_UDP,
    L7_DNS,
    ORIGIN_TC,
    REPLY_FALSE,
    REPLY_TRUE,
)
from parsers.flow_columns import EGRESS, INGRESS
from parsers.headers import ACCESS_LOG
from parsers.l7_content import REQUEST, RESPONSE
from parsers.probe_dns_records import DnsRecords, ProbeDns
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
_PAYLOAD_AT = DNS_RECORD.itemsize - PAYLOAD

MOST_STREAMS = 1024
"""Directions of TCP connections whose messages may be unfinished."""

_FIN, _SYN, _RST = 1, 2, 4
_TCP = 6
_FORWARDED, _ERROR = 1, 3  # flow.Verdict
_L7 = 2  # flow.FlowType

_HEAD = np.dtype(
    [
        ("time_ns", "<u8"),
        ("source_ip", "V16"),
        ("destination_ip", "V16"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("ip_version", "u1"),
        ("protocol", "u1"),
        ("leaves", "u1"),  # a pod, or the node
        *TRANSLATION.descr,
    ]
)
"""What the flows of a packet's messages have in common."""

_HEAD_FIELDS = tuple(_HEAD.names or ())[:7]
_STREAM = ["ifindex", "point", "source_ip", "destination_ip", "source_port", "destination_port"]
"""What tells one direction of a connection from others."""

_CLIENT = np.dtype([("ip", "V16"), ("port", "<u2"), ("protocol", "u1")])


class _Asked(NamedTuple):
    """What is remembered of a query for when no answer comes. ``head`` is a _HEAD."""

    head: bytes
    record: ProbeDns


@dataclass(frozen=True, slots=True)
class DnsFlows:
    """``flows``: of messages; ``unanswered``: of queries. ``errors``: messages that were none, by
    error class. ``beyond``: events that no record of its own stands for: unanswered queries, and
    further messages in one TCP segment.
    """

    flows: ProbeFlows
    unanswered: ProbeFlows
    errors: Counter[str]
    beyond: int


class DnsWatcher:
    """Makes flows of DNS records; remembers open queries and TCP streams.

    ``patience_ns``: after which a query is unanswered.
    """

    def __init__(self, patience_ns: int = PATIENCE_NS) -> None:
        self._exchanges = Exchanges(patience_ns)
        self._records = DnsRecords()
        self._streams: OrderedDict[tuple[Any, ...], DnsStream] = OrderedDict()

    def label_queries(self, *, wanted: bool) -> None:
        """Put the query into ``DnsLabels`` from now on, for metrics that count by it."""
        self._records.label_queries(wanted=wanted)

    def statistics(self) -> dict[str, int]:
        """Fill of every cache, and what was given up for want of room."""
        return self._records.statistics() | {
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
        records = _in_order(records)
        heads = _heads(records, pods)
        packed: list[bytes] = heads.view(f"V{_HEAD.itemsize}").tolist()
        clients = _client_keys(heads, "source"), _client_keys(heads, "destination")
        told: list[tuple[int, ProbeDns]] = []  # row, and what is told
        errors: Counter[str] = Counter()
        beyond = 0
        for row, (seen, messages) in enumerate(
            zip(_sightings(records, covered), self._messages(records), strict=True)
        ):
            beyond += max(0, len(messages) - 1)
            for data, cut in messages:
                try:
                    record = self._records.read(data, cut=cut)
                except ProtocolError as error:
                    errors[error.error_class] += 1
                    continue
                is_answer = record.type == RESPONSE
                key = clients[is_answer][row] + data[:2]
                if is_answer:
                    if (answer := self._answer(key, seen, record)) is not None:
                        told.append((row, answer))
                elif self._exchanges.query(key, seen, _Asked(packed[row], record)):
                    told.append((row, record))
        unanswered = [
            (query.time_ns + self._exchanges.patience_ns, query.about)
            for _, query in self._exchanges.unanswered(now_ns)
            if isinstance(query.about, _Asked)
        ]
        beyond += len(unanswered)
        return DnsFlows(_told(heads, told), _unanswered(unanswered), errors, beyond)

    def _answer(self, key: bytes, seen: Sighting, record: ProbeDns) -> ProbeDns | None:
        """The record of an answer, if it is told of where it was seen."""
        wanted, query = self._exchanges.answer(key, seen)
        if not wanted:
            return None
        if query is None:
            return record
        if not record.fields[6] and isinstance(query.about, _Asked):
            # some errors do not repeat the question
            asked, of = query.about.record.fields, record.fields
            record = self._records.record(RESPONSE, (asked[0], *of[1:6], asked[6], of[7]))
        latency = max(0, seen.time_ns - query.time_ns)
        return ProbeDns(RESPONSE, latency, record.labels, record.fields)

    def _messages(self, records: Columns) -> Iterator[Sequence[tuple[bytes, bool]]]:
        """Of each record, the messages that end in it, and whether something is cut off."""
        raw, size = memoryview(records.view(np.uint8).data), records.itemsize
        copied, length = records["copied"].tolist(), records["length"].tolist()
        is_tcp = (records["protocol"] == _TCP).tolist()
        for row, (held, whole) in enumerate(zip(copied, length, strict=True)):
            at = row * size + _PAYLOAD_AT
            data = raw[at : at + held].tobytes()
            yield self._of_stream(records[row], data) if is_tcp[row] else ((data, held < whole),)

    def _of_stream(self, record: Any, payload: bytes) -> list[Framed]:
        flags, sequence, length = (int(record[n]) for n in ("tcp_flags", "sequence", "length"))
        name = record[_STREAM].item()
        stream = self._streams.get(name)
        if stream is None or flags & _SYN:
            stream = self._streams[name] = DnsStream()
            if len(self._streams) > MOST_STREAMS:
                self._streams.popitem(last=False)
        if flags & _SYN:
            stream.begin(sequence)
            sequence = (sequence + 1) & 0xFFFFFFFF
        messages = stream.feed(sequence, payload, length) if length else []
        if flags & (_FIN | _RST):
            self._streams.pop(name, None)
        return messages


def _in_order(records: Columns) -> Columns:
    """By time. None may be of any type."""
    if not len(records):
        return np.empty(0, DNS_RECORD)
    ordered: Columns = records[np.argsort(records["time_ns"], kind="stable")]
    return ordered


def _heads(records: Columns, pods: frozenset[int]) -> Columns:
    heads = np.zeros(len(records), _HEAD)
    for name in _HEAD_FIELDS:
        heads[name] = records[name]
    at_pod = np.isin(records["ifindex"], np.fromiter(pods, np.uint32, len(pods)))
    heads["leaves"] = (records["point"] == POINT_INGRESS) == at_pod
    translation = known_as(records)
    if len(translation):
        for name in TRANSLATION.names or ():
            heads[name] = translation[name]
    return heads


def _client_keys(heads: Columns, side: str) -> list[bytes]:
    """The beginnings of keys of exchanges, whose client is a side."""
    clients = np.zeros(len(heads), _CLIENT)
    clients["ip"], clients["port"] = heads[f"{side}_ip"], heads[f"{side}_port"]
    clients["protocol"] = heads["protocol"]
    keys: list[bytes] = clients.view(f"V{_CLIENT.itemsize}").tolist()
    return keys


def _sightings(records: Columns, covered: frozenset[int]) -> Iterator[Sighting]:
    came_by = np.isin(records["received_on"], np.fromiter(covered, np.uint32, len(covered)))
    outward = records["point"] != POINT_INGRESS
    return map(
        Sighting,
        records["time_ns"].tolist(),
        records["ifindex"].tolist(),
        (outward & came_by).tolist(),
    )


def _told(heads: Columns, told: Sequence[tuple[int, ProbeDns]]) -> ProbeFlows:
    """Flows of records of messages, by rows of ``heads``."""
    heads = heads[[row for row, _ in told]]
    return _flows(heads, heads["time_ns"], _FORWARDED, [record for _, record in told])


def _unanswered(asked: Sequence[tuple[int, _Asked]]) -> ProbeFlows:
    """Flows of queries whose time was up."""
    heads = np.frombuffer(b"".join([query.head for _, query in asked]), _HEAD)
    times = np.array([time for time, _ in asked], np.int64)
    records = [ProbeDns(REQUEST, 0, None, q.record.fields, " (unanswered)") for _, q in asked]
    return _flows(heads, times, _ERROR, records)


def _flows(
    heads: Columns, times: NDArray[Any], verdict: int, records: Sequence[ProbeDns]
) -> ProbeFlows:
    translation = heads[list(TRANSLATION.names or ())].astype(TRANSLATION)
    found = empty_flows(len(heads), translation)
    flows, key, flow_class = found.flows, found.flows.key, found.flows.flow_class
    for side in ("source", "destination"):
        address = np.ascontiguousarray(heads[f"{side}_ip"]).view(np.uint8).reshape(-1, 16)
        key[f"{side}_ip"] = address
        getattr(flows, f"{side}_port")[:] = heads[f"{side}_port"]
    key["ip_version"] = flow_class["ip_version"] = 1 + (heads["ip_version"] != 4)
    types = np.array([record.type for record in records], np.uint8)
    is_reply = types == RESPONSE
    flow_class["event_type"], flow_class["verdict"] = ACCESS_LOG, verdict
    # an answer has the direction of its query
    flow_class["direction"] = np.where((heads["leaves"] != 0) ^ is_reply, EGRESS, INGRESS)
    flow_class["is_reply"] = np.where(is_reply, REPLY_TRUE, REPLY_FALSE)
    flow_class["flow_type"], flow_class["flags"] = _L7, FLAG_L7
    flow_class["l4"] = np.where(heads["protocol"] == _TCP, L4_TCP, L4_UDP)
    flow_class["l7_type"], flow_class["l7_record"] = types, L7_DNS
    flow_class["origin"] = ORIGIN_TC
    flows.extra.update((row, {"l7": record}) for row, record in enumerate(records))
    found.time[:] = times
    return found
