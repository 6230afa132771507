"""A metric family: series by label values, their totals, and the text of both.

Strategy: a series is a slot number. Its label values are escaped and formatted once,
when it is first written; a scrape concatenates that text with a number. Totals are one
array, so that a batch adds to many series in one call. Series are known by their values
joined into one string, which also sorts them as Go's client does. The sorted list is
kept from scrape to scrape; new series are merged into it in blocks, so that no single
step is long.

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
"""Series written, or new ones put in order, between two yields: 1 to 4 ms."""

_LARGEST = 2**63 - 1
_JOIN = "\0"


class Counters:
    """A counter family: one total for each combination of label values.

    ``labels`` are the label names in sorted order, and label values come in that order;
    a NUL in a value becomes U+FFFD. ``totals`` (int64, by slot) is replaced when it
    grows. A series whose total is 0 is not written unless it was declared.
    """

    __slots__ = (
        "_declared", "_keys", "_order", "_slots", "_sorted", "_template", "_texts", "help",
        "labels", "name", "totals",
    )  # fmt: skip

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        if list(labels) != sorted(labels):
            raise UsageError(f"the labels of {name} are out of order; sort them by name")
        self.name = name
        self.help = text
        self.labels: Labels = tuple(labels)
        self.totals: NDArray[np.int64] = np.zeros(16, dtype=np.int64)
        self._template = ",".join([f'{label}="%s"' for label in labels])
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []  # by slot
        self._texts: list[str] = []  # what stands before the number, of the slots sorted
        self._sorted: list[str] = []
        self._order: list[int] = []  # the slots of _sorted
        self._declared: set[int] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def slot(self, values: Labels) -> int:
        """The slot of a series, made when there is none."""
        key = _JOIN.join(values)
        slot = self._slots.get(key)
        if slot is None:
            if key.count(_JOIN) >= max(1, len(values)):
                return self.slot(tuple(value.replace(_JOIN, "\ufffd") for value in values))
            slot = self._slots[key] = len(self._keys)
            self._keys.append(key)
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
        while len(self._sorted) < len(self):
            known = len(self._sorted)
            fresh = self._keys[known : known + STEP]
            self._texts += [self._text(key) for key in fresh]
            # Timsort takes the old list as one run and merges the new one into it.
            self._sorted = sorted([*self._sorted, *sorted(fresh)])
            yield ""
        if len(self._order) < len(self._sorted):
            self._order = [self._slots[key] for key in self._sorted]
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

    def _label_text(self, key: str) -> str:
        if not self.labels:
            return ""
        return self._template % tuple(escape_label_value(key).split(_JOIN))

    def _text(self, key: str) -> str:
        labels = self._label_text(key)
        return f"{self.name}{{{labels}}} " if labels else f"{self.name} "

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

    def _text(self, key: str) -> str:
        return self._label_text(key)

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
