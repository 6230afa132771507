"""Hubble's metrics of one pipeline: batches in, families out.

Counting is cheap and by class; series are made when a fold asks for them, at a scrape
or when classes come that were not seen before. Owned by one thread.

Handlers with the same context labels and filters share a group, which looks both up once
for all of them. The owner of the pipeline's tables calls ``forget`` before
``classes.reclaim``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from api.hubble.filters import FlowSelection
from api.hubble.flow_view import FlowView
from api.hubble.node import LocalNode
from api.metrics.classes import Classes, ContextClasses, MetricClasses, metric_classes
from api.metrics.context import Contexts, ContextSpec
from api.metrics.family import SERIES, Counters, Histograms
from api.metrics.handlers import BY_NAME, RECORDERS, Handler
from api.metrics.handlers.by_class import ClassColumn, ClassCounter
from api.metrics.handlers.l7 import L7Records, Recorder
from api.metrics.handlers.settings import Settings
from api.metrics.options import QUERY, HandlerSpec, parse_handlers
from api.v1.flow import flow_pb2
from parsers.errors import UsageError
from parsers.flow_batch import U32, FlowBatch, FlowTables
from parsers.reason_names import ReasonNames

DEFAULT_HANDLERS: Final = (
    "dns", "drop", "flow", "http", "icmp", "port-distribution", "tcp", "volume",
)  # fmt: skip

LOST_SOURCES: Final = ("hubble_ring_buffer", "observer_events_queue", "perf_event_ring_buffer")
"""flow.LostEventSource in lower case."""


_FRESH_CLASSES = 64  # met at a scrape or in one batch, they cost 2-3 ms
_FRESH_PAIRS = 512  # likewise, of a class and a context
# When there are more they are learned anew, at some 7 us each.
_MOST_CLASSES = 1 << 14
_MOST_PAIRS = 1 << 17  # of a group with context labels
_MOST_CONTEXTS = 1 << 15  # likewise, at some 300 bytes each


@dataclass(frozen=True, slots=True)
class HubbleStatistics:
    """Metric classes known, series of all families, and flows that were folded into others."""

    classes: int
    series: int
    folded: int


class HubbleMetrics:
    """``hubble_*`` by the handlers of Hubble's option; wrong ones raise ``UsageError``.

    ``handlers``: texts as in the option, or what they were parsed to. ``series``: budget of
    each family. ``node`` is known to filters, ``reasons`` are those of the flows' tables.
    """

    __slots__ = (
        "_classes", "_folded", "_groups", "_lost", "_node", "_reasons", "_series", "families",
        "specs",
    )  # fmt: skip

    def __init__(
        self,
        handlers: str | Iterable[str | HandlerSpec] = DEFAULT_HANDLERS,
        *,
        series: int = SERIES,
        node: LocalNode | None = None,
        reasons: ReasonNames | None = None,
    ) -> None:
        self._classes = MetricClasses()
        self._series = series
        self._node = node or LocalNode("")
        self._reasons = reasons or ReasonNames()
        self._groups: list[_Group] = []
        self._lost = Counters("hubble_lost_events_total", "Number of lost events", ("source",))
        # Hubble shows these two from its start, the third from its first loss.
        self._lost.declare(("observer_events_queue",))
        self._lost.declare(("perf_event_ring_buffer",))
        self._folded = 0
        self.specs: tuple[HandlerSpec, ...] = ()
        self.families: tuple[Counters, ...] = ()
        self.configure(handlers)

    def configure(self, handlers: str | Iterable[str | HandlerSpec]) -> None:
        """Count by these handlers from now on; those that stay keep their totals.

        A handler stays while its context and options do; its filters may change.
        """
        specs = parse_handlers(handlers)
        self.fold()
        wanted: dict[_Sight, list[HandlerSpec]] = {}
        for spec in specs:
            sight = _Sight(spec.context, spec.include, spec.exclude)
            wanted.setdefault(sight, []).append(spec)
        known = {group.of: group for group in self._groups}
        counted = {spec.series: families for g in self._groups for spec, families in g.counted()}
        self._groups = [
            known.get(key) or _Group(key, self._classes, self._series, self._node, self._reasons)
            for key in wanted
        ]
        for group in self._groups:
            group.configure(wanted[group.of], counted)
        self.specs = specs
        self.families = (
            self._lost,
            *(family for group in self._groups for family in group.families),
        )

    @property
    def wants_queries(self) -> bool:
        """Whether names that DNS was asked for are counted."""
        return any(QUERY in spec.options for spec in self.specs)

    def count(self, batch: FlowBatch) -> None:
        """Count a batch: its cost does not depend on how many series there are."""
        if not len(batch):
            return
        classes = self._classes.of(batch)
        for group in self._groups:
            group.count(batch, classes)
        if len(self._classes) - self._folded >= _FRESH_CLASSES:
            # So that no scrape finds thousands of them.
            for group in self._groups:
                group.fold_classes()
            self._folded = len(self._classes)
            if len(self._classes) > _MOST_CLASSES:
                self.fold()
                self._classes.clear()
                self._folded = 0
                for group in self._groups:
                    group.clear()

    def move_to(self, node: LocalNode) -> None:
        """Filters know the node under this name from now on."""
        self._node = node
        for group in self._groups:
            group.move_to(node)

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
        for group in self._groups:
            group.fold()
        self._folded = len(self._classes)

    def remove_pods(self, pods: Iterable[tuple[str, str]]) -> Iterator[None]:
        """Take out the series that name pods (namespace, name); gives way between its steps.

        As in Hubble: by ``source`` and ``destination`` where they may be pods, and by the
        pairs of namespace and pod in ``labelsContext``.
        """
        gone = set(pods)
        self.fold()
        for group in self._groups:
            yield from group.remove_pods(gone)

    def expire(self, now: float, idle: float) -> Iterator[None]:
        """Take out the series that counted nothing for ``idle`` seconds (see ``Counters``)."""
        self.fold()
        for family in self.families:
            yield from family.expire(now, idle)

    def statistics(self) -> HubbleStatistics:
        """How much is kept."""
        series = sum(
            len(family) * (14 if isinstance(family, Histograms) else 1) for family in self.families
        )
        folded = sum(family.folded for family in self.families)
        return HubbleStatistics(len(self._classes) - 1, series, folded)


class _Sight(NamedTuple):
    """What the handlers of a group have in common; filters as in ``HandlerSpec``."""

    context: ContextSpec
    include: tuple[bytes, ...]
    exclude: tuple[bytes, ...]


class _Group:
    """Handlers that see the same flows under the same context labels."""

    __slots__ = (
        "_base", "_budget", "_by_name", "_context", "_counter", "_folded", "_handlers", "_node",
        "_reasons", "_recorders", "_records", "_selection", "_tables", "_wanted", "families", "of",
    )  # fmt: skip

    def __init__(
        self,
        of: _Sight,
        base: MetricClasses,
        budget: int,
        node: LocalNode,
        reasons: ReasonNames,
    ) -> None:
        self.of = of
        self._base = base
        self._budget = budget
        self._node = node
        self._reasons = reasons
        self._context = ContextClasses(base, Contexts(of.context)) if of.context.names else None
        self._counter = ClassCounter(self._context or base)
        self._by_name: dict[HandlerSpec, Handler] = {}
        self._recorders: dict[HandlerSpec, Recorder] = {}
        self._handlers: list[Handler] = []
        self._folded = 0  # rows of _context that were folded
        self._tables: FlowTables | None = None
        self._selection: FlowSelection | None = None
        self._records: L7Records | None = None
        self.families: tuple[Counters, ...] = ()

    def counted(self) -> Iterator[tuple[HandlerSpec, tuple[Counters, ...]]]:
        """The families of each handler."""
        yield from ((spec, handler.families) for spec, handler in self._by_name.items())
        yield from ((spec, recorder.families) for spec, recorder in self._recorders.items())

    def configure(
        self, specs: Iterable[HandlerSpec], counted: Mapping[Any, tuple[Counters, ...]]
    ) -> None:
        """Take these handlers; those that are there already stay. Call ``fold`` before.

        ``counted``: the families of handlers until now, by their ``series``.
        """
        classes: Classes = self._context or self._base
        handlers: dict[HandlerSpec, Handler] = {}
        recorders: dict[HandlerSpec, Recorder] = {}
        for spec in specs:
            families = counted.get(spec.series, ())
            settings = Settings(
                classes, self.of.context.names, spec.options, self._budget, families, self._reasons
            )
            if spec.name in BY_NAME:
                handlers[spec] = self._by_name.get(spec) or BY_NAME[spec.name](settings)
            else:
                recorders[spec] = self._recorders.get(spec) or RECORDERS[spec.name](settings)
        self._by_name, self._recorders = handlers, recorders
        self._handlers = [*handlers.values()]
        self._records = L7Records(classes, [*recorders.values()]) if recorders else None
        if self._records is not None:
            self._handlers.append(self._records)
        self._wanted = ClassColumn(self._base, self._are_wanted)
        self.families = tuple(family for handler in self._handlers for family in handler.families)

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """Count a batch, whose flows have these rows of the classes without context."""
        if self.of.include or self.of.exclude:
            passed = self._selected(batch)
            batch, classes = batch.select(passed), classes[passed]
        if self._context is not None:
            # What no handler counts needs no names.
            wanted = self._wanted.of(classes)
            if not wanted.all():
                batch, classes = batch.select(wanted), classes[wanted]
            classes = self._context.of(batch, classes)
        self._counter.add(classes)
        for handler in self._handlers:
            handler.count(batch, classes)
        if self._context is not None and len(self._context) - self._folded >= _FRESH_PAIRS:
            self.fold_classes()
            pairs, contexts = len(self._context), self._context.context_count
            if pairs > _MOST_PAIRS or contexts > _MOST_CONTEXTS:
                self.fold()
                self.clear()

    def fold(self) -> None:
        """Move counts to series."""
        self.fold_classes()
        if self._records is not None:
            self._records.fold_tallies()

    def fold_classes(self) -> None:
        """Move counts by class; tallies of L7 records wait, as their labels repeat."""
        counts = self._counter.take()
        for handler in self._handlers:
            handler.fold(counts)
        if self._context is not None:
            self._folded = len(self._context)

    def move_to(self, node: LocalNode) -> None:
        """See ``HubbleMetrics``."""
        self._node = node
        self._selection = None

    def clear(self) -> None:
        """Learn anew which pairs of class and context there are; all must be folded."""
        if self._context is not None:
            self._context.clear()
            self._folded = 0

    def remove_pods(self, gone: Collection[tuple[str, str]]) -> Iterator[None]:
        """See ``HubbleMetrics``."""
        found = list(self.of.context.pod_labels())
        full = {f"{namespace}/{name}" if namespace else name for namespace, name in gone}
        for family in self.families if found else ():
            singles = [family.labels.index(labels[0]) for labels in found if len(labels) == 1]
            pairs = [tuple(map(family.labels.index, labels)) for labels in found if labels[1:]]

            def is_gone(values: Sequence[str], singles: Any = singles, pairs: Any = pairs) -> bool:
                return any(values[at] in full for at in singles) or any(
                    (values[a], values[b]) in gone for a, b in pairs
                )

            yield from family.remove(is_gone)

    def _are_wanted(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        wanted = [any(h.wants(flow) for h in self._handlers) for flow in metric_classes(rows)]
        return np.array(wanted, dtype=np.bool_)

    def _selected(self, batch: FlowBatch) -> NDArray[np.intp]:
        """The flows that pass the filters."""
        if self._selection is None or self._tables is not batch.tables:
            include, exclude = (
                [flow_pb2.FlowFilter.FromString(data) for data in filters]
                for filters in (self.of.include, self.of.exclude)
            )
            self._tables = batch.tables
            self._selection = FlowSelection(batch.tables, self._node, include, exclude)
        return self._selection.matches(FlowView(batch))
