"""Hubble's metrics of one pipeline: batches in, families out.

Counting is cheap and by class; series are made when a fold asks for them, at a scrape
or when classes come that were not seen before. Owned by one thread.

The owner of the pipeline's tables calls ``forget`` before ``classes.reclaim``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from api.metrics.classes import MetricClasses
from api.metrics.family import Counters, Histograms
from api.metrics.handlers import BY_NAME, RECORDERS, Handler
from api.metrics.handlers.by_class import ClassCounter
from api.metrics.handlers.l7 import L7Records
from parsers.errors import UsageError
from parsers.flow_batch import FlowBatch

DEFAULT_HANDLERS: Final = ("dns", "drop", "flow", "http", "icmp", "port-distribution", "tcp")

LOST_SOURCES: Final = ("hubble_ring_buffer", "observer_events_queue", "perf_event_ring_buffer")
"""flow.LostEventSource in lower case."""


_FRESH_CLASSES = 64  # met at a scrape or in one batch, they cost 2-3 ms


@dataclass(frozen=True, slots=True)
class HubbleStatistics:
    """Metric classes seen, and series of all families."""

    classes: int
    series: int


class HubbleMetrics:
    """``hubble_*`` with the handlers of Hubble's names; wrong ones raise ``UsageError``."""

    __slots__ = ("_classes", "_counter", "_folded", "_handlers", "_lost", "families")

    def __init__(self, handlers: Iterable[str] = DEFAULT_HANDLERS) -> None:
        names = sorted(set(handlers))
        allowed = sorted((*BY_NAME, *RECORDERS), key=str.lower)
        if unknown := [name for name in names if name not in allowed]:
            raise UsageError(
                f"no metric handler is called {', '.join(unknown)}; there are {', '.join(allowed)}"
            )
        if {"http", "httpV2"} <= set(names):
            raise UsageError("http and httpV2 count under the same names; take one of them")
        self._classes = MetricClasses()
        self._counter = ClassCounter(self._classes)
        self._handlers: list[Handler] = [BY_NAME[n](self._classes) for n in names if n in BY_NAME]
        if recorders := [RECORDERS[name]() for name in names if name in RECORDERS]:
            self._handlers.append(L7Records(self._classes, recorders))
        self._lost = Counters("hubble_lost_events_total", "Number of lost events", ("source",))
        # Hubble shows these two from its start, the third from its first loss.
        self._lost.declare(("observer_events_queue",))
        self._lost.declare(("perf_event_ring_buffer",))
        self._folded = 0
        self.families: tuple[Counters, ...] = (
            self._lost,
            *(family for handler in self._handlers for family in handler.families),
        )

    def count(self, batch: FlowBatch) -> None:
        """Count a batch: its cost does not depend on how many series there are."""
        if not len(batch):
            return
        classes = self._classes.of(batch)
        self._counter.add(classes)
        for handler in self._handlers:
            handler.count(batch, classes)
        if len(self._classes) - self._folded >= _FRESH_CLASSES:
            self.fold()  # so that no scrape finds thousands of them

    def count_lost(self, source: str, count: int) -> None:
        """Count lost events; ``source`` is one of ``LOST_SOURCES``."""
        if source not in LOST_SOURCES:
            raise UsageError(f"events are lost at {', '.join(LOST_SOURCES)}, not at {source}")
        self._lost.add((source,), count)

    def forget(self, class_rows: NDArray[Any]) -> None:
        """Class rows (numbers) that the pipeline is about to free; no count is lost."""
        self._classes.forget(class_rows)

    def fold(self) -> None:
        """Bring the totals of ``families`` up to date; a scrape begins with this."""
        counts = self._counter.take()
        for handler in self._handlers:
            handler.fold(counts)
        self._folded = len(self._classes)

    def statistics(self) -> HubbleStatistics:
        """How much is kept."""
        series = sum(
            len(family) * (14 if isinstance(family, Histograms) else 1) for family in self.families
        )
        return HubbleStatistics(len(self._classes) - 1, series)
