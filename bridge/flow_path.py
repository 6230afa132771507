"""The way of an event through this process: payloads in, everything that looks at flows.

    payloads -> MonitorPipeline -> metrics -> history -> those who follow

One call a batch, on the loop, no queue between. Metrics come before the history, because
appending may free table rows of flows that only just fell out of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from api.history import History, PastEvent
from api.metrics.hubble import HubbleMetrics
from parsers.framing import PayloadBatch
from parsers.pipeline import Clock, MonitorPipeline, ParsedBatch

Follower = Callable[[ParsedBatch], None]
Watch = Callable[[int, float], None]
"""Told of each batch: events, seconds it took."""


def _ignore(_events: int, _seconds: float) -> None:
    pass


class FlowPath:
    """``followers`` are called with each batch once the history has it."""

    __slots__ = ("_clock", "_watch", "followers", "history", "metrics", "pipeline")

    def __init__(
        self,
        pipeline: MonitorPipeline,
        history: History,
        metrics: HubbleMetrics,
        *,
        clock: Callable[[], int] = time.time_ns,
        watch: Watch = _ignore,
    ) -> None:
        self.pipeline = pipeline
        self.history = history
        self.metrics = metrics
        self.followers: list[Follower] = []
        self._clock = clock
        self._watch = watch

    def deliver(self, payloads: PayloadBatch) -> None:
        """Take a batch that was read now."""
        began = time.perf_counter()
        self.take(payloads, self.pipeline.live_clock(self._clock()))
        self._watch(len(payloads), time.perf_counter() - began)

    def take(self, payloads: PayloadBatch, clock: Clock) -> ParsedBatch:
        """Take a batch whose records ``clock`` stamps."""
        parsed = self.pipeline.parse(payloads, clock)
        for lost in parsed.lost_events:
            self.metrics.count_lost("perf_event_ring_buffer", lost.count)
        self.metrics.count(parsed.flows)
        history = self.history
        position = history.flows.end
        history.append(parsed.flows)
        sequences = parsed.flows.sequence
        for record in parsed.lost_events:
            before = int(sequences.searchsorted(record.sequence))
            history.lost.add(PastEvent(position + before, record.time, record))
        for queue, events in (
            (history.agent, parsed.agent_events),
            (history.debug, parsed.debug_events),
        ):
            for sequence, when, event in events:
                queue.add(PastEvent(position + int(sequences.searchsorted(sequence)), when, event))
        for follower in self.followers:
            follower(parsed)
        return parsed
