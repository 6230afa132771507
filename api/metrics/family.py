"""A metric family: series by label values, their totals, and the text of both.

Strategy: a series is a slot number. Its label values are escaped and formatted once,
when it is first written; a scrape concatenates that text with a number. Totals are one
array, so that a batch adds to many series in one call. Slots are written in the order
of their label values, as Go's client does; the order is kept from scrape to scrape, and
new slots are sorted in blocks, so that no single step is long.

Deliberately not done: removal of single series, exemplars.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.metrics.exposition import Format, escape_label_value, go_number, header
from parsers.errors import UsageError

Labels: TypeAlias = tuple[str, ...]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds of every Hubble histogram: the Go client's defaults."""

STEP: Final = 2048
"""Series sorted or written between two yields: about 2 ms while their text is new."""

_LARGEST = 2**63 - 1


class Counters:
    """A counter family: one total for each combination of label values.

    ``labels`` are the label names in sorted order, and label values come in that order.
    ``totals`` (int64, by slot) is replaced when it grows. A series whose total is 0 is
    not written unless it was declared.
    """

    __slots__ = (
        "_declared", "_order", "_slots", "_texts", "_values", "help", "labels", "name", "totals",
    )  # fmt: skip

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        if list(labels) != sorted(labels):
            raise UsageError(f"the labels of {name} are out of order; sort them by name")
        self.name = name
        self.help = text
        self.labels: Labels = tuple(labels)
        self.totals: NDArray[np.int64] = np.zeros(16, dtype=np.int64)
        self._values: list[Labels] = []
        self._slots: dict[Labels, int] = {}
        self._texts: list[str] = []  # what stands before the number, of the slots in _order
        self._order: list[int] = []
        self._declared: set[int] = set()

    def __len__(self) -> int:
        return len(self._values)

    def slot(self, values: Labels) -> int:
        """The slot of a series, made when there is none."""
        slot = self._slots.get(values)
        if slot is None:
            slot = self._slots[values] = len(self._values)
            self._values.append(values)
            if slot >= len(self.totals):
                self._grow()
        return slot

    def declare(self, values: Labels) -> None:
        """Write the series even while its total is 0."""
        self._declared.add(self.slot(values))

    def add(self, values: Labels, count: int) -> None:
        """Add to one series; a total past 63 bits stays at the largest number."""
        slot = self.slot(values)
        self.totals[slot] = min(int(self.totals[slot]) + count, _LARGEST)

    def write(self, form: Format) -> Iterator[str]:
        """Blocks of at most ``STEP`` series, with the totals of now; see ``render``."""
        return self._write(form, self.totals[: len(self)].tolist())

    def _grow(self) -> None:
        self.totals = np.concatenate([self.totals, np.zeros_like(self.totals)])

    def _sort(self) -> Iterator[str]:
        values = self._values.__getitem__
        while len(self._order) < len(self):
            known = len(self._order)
            fresh = range(known, min(known + STEP, len(self)))
            self._texts += [self._text(slot) for slot in fresh]
            # Timsort takes the old order as one run and merges the new one into it.
            self._order = sorted([*self._order, *sorted(fresh, key=values)], key=values)
            yield ""

    def _write(self, form: Format, totals: list[int]) -> Iterator[str]:
        yield from self._sort()
        order = self._order
        head = header(form, self.name, self.kind, self.help)
        for start in range(0, len(order), STEP):
            shown = [
                slot
                for slot in order[start : start + STEP]
                # A slot made since ``totals`` were taken waits for the next scrape.
                if slot < len(totals) and (totals[slot] or slot in self._declared)
            ]
            if shown:
                yield head + self._lines(form, shown, totals)
                head = ""

    def _label_text(self, slot: int) -> str:
        pairs = zip(self.labels, self._values[slot], strict=True)
        return ",".join([f'{name}="{escape_label_value(value)}"' for name, value in pairs])

    def _text(self, slot: int) -> str:
        return f"{self.name}{{{self._label_text(slot)}}} " if self.labels else f"{self.name} "

    def _lines(self, form: Format, shown: list[int], totals: list[int]) -> str:
        texts = self._texts
        end = ".0\n" if form is Format.OPENMETRICS else "\n"
        return "".join([f"{texts[slot]}{totals[slot]}{end}" for slot in shown])


class Histograms(Counters):
    """A histogram family of durations over ``BUCKETS``; ``totals`` are the counts.

    ``buckets`` (int64, by slot and bucket, each for itself, the last up to +Inf) and
    ``nanoseconds`` (int64, by slot: the sum) stand beside them.
    """

    __slots__ = ("buckets", "nanoseconds")

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self.buckets: NDArray[np.int64] = np.zeros((16, len(BUCKETS) + 1), dtype=np.int64)
        self.nanoseconds: NDArray[np.int64] = np.zeros(16, dtype=np.int64)

    def observe(self, values: Labels, buckets: Sequence[int], nanoseconds: int) -> None:
        """Add observations: how many fell into each bucket, and their sum."""
        self.add(values, sum(buckets))
        slot = self.slot(values)
        self.buckets[slot] += np.asarray(buckets, dtype=np.int64)
        self.nanoseconds[slot] = min(int(self.nanoseconds[slot]) + nanoseconds, _LARGEST)

    def _grow(self) -> None:
        super()._grow()
        self.buckets = np.concatenate([self.buckets, np.zeros_like(self.buckets)])
        self.nanoseconds = np.concatenate([self.nanoseconds, np.zeros_like(self.nanoseconds)])

    def _text(self, slot: int) -> str:
        return self._label_text(slot)

    def _lines(self, form: Format, shown: list[int], totals: list[int]) -> str:
        cumulative = self.buckets[shown].cumsum(axis=1).tolist()
        bounds = [go_number(bound, form) for bound in (*BUCKETS, float("inf"))]
        end = ".0\n" if form is Format.OPENMETRICS else "\n"
        lines: list[str] = []
        for slot, counts in zip(shown, cumulative, strict=True):
            text = self._texts[slot]
            comma, braces = (",", f"{{{text}}}") if text else ("", "")
            lines += [
                f'{self.name}_bucket{{{text}{comma}le="{bound}"}} {count}{end}'
                for bound, count in zip(bounds, counts, strict=True)
            ]
            seconds = go_number(int(self.nanoseconds[slot]) / 1e9, form)
            lines += [
                f"{self.name}_sum{braces} {seconds}\n",
                f"{self.name}_count{braces} {counts[-1]}{end}",
            ]
        return "".join(lines)
