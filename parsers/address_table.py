"""Numbers for addresses over time, asked for a batch at a time.

Strategy: what an address has now stands in columns, beside an ``InternTable`` of the
addresses, in which those of IPv4 are found by ``Ipv4Rows``: a number and since when, for each of
a few *layers* (the owner, the services). Most addresses never had another number, and most
events come after the last change, so nearly all are answered by a handful of numpy passes. An
address that changed hands has a ``Timeline`` as well, which the few earlier events ask.

A change that is heard of late goes to its place in time. Nothing is forgotten by itself:
``forget`` drops what no event after a given time can need, a bounded piece at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.flow_batch import I64, U32
from parsers.intern import InternTable, lengthened
from parsers.ipv4_rows import Ipv4Rows
from parsers.timeline import EVER, FOREVER, Timeline

ADDRESS = np.dtype("V16")
"""An address of 16 bytes, network order, IPv4 mapped."""

Addresses: TypeAlias = NDArray[np.void]

BUCKETS = 1 << 16
_FORGOTTEN_AT_ONCE = 2048  # changes looked at by one call: about 1 ms


class Held(NamedTuple):
    """Numbers (uint32, 0 for none), and since and until when each holds (int64, ns)."""

    number: U32
    since: I64
    until: I64


class _Layer:
    """One number an address, by row of the table."""

    __slots__ = ("numbers", "since", "timelines")

    def __init__(self, capacity: int) -> None:
        self.numbers: U32 = np.zeros(capacity, dtype=np.uint32)  # of now
        self.since: I64 = np.full(capacity, EVER, dtype=np.int64)
        self.timelines: dict[int, Timeline[int]] = {}  # by row, of those that changed

    def set(self, row: int, number: int, since: int, *, lasting: bool) -> None:
        """From ``since`` on the row has ``number``: for good, or until the next change."""
        began = int(self.since[row])
        timeline = self.timelines.get(row)
        if timeline is None and began == EVER and not self.numbers[row]:
            began = since  # it had nothing before, which needs no timeline
        elif timeline is None and (began < since or (began > since and not lasting)):
            timeline = self.timelines[row] = Timeline()
            timeline.set(int(self.numbers[row]) or None, began)
        if timeline is not None:
            if lasting:
                timeline.cut(since)
            timeline.set(number or None, since)
        if lasting or since >= began:
            self.numbers[row], self.since[row] = number, since

    def at(self, rows: U32, time: I64) -> Held:
        """What the rows have at ``time``."""
        numbers, since, until, early = self._now(rows, time)
        for index in early.tolist():
            timeline, at = self.timelines.get(int(rows[index])), int(time[index])
            if timeline is None:
                numbers[index], until[index], since[index] = 0, since[index], EVER
            else:
                numbers[index] = timeline.at(at) or 0
                since[index], until[index] = timeline.since(at), timeline.until(at)
        return Held(numbers, since, until)

    def _now(self, rows: U32, time: I64) -> tuple[U32, I64, I64, I64]:
        """What the rows have now, since and until when, and which times are before that."""
        if compiled.kernels is None:
            since = self.since[rows]
            until = np.full(len(rows), FOREVER, dtype=np.int64)
            return self.numbers[rows], since, until, (time < since).nonzero()[0]
        count = len(rows)
        numbers = np.empty(count, dtype=np.uint32)
        since, until, early = np.empty((3, count), dtype=np.int64)
        found = compiled.kernels.addresses_at(
            rows, time, count, self.numbers, self.since, FOREVER, numbers, since, until, early
        )
        return numbers, since, until, early[:found]

    def forget(self, row: int, before: int) -> None:
        """Drop what no event after ``before`` needs of a row."""
        timeline = self.timelines.get(row)
        if timeline is not None:
            timeline.forget(before)
            if len(timeline) == 1:
                del self.timelines[row]


class AddressTable:
    """Numbers from 1 on; 0 is none. Times are ns. Row 0 is IPv6's ``::``, which has none."""

    __slots__ = ("_changes", "_layers", "_rows", "_rows_v4")

    def __init__(self, layers: int = 1) -> None:
        self._rows = InternTable(ADDRESS)
        self._rows_v4 = Ipv4Rows()
        self._layers = [_Layer(self._rows.capacity) for _ in range(layers)]
        self._changes: deque[tuple[int, int]] = deque()  # time and row of each further change

    def __len__(self) -> int:
        """Addresses that have or had a number."""
        return len(self._rows) - 1

    def nbytes(self) -> int:
        """About how much memory the table takes."""
        timelines = [t for layer in self._layers for t in layer.timelines.values()]
        columns = len(self._layers) * 12 * len(self._rows)
        changes = 100 * len(self._changes) + sum(_TIMELINE_BYTES + 80 * len(t) for t in timelines)
        return self._rows.nbytes() + self._rows_v4.nbytes() + columns + changes

    def set(
        self, address: bytes, number: int, since: int, layer: int = 0, *, lasting: bool = False
    ) -> None:
        """From ``since`` on ``address`` has ``number`` (0: none), until the next known change.

        ``lasting``: whatever changes were known after it were none.
        """
        self.set_many([(address, number, since)], layer, lasting=lasting)

    def set_many(
        self, changes: Sequence[tuple[bytes, int, int]], layer: int = 0, *, lasting: bool = False
    ) -> None:
        """As ``set``, of addresses, numbers and times, one after the other."""
        packed = b"".join([address for address, _, _ in changes])
        rows, made = self._rows.lookup(np.frombuffer(packed, dtype=ADDRESS))
        if len(made):
            self._rows_v4.put(self._rows.rows[made], made)
        capacity = self._rows.capacity
        for each in self._layers:
            if capacity > len(each.numbers):
                each.numbers = lengthened(each.numbers, capacity)
                each.since = lengthened(each.since, capacity)
            each.numbers[made], each.since[made] = 0, EVER
        changed, new = self._layers[layer], set(made.tolist())
        for row, (_, number, since) in zip(rows.tolist(), changes, strict=True):
            if row:
                changed.set(row, number, since, lasting=lasting)
                if row in new:
                    new.remove(row)
                else:
                    self._changes.append((since, row))

    def rows_of(self, addresses: Addresses) -> U32:
        """The rows of addresses (uint32), 0 for those that are not there."""
        rows, others = self._rows_v4.find(addresses)
        if len(others):
            rows[others] = self._rows.find(addresses[others])
        return rows

    def at(self, rows: U32, time: I64, layer: int = 0) -> Held:
        """What the addresses of ``rows`` had at ``time`` (same length)."""
        return self._layers[layer].at(rows, time)

    def had_one(self, rows: U32, time: I64, layer: int = 0) -> NDArray[np.bool_]:
        """Which had a number at some time up to ``time``, as far as that is remembered."""
        asked = self._layers[layer]
        had: NDArray[np.bool_] = (asked.numbers[rows] != 0) & (asked.since[rows] <= time)
        for index in (~had & (rows != 0)).nonzero()[0].tolist():
            timeline = asked.timelines.get(int(rows[index]))
            if timeline is not None:
                had[index] = timeline.had_one(int(time[index]))
        return had

    def numbers_in_use(self, end: int, layer: int = 0) -> NDArray[np.bool_]:
        """A flag for each number below ``end``: whether some address has or had it."""
        asked = self._layers[layer]
        in_use = np.zeros(end, dtype=np.bool_)
        in_use[asked.numbers[self._rows.live_rows()]] = True
        past = chain.from_iterable(timeline.values() for timeline in asked.timelines.values())
        in_use[[number or 0 for number in past]] = True
        return in_use

    def forget(self, before: int) -> int:
        """Drop what no event after ``before`` needs; 0 when there is no more to drop now."""
        looked, gone = 0, []
        while self._changes and self._changes[0][0] < before and looked < _FORGOTTEN_AT_ONCE:
            _, row = self._changes.popleft()
            looked += 1
            for layer in self._layers:
                layer.forget(row, before)
            if not any(layer.numbers[row] or row in layer.timelines for layer in self._layers):
                gone.append(row)
        rows = np.unique(np.array(gone, dtype=np.uint32))
        # A row with several changes may have gone with one that was looked at before.
        rows = rows[self._rows.is_live(0, self._rows.end)[rows]]
        self._rows_v4.put(self._rows.rows[rows], np.zeros(len(rows), dtype=np.uint32))
        self._rows.free(rows)
        return looked


_TIMELINE_BYTES = 400  # the object, two lists and its place among the others


def buckets_of(addresses: Addresses) -> NDArray[np.uint16]:
    """One of ``BUCKETS`` classes for each address, for caches that a change may void."""
    words = addresses.view(np.uint16).reshape(*addresses.shape, 8)
    folded: NDArray[np.uint16] = np.bitwise_xor.reduce(words, axis=-1)
    return folded


def bucket_of(address: bytes) -> int:
    """That of one address."""
    return int(buckets_of(np.frombuffer(address, dtype=ADDRESS))[0])
