"""A metric family: series by label values, their totals, and the text of both.

Strategy: a series is a slot number. Its label values are escaped and formatted once,
when it is first written; a scrape concatenates that text with a number. Totals are one
array, so that a batch adds to many series in one call. Series are known by their values
joined into one string, which also sorts them as Go's client does. The sorted list is
kept from scrape to scrape; new series are merged into it in blocks, so that no single
step is long.

A family has a budget of series. Beyond it a newcomer folds into a series whose values are
``other``, except for labels that have few values anyhow (``kept``), so that sums by these stay
true. A series that was admitted never folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from itertools import compress
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.metrics.exposition import Format, escape_label_value, go_number, header
from parsers.errors import UsageError

Labels: TypeAlias = tuple[str, ...]

BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds of every Hubble histogram: the Go client's defaults."""

SERIES: Final = 20_000
"""Series a family has at most, before newcomers fold; 50,000 are scraped within 100 ms."""

OTHER: Final = "other"
"""The value of a label whose series folded."""

STEP: Final = 2048
"""Samples written, or new series put in order, between two yields: 1 to 4 ms."""

_FIRST = 16  # slots with room at the beginning
_LARGEST = 2**63 - 1
_JOIN = "\0"


class Exemplar(NamedTuple):
    """A flow with a trace; latency and time (since the epoch) in ns."""

    trace_id: str
    latency: int
    time: int

    def text(self, value: float) -> str:
        """What stands behind a sample in OpenMetrics."""
        number, at = (go_number(x, Format.OPENMETRICS) for x in (value, self.time / 1e9))
        return f' # {{traceID="{escape_label_value(self.trace_id)}"}} {number} {at}'


Exemplars: TypeAlias = Mapping[int, Exemplar]
"""By bucket; of a counter's, any."""


