"""Counting by metric class, and turning those counts into series.

A batch adds to one array by class, whatever its labels are. Which series a class adds
to is worked out once, when its count first leaves zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.metrics.classes import Classes, MetricClass
from api.metrics.family import STEP, Counters, Labels
from parsers.flow_batch import I64, U32, FlowBatch

LabelsOf: TypeAlias = Callable[[MetricClass], Iterable[Labels]]
"""The series a flow of a class adds 1 to, context apart; usually none or one."""

Select: TypeAlias = Callable[[FlowBatch, U32], U32]
"""The classes of those flows of a batch that a handler counts."""


class ClassColumn:
    """A value for each metric class, worked out for new classes when they come."""

    __slots__ = ("_classes", "_derive", "_generation", "_values")

    def __init__(self, classes: Classes, derive: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._classes = classes
        self._derive = derive  # of a structured array with the fields of MetricClass
        self._generation = classes.generation
        self._values = derive(classes.rows)

    def of(self, classes: U32) -> NDArray[Any]:
        """The value of each flow's class."""
        if self._generation != self._classes.generation:
            self._generation = self._classes.generation
            self._values = self._values[:0]
        known, count = len(self._values), len(self._classes)
        if known < count:
            fresh = self._derive(self._classes.rows[known:])
            self._values = np.concatenate([self._values, fresh])
        values: NDArray[Any] = self._values[classes]
        return values


class ClassCounter:
    """Flows (int64), or what they stand for, by metric class."""

    __slots__ = ("_classes", "_counts")

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._counts: I64 = np.zeros(64, dtype=np.int64)

    def add(self, classes: U32, amounts: NDArray[Any] | int = 1) -> None:
        """Count one flow, or an amount (int64), for each class row."""
        if len(self._counts) < len(self._classes):
            grown = np.zeros(2 * len(self._classes), dtype=np.int64)
            grown[: len(self._counts)] = self._counts
            self._counts = grown
        np.add.at(self._counts, classes, amounts)

    def take(self) -> I64:
        """The counts since the last call."""
        counts = self._counts
        self._counts = np.zeros_like(counts)
        return counts


class ClassSeries:
    """Moves counts by class to the series of a family."""

    __slots__ = (
        "_classes", "_family", "_generation", "_known", "_labels", "_labels_of", "_rows", "_slots",
    )  # fmt: skip

    def __init__(self, classes: Classes, family: Counters, labels_of: LabelsOf) -> None:
        self._classes = classes
        self._family = family
        self._labels_of = labels_of
        self._forget()

    def _forget(self) -> None:
        self._generation = self._classes.generation, self._family.generation
        self._labels: dict[int, tuple[Labels, ...]] = {}  # by class without context
        self._known = np.zeros(0, dtype=np.bool_)  # by class
        # Class _rows[i] adds to slot _slots[i].
        self._rows: I64 = np.zeros(0, dtype=np.int64)
        self._slots: I64 = np.zeros(0, dtype=np.int64)

    def _follow(self, generation: int) -> None:
        """Go on after a removal of series, without learning all classes anew."""
        family = self._family
        if family.generation != generation + 1:
            self._forget()
            return
        self._generation = self._classes.generation, family.generation
        slots = family.moved[self._slots]
        anew = np.zeros(len(self._known), dtype=np.bool_)
        anew[self._rows[slots < 0]] = True
        # There is room again for some of those that folded.
        anew[self._rows[family.are_others(slots)][:STEP]] = True
        self._known &= ~anew
        stays = ~anew[self._rows]
        self._rows, self._slots = self._rows[stays], slots[stays]

    def _labels_at(self, row: int, base: int) -> tuple[Labels, ...]:
        """The labels of a class, context apart; ``base`` is its row without one."""
        labels = self._labels.get(base)
        if labels is None:
            labels = self._labels[base] = tuple(self._labels_of(self._classes[row].flow))
        return labels

    def fold(self, counts: I64) -> None:
        """Add counts to the family's totals."""
        of_classes, of_family = self._generation
        if of_classes != self._classes.generation:
            self._forget()
        elif of_family != self._family.generation:
            self._follow(of_family)
        known = np.zeros(len(counts), dtype=np.bool_)
        known[: len(self._known)] = self._known
        fresh = ((counts > 0) & ~known).nonzero()[0]
        if len(fresh):
            known[fresh] = True
            classes, slot = self._classes, self._family.slot
            pairs = [
                (row, slot(labels, classes.context(context)))
                for row, base, context in zip(
                    fresh.tolist(),
                    classes.base_of(fresh).tolist(),
                    classes.contexts_of(fresh).tolist(),
                    strict=True,
                )
                for labels in self._labels_at(row, base)
            ]
            rows, slots = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            self._rows = np.concatenate([self._rows, rows])
            self._slots = np.concatenate([self._slots, slots])
        self._known = known
        np.add.at(self._family.totals, self._slots, counts[self._rows])


class ClassHandler:
    """A handler whose labels follow from the class; see ``Handler``.

    Without ``select`` every flow is offered, and the counts are those all such handlers
    share; with it the handler keeps counts of its own. ``wants``: whether a class may be
    counted at all, where ``labels_of`` does not tell.
    """

    __slots__ = ("_labels_of", "_own", "_select", "_series", "_wants", "families")

    def __init__(
        self,
        classes: Classes,
        family: Counters,
        labels_of: LabelsOf,
        select: Select | None = None,
        wants: Callable[[MetricClass], bool] | None = None,
    ) -> None:
        self.families: tuple[Counters, ...] = (family,)
        self._series = ClassSeries(classes, family, labels_of)
        self._labels_of = labels_of
        self._select = select
        self._wants = wants
        self._own = ClassCounter(classes)

    def wants(self, flow: MetricClass) -> bool:
        """See ``Handler``."""
        if self._wants is not None:
            return self._wants(flow)
        return any(True for _ in self._labels_of(flow))

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """See ``Handler``."""
        if self._select is not None:
            self._own.add(self._select(batch, classes))

    def fold(self, counts: I64) -> None:
        """See ``Handler``."""
        self._series.fold(counts if self._select is None else self._own.take())
