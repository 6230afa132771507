"""A ring of flows as columns, 28 bytes a flow, in memory that is touched as it fills.

Packets and bytes take 12 more, from the first batch on that has them.

Flows are numbered by position: the n-th flow ever appended has position n, wherever it
lies. A position below ``oldest`` was overwritten. Readers keep a position and nothing
else, so that any number of them costs the ring nothing.

Of sequence numbers the low 32 bits are kept: they rise, and no ring spans 2**32 records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.errors import UsageError
from parsers.flow_batch import FlowBatch, FlowTables

_COLUMNS = {
    "time": np.int64,
    "sequence": np.uint32,
    "flow_class": np.uint32,
    "conversation": np.uint32,
    "source_port": np.uint16,
    "destination_port": np.uint16,
    "detail": np.uint32,
}
_COUNTS = {"packets": np.uint32, "bytes": np.uint64}
FLOW_BYTES = sum(np.dtype(t).itemsize for t in _COLUMNS.values())
COUNT_BYTES = sum(np.dtype(t).itemsize for t in _COUNTS.values())

_LOW = np.uint64(0xFFFFFFFF)


class FlowRing:
    """The newest ``capacity`` flows of those appended."""

    __slots__ = ("_columns", "_floor", "_last_sequence", "capacity", "end", "tables")

    def __init__(self, tables: FlowTables, capacity: int) -> None:
        if capacity < 1:
            raise UsageError(f"a ring of {capacity} flows holds nothing; use at least 1")
        self.tables = tables
        self.capacity = capacity
        self.end = 0
        """The position the next flow will get."""
        self._columns = {name: np.zeros(capacity, dtype=t) for name, t in _COLUMNS.items()}
        self._last_sequence = np.uint64(0)
        self._floor = 0

    def __len__(self) -> int:
        return min(self.end - self._floor, self.capacity)

    @property
    def oldest(self) -> int:
        """The position of the oldest flow that is still there."""
        return self.end - len(self)

    def append(self, batch: FlowBatch) -> None:
        """Add flows, overwriting the oldest."""
        if not len(batch):
            return
        self._last_sequence = batch.sequence[-1]
        skipped = max(0, len(batch) - self.capacity)
        start = (self.end + skipped) % self.capacity
        first = min(len(batch) - skipped, self.capacity - start)
        if batch.packets is not None and "packets" not in self._columns:
            # All at once, but only what is written takes memory.
            self._columns |= {n: np.zeros(self.capacity, dtype=t) for n, t in _COUNTS.items()}
        for name, column in self._columns.items():
            values = getattr(batch, name)
            values = np.zeros(len(batch), dtype=np.uint8) if values is None else values
            values = values[skipped:]
            # Assigning a wider unsigned column keeps its low bits.
            column[start : start + first] = values[:first]
            column[: len(values) - first] = values[first:]
        self.end += len(batch)

    def forget(self, count: int) -> None:
        """Treat the ``count`` oldest flows as if they were overwritten."""
        self._floor = self.oldest + min(count, len(self))

    def pieces(self, start: int, stop: int, size: int) -> Iterator[tuple[int, FlowBatch]]:
        """The flows of positions [start, stop), oldest first, ``size`` at most at a time.

        Each piece comes with its first position. They are views: valid until the next
        ``append``. What was overwritten is not there.
        """
        position = max(start, self.oldest)
        stop = min(stop, self.end)
        while position < stop:
            at = position % self.capacity
            count = min(size, stop - position, self.capacity - at)
            yield position, self._batch(slice(at, at + count))
            position += count

    def pieces_backwards(self, start: int, stop: int, size: int) -> Iterator[tuple[int, FlowBatch]]:
        """As ``pieces``, newest piece first; within a piece the oldest flow is first."""
        start = max(start, self.oldest)
        position = min(stop, self.end)
        while position > start:
            end = (position - 1) % self.capacity + 1
            count = min(size, position - start, end)
            position -= count
            yield position, self._batch(slice(end - count, end))

    def since(self, time: int) -> int:
        """The position of the first flow at or after ``time`` (ns), as far as times rise."""
        low, high = self.oldest, self.end
        times = self._columns["time"]
        while low < high:
            middle = (low + high) // 2
            if times[middle % self.capacity] < time:
                low = middle + 1
            else:
                high = middle
        return low

    def columns(self, start: int, stop: int, *names: str) -> Iterator[tuple[NDArray[Any], ...]]:
        """Columns of positions [start, stop) as they are kept: conversations and details may be
        written to.
        """
        start, stop = max(start, self.oldest), min(stop, self.end)
        while start < stop:
            place = start % self.capacity
            end = min(place + stop - start, self.capacity)
            yield tuple(self._columns[name][place:end] for name in names)
            start += end - place

    def at(self, positions: NDArray[np.int64]) -> FlowBatch:
        """The flows of these positions, all of which are still there."""
        return self._batch(positions % self.capacity)

    def nbytes(self) -> int:
        """Bytes of the columns that were ever filled: memory that was touched stays."""
        counted = COUNT_BYTES if "packets" in self._columns else 0
        return min(self.end, self.capacity) * (FLOW_BYTES + counted)

    def _batch(self, places: slice | NDArray[np.int64]) -> FlowBatch:
        columns: dict[str, NDArray[Any]] = {
            name: column[places] for name, column in self._columns.items()
        }
        below = (self._last_sequence - columns["sequence"]) & _LOW
        columns["sequence"] = self._last_sequence - below
        return FlowBatch(self.tables, **columns)
