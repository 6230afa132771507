"""A number for each address at each time, asked for a batch at a time.

Strategy: what an address has now stands in columns, beside an ``InternTable`` of the
addresses: a number and since when. Most addresses never had another one, and most events
come after the last change, so nearly all are answered by a handful of numpy passes. An
address that changed hands has a ``Timeline`` as well, which the few earlier events ask.

A change that is heard of late goes to its place in time. Nothing is forgotten by itself:
``forget`` drops what no event after a given time can need, a bounded piece at a time.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import I64, U32
from parsers.intern import InternTable, hash_of, lengthened
from parsers.timeline import EVER, FOREVER, Timeline

ADDRESS = np.dtype("V16")
"""An address of 16 bytes, network order, IPv4 mapped."""

Addresses: TypeAlias = NDArray[np.void]

BUCKETS = 1 << 16
_BUCKET_SHIFT = np.uint64(64 - 16)
_FORGOTTEN_AT_ONCE = 2048  # changes looked at by one call: about 1 ms


class AddressTable:
    """Numbers from 1 on, uint32; 0 is none. Times are ns. IPv6's ``::`` never has one."""

    __slots__ = ("_changes", "_rows", "_since", "_timelines", "_values")

    def __init__(self) -> None:
        self._rows = InternTable(ADDRESS)
        self._values: U32 = np.zeros(self._rows.capacity, dtype=np.uint32)  # of now, by row
        self._since: I64 = np.full(self._rows.capacity, EVER, dtype=np.int64)
        self._timelines: dict[int, Timeline[int]] = {}  # by row, of those that changed
        self._changes: deque[tuple[int, int]] = deque()  # time and row of each change

    def __len__(self) -> int:
        """Addresses that have or had a number."""
        return len(self._rows) - 1

    def nbytes(self) -> int:
        """About how much memory the table takes."""
        timelines = sum(_TIMELINE_BYTES + 16 * len(t) for t in self._timelines.values())
        return self._rows.nbytes() + 12 * len(self._rows) + timelines + 100 * len(self._changes)

    def set(self, address: bytes, number: int, since: int) -> None:
        """From ``since`` on ``address`` has ``number`` (0: none), until the next change."""
        self.set_many(
            np.frombuffer(address, dtype=ADDRESS),
            np.array([number], dtype=np.uint32),
            np.array([since], dtype=np.int64),
        )

    def set_many(self, addresses: Addresses, numbers: U32, since: I64) -> None:
        """As ``set``, of distinct addresses."""
        rows, made = self._rows.lookup(addresses)
        capacity = self._rows.capacity
        if capacity > len(self._values):
            self._values = lengthened(self._values, capacity)
            self._since = lengthened(self._since, capacity)
        fresh = np.isin(rows, made) if len(made) != len(rows) else np.ones(len(rows), np.bool_)
        self._values[rows[fresh]] = numbers[fresh]
        self._since[rows[fresh]] = since[fresh]
        late = (~fresh & (rows != 0)).nonzero()[0]
        changes = (rows[late].tolist(), numbers[late].tolist(), since[late].tolist())
        for row, number, at in zip(*changes, strict=True):
            self._change(row, number, at)

    def _change(self, row: int, number: int, since: int) -> None:
        now, began = int(self._values[row]), int(self._since[row])
        timeline = self._timelines.get(row)
        if timeline is None:
            if began == since:
                self._values[row] = number
                return
            timeline = self._timelines[row] = Timeline()
            timeline.set(now or None, began)
        timeline.set(number or None, since)
        self._changes.append((since, row))
        if since >= began:
            self._values[row], self._since[row] = number, since

    def find(self, addresses: Addresses, time: I64) -> tuple[U32, I64, I64]:
        """Numbers at ``time`` (same length), and since and until when each holds."""
        rows = self._rows.find(addresses)
        numbers, since = self._values[rows], self._since[rows]
        until = np.full(len(rows), FOREVER, dtype=np.int64)
        for index in (time < since).nonzero()[0].tolist():
            timeline = self._timelines.get(int(rows[index]))
            if timeline is None:
                numbers[index], until[index], since[index] = 0, since[index], EVER
            else:
                at = int(time[index])
                numbers[index] = timeline.at(at) or 0
                since[index], until[index] = timeline.since(at), timeline.until(at)
        return numbers, since, until

    def had_one(self, addresses: Addresses, time: I64) -> NDArray[np.bool_]:
        """Which addresses had a number at some time up to ``time``, as far as remembered."""
        rows = self._rows.find(addresses)
        had: NDArray[np.bool_] = (self._values[rows] != 0) & (self._since[rows] <= time)
        for index in (~had & (rows != 0)).nonzero()[0].tolist():
            timeline = self._timelines.get(int(rows[index]))
            if timeline is not None:
                had[index] = timeline.had_one(int(time[index]))
        return had

    def numbers_in_use(self, end: int) -> NDArray[np.bool_]:
        """A flag for each number below ``end``: whether some address has or had it."""
        in_use = np.zeros(end, dtype=np.bool_)
        in_use[self._values[self._rows.live_rows()]] = True
        for timeline in self._timelines.values():
            in_use[[number or 0 for number in timeline.values()]] = True
        return in_use

    def forget(self, before: int) -> int:
        """Drop what no event after ``before`` needs; 0 when there is no more to drop now."""
        looked = 0
        while self._changes and self._changes[0][0] < before and looked < _FORGOTTEN_AT_ONCE:
            _, row = self._changes.popleft()
            looked += 1
            timeline = self._timelines.get(row)
            if timeline is None:
                continue
            timeline.forget(before)
            if len(timeline) == 1:
                del self._timelines[row]
                if not self._values[row]:
                    self._rows.free(np.array([row], dtype=np.uint32))
        return looked


_TIMELINE_BYTES = 56 + 2 * 88 + 2 * 32 + 100  # the object, two lists, their numbers, its place


def buckets_of(addresses: Addresses) -> NDArray[np.uint16]:
    """One of ``BUCKETS`` classes for each address, for caches that a change may void."""
    words = addresses.view(np.uint64).reshape(len(addresses), 2)
    return (hash_of(words) >> _BUCKET_SHIFT).astype(np.uint16)
