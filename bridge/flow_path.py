"""The way of an event through this process: what sources read, to everything that looks at flows.

    payloads ──────> MonitorPipeline ─┬─> HubbleMetrics -> history and its readers
    ProbeBatch ────> ProbePipeline ───┘

One call a batch, on the loop, with no queue between. Metrics come before the history,
because appending may free rows that details of this batch are looked up by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.metrics.hubble import HubbleMetrics
from parsers.framing import PayloadBatch
from parsers.ledger import OTHER_SOURCE, Ledger
from parsers.pipeline import MonitorPipeline, ParsedBatch
from parsers.probe_batch import ProbeBatch
from parsers.probe_pipeline import ProbePipeline

Follower = Callable[[ParsedBatch], None]
Watch = Callable[[int, float], None]
"""Told of each batch: events, and the seconds it took."""


class FlowPath:
    """``followers`` are called with each batch, in order; the first one keeps it.

    It must book at "history" what it keeps: from here on the ledger's chain is checked.
    """

    __slots__ = ("_clock", "_ledger", "_probes", "_watch", "followers", "metrics", "pipeline")

    def __init__(
        self,
        pipeline: MonitorPipeline,
        metrics: HubbleMetrics,
        keep: Follower,
        *,
        watch: Watch,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.pipeline = pipeline
        self.metrics = metrics
        self.followers = [keep]
        self._probes = ProbePipeline(pipeline.assembler, pipeline.numbers, pipeline.ledger)
        self._ledger = pipeline.ledger
        self._ledger.chained = True
        self._clock = clock
        self._watch = watch
        # Numbers of freed classes are used again: what was counted must not move with them.
        pipeline.tables.classes.before_free.append(metrics.forget)
        self.label_queries()

    def label_queries(self) -> None:
        """Let DNS records say what was asked for, if a metric wants to count by it."""
        for pipeline in (self.pipeline, self._probes):
            pipeline.label_queries(wanted=self.metrics.wants_queries)

    def deliver(self, payloads: PayloadBatch) -> None:
        """Take a batch that was read from a connection just now.

        Whatever a part raises comes out, and what it took with it is booked as lost.
        """
        book_framing(self._ledger, payloads)
        with self._watched(len(payloads)):
            clock = self.pipeline.numbers.live_clock(self._clock())
            self._pass_on(self.pipeline.parse(payloads, clock))

    def deliver_probes(self, batch: ProbeBatch) -> None:
        """Take what own probes had just now, likewise."""
        book_probes(self._ledger, batch)
        with self._watched(len(batch)):
            self._pass_on(self._probes.parse(batch))

    def discard(self, payloads: PayloadBatch) -> None:
        """Book a batch that tells of traffic which another source has told of."""
        book_framing(self._ledger, payloads)
        self._ledger.book("parser", incoming=len(payloads))
        self._ledger.book_lost("parser", OTHER_SOURCE, len(payloads))

    def book_gap(self, stage: str) -> None:
        """Book that a source was left, and what happens now is seen by nobody or by another."""
        self._ledger.book_unobservable(stage, "gap")

    @contextmanager
    def _watched(self, events: int) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._ledger.book_failure()
            raise
        self._watch(events, time.perf_counter() - began)

    def _pass_on(self, parsed: ParsedBatch) -> None:
        for lost in parsed.lost_events:
            self.metrics.count_lost("perf_event_ring_buffer", lost.count)
        self.metrics.count(parsed.flows)
        for follower in self.followers:
            follower(parsed)


def book_framing(ledger: Ledger, payloads: PayloadBatch) -> None:
    """Messages that came in, and those of them that were payloads."""
    whole, malformed = len(payloads), payloads.malformed
    ledger.book("socket", incoming=whole + malformed, outgoing=whole + malformed)
    ledger.book("framing", incoming=whole + malformed, outgoing=whole)
    ledger.book_lost("framing", "malformed", malformed)


def book_probes(ledger: Ledger, batch: ProbeBatch) -> None:
    """Records that the kernel had for own probes, and those that found no room in it."""
    ledger.book("probes", incoming=sum(batch.seen.values()), outgoing=len(batch))
    for (probe, reason), count in batch.lost.items():
        ledger.book_lost("probes", f"{probe}_{reason}", count)
