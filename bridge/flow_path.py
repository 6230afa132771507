"""The way of an event through this process: payloads in, to everything that looks at flows.

    payloads -> MonitorPipeline -> HubbleMetrics -> history and its readers

One call a batch, on the loop, with no queue between. Metrics come before the history,
because appending may free rows that details of this batch are looked up by.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from api.metrics.hubble import HubbleMetrics
from parsers.framing import PayloadBatch
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, ParsedBatch

Follower = Callable[[ParsedBatch], None]
Watch = Callable[[int, float], None]
"""Told of each batch: events, and the seconds it took."""


class FlowPath:
    """``followers`` are called with each batch, in order; the first one keeps it.

    It must book at "history" what it keeps: from here on the ledger's chain is checked.
    """

    __slots__ = ("_clock", "_ledger", "_watch", "followers", "metrics", "pipeline")

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
        self._ledger = pipeline.ledger
        self._ledger.chained = True
        self._clock = clock
        self._watch = watch
        # Numbers of freed classes are used again: what was counted must not move with them.
        pipeline.tables.classes.before_free.append(metrics.forget)
        pipeline.label_queries(wanted=metrics.wants_queries)

    def deliver(self, payloads: PayloadBatch) -> None:
        """Take a batch that was read from a connection just now.

        Whatever a part raises comes out, and what it took with it is booked as lost.
        """
        began = time.perf_counter()
        book_framing(self._ledger, payloads)
        try:
            self._pass_on(payloads)
        except BaseException:
            self._ledger.book_failure()
            raise
        self._watch(len(payloads), time.perf_counter() - began)

    def _pass_on(self, payloads: PayloadBatch) -> None:
        parsed = self.pipeline.parse(payloads, self.pipeline.numbers.live_clock(self._clock()))
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