class Counters:
    """A counter family: one total for each combination of label values.

    ``labels`` are the label names in sorted order, and label values come in that order;
    a NUL in a value becomes U+FFFD. The labels of ``context`` come beside them, in their own
    order, and their values with them. ``totals`` (int64, by slot) is replaced when it
    grows. A series whose total is 0 is not written unless it was declared.

    ``generation`` rises when series are removed: slots mean other series then, and ``moved``
    has the new one of each, -1 for those removed. What these had counted is in ``expired``. A
    text that is being written does not see it, as removal replaces lists and arrays and does
    not change them.
    """

    __slots__ = (
        "_arranged", "_declared", "_exemplars", "_folds", "_keys", "_order", "_others", "_seen",
        "_since", "_slots", "_sorted", "_template", "_texts", "budget", "expired", "generation",
        "help", "labels", "moved", "name", "totals",
    )  # fmt: skip

    kind = "counter"
    step = STEP  # series between two yields

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        context: Sequence[str] = (),
        *,
        kept: Sequence[str] = (),
        budget: int = SERIES,
    ) -> None:
        if list(labels) != sorted(labels):
            raise UsageError(f"the labels of {name} are out of order; sort them by name")
        self.name = name
        self.help = text
        self.budget = budget
        self.generation = 0
        self.moved: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.expired = 0
        given = (*labels, *context)
        labels = sorted(given)
        self.labels: Labels = tuple(labels)
        order = [given.index(label) for label in labels]
        # Where to find each label's value; None where they come as they are written.
        self._arranged = None if order == list(range(len(order))) else order
        self._folds = [label not in kept for label in labels]
        self._others: set[int] = set()  # slots of folded series
        self._exemplars: dict[tuple[int, int], Exemplar] = {}  # by slot and bucket
        self._seen: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # totals at the last look
        self._since: NDArray[np.float64] = np.zeros(0)  # when they became so
        self._begin()
        self._template = ",".join([f'{label}="%s"' for label in labels])
        self._slots: dict[str, int] = {}
        self._keys: list[str] = []  # by slot
        self._texts: list[str] = []  # what stands before the number, of the slots sorted
        self._sorted: list[str] = []
        self._order: list[int] = []  # the slots of _sorted
        self._declared: set[int] = set()

    def _begin(self) -> None:
        """Make the numbers by slot."""
        self.totals: NDArray[np.int64] = np.zeros(_FIRST, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def slot(self, values: Labels, context: Labels = ()) -> int:
        """The slot of a series, made when there is none."""
        if context:
            values += context
        if self._arranged is not None:
            values = tuple([values[index] for index in self._arranged])
        return self._slot(values)

    @property
    def folded(self) -> int:
        """What was counted under ``other`` because there were too many series."""
        return sum(int(self.totals[slot]) for slot in self._others)

    def are_others(self, slots: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which slots are those of folded series."""
        return np.isin(slots, list(self._others))

    def _slot(self, values: Labels) -> int:
        key = _JOIN.join(values)
        slot = self._slots.get(key)
        if slot is None:
            if key.count(_JOIN) >= max(1, len(values)):
                return self._slot(tuple(value.replace(_JOIN, "\ufffd") for value in values))
            if len(self._keys) - len(self._others) >= self.budget and any(self._folds):
                return self._other(values)
            slot = self._made(key)
        return slot

    def _other(self, values: Labels) -> int:
        """The slot a series beyond the budget folds into."""
        folded = [OTHER if fold else v for v, fold in zip(values, self._folds, strict=True)]
        key = _JOIN.join(folded)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._made(key)
        self._others.add(slot)
        return slot

    def _made(self, key: str) -> int:
        slot = self._slots[key] = len(self._keys)
        self._keys.append(key)
        if slot >= len(self.totals):
            self._grow()
        return slot

    def declare(self, values: Labels) -> None:
        """Write the series even while its total is 0."""
        self._declared.add(self.slot(values))

    def add(
        self, values: Labels, count: int, context: Labels = (), exemplars: Exemplars | None = None
    ) -> None:
        """Add to one series; a total past 63 bits stays at the largest number."""
        slot = self.slot(values, context)
        for exemplar in (exemplars or {}).values():
            self._show(slot, 0, exemplar)
        self.totals[slot] = min(int(self.totals[slot]) + count, _LARGEST)

    def _show(self, slot: int, bucket: int, exemplar: Exemplar) -> None:
        """Of several exemplars the newest is shown."""
        shown = self._exemplars.get((slot, bucket))
        if shown is None or shown.time <= exemplar.time:
            self._exemplars[slot, bucket] = exemplar

    def remove(self, is_gone: Callable[[Sequence[str]], bool]) -> Iterator[None]:
        """Take out the series whose label values are gone; gives way between its steps."""
        keys = self._keys
        dead: list[int] = []
        for start in range(0, len(keys), STEP):
            dead += [
                slot
                for slot, key in enumerate(keys[start : start + STEP], start)
                if is_gone(key.split(_JOIN)) and not self._is_kept(slot)
            ]
            yield
        if dead:
            self._take_out(dead)
            yield

    def expire(self, now: float, idle: float) -> Iterator[None]:
        """Take out the series that did not change for ``idle`` seconds; gives way behind it.

        Called every now and then, as a change is seen by comparison. A metric that has few
        series anyhow keeps them.
        """
        if not any(self._folds):
            return
        count = len(self._keys)
        known = len(self._seen)
        self._since = np.concatenate([self._since, np.full(count - known, now)])
        self._seen = np.concatenate([self._seen, self.totals[known:count]])
        changed = self._seen != self.totals[:count]
        self._since[changed] = now
        self._seen[changed] = self.totals[:count][changed]
        dead = [
            slot
            for slot in (now - self._since >= idle).nonzero()[0].tolist()
            if not self._is_kept(slot)
        ]
        # At once: what counts again meanwhile would go with them.
        if dead:
            self._take_out(dead)
        yield

    def _is_kept(self, slot: int) -> bool:
        """Whether a series is there for good: declared ones, and those that others fold into."""
        return slot in self._declared or slot in self._others

    def _take_out(self, dead: Sequence[int]) -> None:
        kept = np.ones(len(self._keys), dtype=np.bool_)
        kept[dead] = False
        self.generation += 1
        self.expired += int(self.totals[dead].sum())
        moved = self.moved = np.where(kept, np.cumsum(kept) - 1, -1)
        self._texts = list(compress(self._texts, kept.tolist()))
        self._keys = list(compress(self._keys, kept.tolist()))
        self._slots = dict(zip(self._keys, range(len(self._keys)), strict=True))
        self._sorted = list(filter(self._slots.__contains__, self._sorted))
        self._order = []  # to be found again
        self._declared = {int(moved[slot]) for slot in self._declared}
        self._others = {int(moved[slot]) for slot in self._others}
        self._exemplars = {
            (int(moved[slot]), bucket): exemplar
            for (slot, bucket), exemplar in self._exemplars.items()
            if kept[slot]
        }
        stays = kept.nonzero()[0]
        known = stays[stays < len(self._seen)]
        self._seen, self._since = self._seen[known], self._since[known]
        self._keep(stays)

    def _keep(self, slots: NDArray[np.int64]) -> None:
        """Take along the numbers of the slots that stay."""
        self.totals = _moved(self.totals, slots)

    def write(self, form: Format) -> Iterator[str]:
        """Blocks of at most ``step`` series, with the totals of now; see ``render``."""
        return self._write(form, self.totals[: len(self)].tolist(), self.generation)

    def _grow(self) -> None:
        self.totals = np.concatenate([self.totals, np.zeros_like(self.totals)])

    def _sort(self) -> Iterator[str]:
        while True:
            known = len(self._sorted)
            if known < len(self):
                fresh = self._keys[known : known + STEP]
                self._texts += [self._text(key) for key in fresh]
                # Timsort takes the old list as one run and merges the new one into it.
                self._sorted = sorted([*self._sorted, *sorted(fresh)])
            elif len(self._order) < known:
                self._order = [self._slots[key] for key in self._sorted]
            else:
                return
            yield ""

    def _write(self, form: Format, totals: list[int], generation: int) -> Iterator[str]:
        yield from self._sort()
        if generation != self.generation:
            totals = self.totals[: len(self)].tolist()
        # Whatever is removed while this is written.
        yield from copy(self).blocks(form, totals)

    def blocks(self, form: Format, totals: Sequence[int]) -> Iterator[str]:
        """The text of the series that are in order, with totals by slot."""
        order = self._order
        head = header(form, self.name, self.kind, self.help)
        for start in range(0, len(order), self.step):
            shown = [
                slot
                for slot in order[start : start + self.step]
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

    def _lines(self, form: Format, shown: list[int], totals: Sequence[int]) -> str:
        texts = self._texts
        end = ".0\n" if form is Format.OPENMETRICS else "\n"
        if form is Format.OPENMETRICS and self._exemplars:
            found = self._exemplars.get
            return "".join(
                f"{texts[slot]}{totals[slot]}.0{e.text(1) if (e := found((slot, 0))) else ''}\n"
                for slot in shown
            )
        return "".join([f"{texts[slot]}{totals[slot]}{end}" for slot in shown])


class Histograms(Counters):
    """A histogram family of durations over ``BUCKETS``; ``totals`` are the counts.

    ``buckets`` (int64, by slot and bucket, each for itself, the last up to +Inf) and
    ``nanoseconds`` (int64, by slot: the sum) stand beside them.
    """

    __slots__ = ("buckets", "nanoseconds")

    kind = "histogram"
    step = STEP // (len(BUCKETS) + 3)

    def _begin(self) -> None:
        super()._begin()
        self.buckets: NDArray[np.int64] = np.zeros((_FIRST, len(BUCKETS) + 1), dtype=np.int64)
        self.nanoseconds: NDArray[np.int64] = np.zeros(_FIRST, dtype=np.int64)

    def observe(
        self,
        values: Labels,
        buckets: Sequence[int],
        nanoseconds: int,
        context: Labels = (),
        exemplars: Exemplars | None = None,
    ) -> None:
        """Add observations: how many fell into each bucket, and their sum."""
        self.add(values, sum(buckets), context)
        slot = self.slot(values, context)
        for bucket, exemplar in (exemplars or {}).items():
            self._show(slot, bucket, exemplar)
        self.buckets[slot] += np.asarray(buckets, dtype=np.int64)
        self.nanoseconds[slot] = min(int(self.nanoseconds[slot]) + nanoseconds, _LARGEST)

    def _keep(self, slots: NDArray[np.int64]) -> None:
        super()._keep(slots)
        self.buckets = _moved(self.buckets, slots)
        self.nanoseconds = _moved(self.nanoseconds, slots)

    def _grow(self) -> None:
        super()._grow()
        self.buckets = np.concatenate([self.buckets, np.zeros_like(self.buckets)])
        self.nanoseconds = np.concatenate([self.nanoseconds, np.zeros_like(self.nanoseconds)])

    def _text(self, key: str) -> str:
        return self._label_text(key)

    def _lines(self, form: Format, shown: list[int], totals: Sequence[int]) -> str:
        cumulative = self.buckets[shown].cumsum(axis=1).tolist()
        bounds = [go_number(bound, form) for bound in (*BUCKETS, float("inf"))]
        lines: list[str] = []
        for slot, counts in zip(shown, cumulative, strict=True):
            text = self._texts[slot]
            comma, braces = (",", f"{{{text}}}") if text else ("", "")
            lines += [
                f'{self.name}_bucket{{{text}{comma}le="{bound}"}} {count}\n'
                for bound, count in zip(bounds, counts, strict=True)
            ]
            if form is Format.OPENMETRICS and self._exemplars:
                for bucket in range(len(bounds)):
                    if (found := self._exemplars.get((slot, bucket))) is not None:
                        at = bucket - len(bounds)
                        lines[at] = f"{lines[at][:-1]}{found.text(found.latency / 1e9)}\n"
            seconds = go_number(int(self.nanoseconds[slot]) / 1e9, form)
            lines += [
                f"{self.name}_sum{braces} {seconds}\n",
                f"{self.name}_count{braces} {counts[-1]}\n",
            ]
        return "".join(lines)


def _moved(numbers: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of ``slots`` at the front of a new array."""
    found = np.zeros_like(numbers)
    found[: len(slots)] = numbers[slots]
    return found
