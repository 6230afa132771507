"""The handlers of L7 records: DNS, HTTP, Kafka.

About three flows in a hundred have a record, so that these are walked one by one. Equal
label objects are shared, and flows are tallied by (labels, class); a fold turns the
tallies into series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.metrics import label_values as say
from api.metrics.classes import Classes, Key, MetricClass
from api.metrics.family import BUCKETS, Counters, Exemplar, Histograms
from api.metrics.handlers.by_class import ClassColumn
from api.metrics.handlers.settings import Settings
from api.metrics.options import EXEMPLARS, IGNORE_AAAA, QUERY
from api.v1.flow import flow_pb2
from parsers.flow_batch import I64, L7_HTTP, L7_KAFKA, L7_NONE, REPLY_TRUE, U32, FlowBatch
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels

RecordLabels: TypeAlias = DnsLabels | HttpLabels | KafkaLabels

_BOUNDS: Final = tuple(round(bound * 1e9) for bound in BUCKETS)  # ns
_TALLIES = 1024
"""Tallies that may wait for a scrape; more are folded at once, at about 5 us each."""


@dataclass(slots=True)
class Tally:
    """Flows with the same labels and class, and the latencies of those that say one.

    ``exemplars``: of each bucket the last flow with a trace.
    """

    labels: RecordLabels
    flows: int = 0
    nanoseconds: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    exemplars: dict[int, Exemplar] = field(default_factory=dict)


class Recorder(Protocol):
    """Turns tallies of one kind of record into series."""

    families: tuple[Counters, ...]

    def record(self, labels: Any, key: Key, tally: Tally) -> None:
        """Add a tally; labels of other records are passed over."""


class L7Records:
    """Tallies the flows with an L7 record for all recorders; a ``Handler``."""

    __slots__ = ("_classes", "_kind", "_recorders", "_tallies", "families")

    def __init__(self, classes: Classes, recorders: Sequence[Recorder]) -> None:
        self.families = tuple(family for r in recorders for family in r.families)
        self._classes = classes
        self._recorders = recorders
        self._kind = ClassColumn(classes, _kind)
        self._tallies: dict[tuple[int, int], Tally] = {}

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """See ``Handler``."""
        kinds = self._kind.of(classes)
        picked = kinds.nonzero()[0]
        tallies = self._tallies
        for record, row, kind, time in zip(
            batch.tables.details.records(batch.detail[picked].tolist()),
            classes[picked].tolist(),
            kinds[picked].tolist(),
            batch.time[picked].tolist(),
            strict=True,
        ):
            if record is None or (labels := record.labels) is None:
                continue
            # By identity: equal labels are the same object, all but the longest.
            key = id(labels), row
            tally = tallies.get(key)
            if tally is None:
                tally = tallies[key] = Tally(labels)
            tally.flows += 1
            bucket = 0
            if kind == _TIMED:
                latency = record.latency_ns
                tally.nanoseconds += latency
                bucket = bisect_left(_BOUNDS, latency)
                tally.buckets[bucket] += 1
            if trace_id := record.trace_id:
                tally.exemplars[bucket] = Exemplar(trace_id, record.latency_ns, time)
        if len(self._tallies) > _TALLIES:
            self.fold_tallies()

    def wants(self, flow: MetricClass) -> bool:
        """See ``Handler``."""
        return flow.l7_record != L7_NONE

    def fold(self, counts: I64) -> None:
        """See ``Handler``: nothing is counted by class alone."""

    def fold_tallies(self) -> None:
        """Move tallies to series."""
        for (_, row), tally in self._tallies.items():
            key = self._classes[row]
            for recorder in self._recorders:
                recorder.record(tally.labels, key, tally)
        self._tallies.clear()


_PLAIN, _TIMED = 1, 2


def _kind(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """0 without a record, ``_TIMED`` where a histogram wants the latency, else ``_PLAIN``."""
    record, kind = rows["l7_record"], rows["l7_type"]
    timed = ((record == L7_HTTP) & (kind == flow_pb2.RESPONSE)) | (
        (record == L7_KAFKA) & (kind == flow_pb2.REQUEST)
    )
    kinds: NDArray[np.uint8] = np.where(timed, _TIMED, record != L7_NONE).astype(np.uint8)
    return kinds


class DnsRecorder:
    """Queries, refused ones included; responses; and the types in these."""

    __slots__ = ("_ignored", "_queries", "_query", "_responses", "_types", "families")

    def __init__(self, settings: Settings) -> None:
        self._ignored = "AAAA" if IGNORE_AAAA in settings.options else None
        self._query = QUERY in settings.options
        named = ("query",) if self._query else ()
        labels = sorted(("ips_returned", "qtypes", "rcode", *named))
        self._queries = settings.counters(
            "hubble_dns_queries_total", "Number of DNS queries observed", labels, kept=("rcode",)
        )
        self._responses = settings.counters(
            "hubble_dns_responses_total",
            "Number of DNS responses observed",
            labels,
            kept=("rcode",),
        )
        self._types = settings.counters(
            "hubble_dns_response_types_total",
            "Number of DNS response types observed",
            sorted(("qtypes", "type", *named)),
        )
        self.families: tuple[Counters, ...] = (self._queries, self._responses, self._types)

    def record(self, labels: Any, key: Key, tally: Tally) -> None:
        """See ``Recorder``."""
        flow, context = key
        if not isinstance(labels, DnsLabels) or labels.qtypes == self._ignored:
            return
        query = (labels.query,) if self._query else ()
        before = (str(labels.ips_returned), labels.qtypes, *query)
        if flow.verdict == flow_pb2.DROPPED:
            self._queries.add((*before, "Policy denied"), tally.flows, context)
        elif flow.is_reply != REPLY_TRUE:
            self._queries.add((*before, ""), tally.flows, context)
        else:
            code = say.RESPONSE_CODES.get(labels.rcode, "")
            self._responses.add((*before, code), tally.flows, context)
            for name in labels.rrtypes:
                self._types.add((labels.qtypes, *query, name), tally.flows, context)


class HttpRecorder:
    """Requests and responses each for themselves; durations of the responses."""

    __slots__ = ("_durations", "_exemplars", "_requests", "_responses", "families")

    def __init__(self, settings: Settings) -> None:
        self._exemplars = EXEMPLARS in settings.options
        self._requests = settings.counters(
            "hubble_http_requests_total",
            "Count of HTTP requests",
            ("method", "protocol", "reporter"),
            kept=("reporter",),
        )
        self._responses = settings.counters(
            "hubble_http_responses_total",
            "Count of HTTP responses",
            ("method", "protocol", "reporter", "status"),
            kept=("reporter",),
        )
        self._durations = _http_durations(settings)
        self.families: tuple[Counters, ...] = (self._requests, self._responses, self._durations)

    def record(self, labels: Any, key: Key, tally: Tally) -> None:
        """See ``Recorder``."""
        flow, context = key
        if not isinstance(labels, HttpLabels):
            return
        method, protocol, reporter = labels.method, labels.protocol, _reporter(flow)
        exemplars = tally.exemplars if self._exemplars else None
        if flow.l7_type == flow_pb2.REQUEST:
            self._requests.add((method, protocol, reporter), tally.flows, context, exemplars)
        elif flow.l7_type == flow_pb2.RESPONSE:
            status = str(labels.code)
            values = (method, protocol, reporter, status)
            self._responses.add(values, tally.flows, context, exemplars)
            self._durations.observe(
                (method, reporter), tally.buckets, tally.nanoseconds, context, exemplars
            )


class HttpV2Recorder:
    """Requests as their responses show them, with the status."""

    __slots__ = ("_durations", "_exemplars", "_requests", "families")

    def __init__(self, settings: Settings) -> None:
        self._exemplars = EXEMPLARS in settings.options
        self._requests = settings.counters(
            "hubble_http_requests_total",
            "Count of HTTP requests",
            ("method", "protocol", "reporter", "status"),
            kept=("reporter",),
        )
        self._durations = _http_durations(settings)
        self.families: tuple[Counters, ...] = (self._requests, self._durations)

    def record(self, labels: Any, key: Key, tally: Tally) -> None:
        """See ``Recorder``."""
        flow, context = key
        if isinstance(labels, HttpLabels) and flow.l7_type == flow_pb2.RESPONSE:
            reporter = _reporter(flow)
            exemplars = tally.exemplars if self._exemplars else None
            values = (labels.method, labels.protocol, reporter, str(labels.code))
            self._requests.add(values, tally.flows, context, exemplars)
            self._durations.observe(
                (labels.method, reporter), tally.buckets, tally.nanoseconds, context, exemplars
            )


class KafkaRecorder:
    """Kafka requests of agents up to 1.19."""

    __slots__ = ("_durations", "_requests", "families")

    def __init__(self, settings: Settings) -> None:
        self._requests = settings.counters(
            "hubble_kafka_requests_total",
            "Count of Kafka requests (deprecated)",
            ("api_key", "error_code", "reporter", "topic"),
            kept=("reporter",),
        )
        self._durations = settings.histograms(
            "hubble_kafka_request_duration_seconds",
            "Quantiles of HTTP request duration in seconds (deprecated)",
            ("api_key", "reporter", "topic"),
            kept=("reporter",),
        )
        self.families: tuple[Counters, ...] = (self._requests, self._durations)

    def record(self, labels: Any, key: Key, tally: Tally) -> None:
        """See ``Recorder``."""
        flow, context = key
        if isinstance(labels, KafkaLabels) and flow.l7_type == flow_pb2.REQUEST:
            api_key, topic, reporter = labels.api_key, labels.topic, _reporter(flow)
            error = str(labels.error_code)
            self._requests.add((api_key, error, reporter, topic), tally.flows, context)
            self._durations.observe(
                (api_key, reporter, topic), tally.buckets, tally.nanoseconds, context
            )


def _http_durations(settings: Settings) -> Histograms:
    return settings.histograms(
        "hubble_http_request_duration_seconds",
        "Quantiles of HTTP request duration in seconds",
        ("method", "reporter"),
        kept=("reporter",),
    )


def _reporter(flow: MetricClass) -> str:
    return say.at(say.REPORTERS, flow.direction) or "unknown"
