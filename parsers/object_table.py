"""Rows of Python objects: what is too odd for columns, once each.

Rows are immutable and row 0 is the empty one. ``reclaim`` frees rows, whose numbers are
used again. Equal objects share a row as long as the first of them is remembered; that
is bounded, because a large dictionary takes long to grow or to clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

REMEMBERED = 1 << 14
"""Objects whose rows equal ones find."""

OBJECT_BYTES = 400
"""A small record with a few texts of its own, and its place in the table."""


class ObjectTable(Generic[T]):
    """Rows of ``T``. ``generation`` rises when rows begin to be freed."""

    __slots__ = ("_free", "_remembered", "_row_of", "_rows", "generation", "nbytes")

    def __init__(self, empty: T) -> None:
        self._rows: list[T | None] = [empty]
        self._row_of: dict[T, int] = {}
        self._remembered: set[int] = set()  # the rows in _row_of
        self._free: list[int] = []
        self.generation = 0
        self.nbytes = 0
        """About how much memory the rows in use take, each counted with what it alone holds."""

    def __len__(self) -> int:
        """Rows in use, the empty one included."""
        return len(self._rows) - len(self._free)

    def __getitem__(self, row: int) -> T:
        found = self._rows[row]
        if found is None:
            raise IndexError(row)
        return found

    @property
    def end(self) -> int:
        """Row numbers given so far are below it."""
        return len(self._rows)

    def intern(self, value: T) -> int:
        """The row of an equal object, made when there is none; never 0."""
        row = self._row_of.get(value)
        if row is None:
            if len(self._row_of) >= REMEMBERED:
                self._row_of.clear()
                self._remembered.clear()
            row = self._row_of[value] = self.add(value)
            self._remembered.add(row)
        return row

    def add(self, value: T) -> int:
        """A row of its own; for what nobody will repeat."""
        self.nbytes += self._size_of(value)
        if self._free:
            row = self._free.pop()
            self._rows[row] = value
        else:
            row = len(self._rows)
            self._rows.append(value)
        return row

    def add_many(self, value: T, count: int) -> NDArray[np.uint32]:
        """That many rows, all of which hold the same object."""
        self.nbytes += count * self._size_of(value)
        again = self._again(count)
        for row in again:
            self._rows[row] = value
        end, more = len(self._rows), count - len(again)
        self._rows += [value] * more
        return np.array([*again, *range(end, end + more)], dtype=np.uint32)

    def add_each(self, values: Sequence[T]) -> NDArray[np.uint32]:
        """A row of its own for each."""
        self.nbytes += sum(map(self._size_of, values))
        again = self._again(len(values))
        for row, value in zip(again, values, strict=False):
            self._rows[row] = value
        end = len(self._rows)
        self._rows += values[len(again) :]
        return np.array([*again, *range(end, len(self._rows))], dtype=np.uint32)

    def _again(self, most: int) -> list[int]:
        """Take that many freed rows, or as many as there are."""
        begin = max(0, len(self._free) - most)
        again, self._free[begin:] = self._free[begin:], []
        return again

    def reclaim(self, in_use: NDArray[np.bool_], start: int = 0, stop: int | None = None) -> int:
        """Free the rows of [start, stop) whose flag is false; as ``InternTable.reclaim``."""
        if not start:
            self.generation += 1
        rows, freed = self._rows, []
        start, stop = max(1, start), len(rows) if stop is None else min(stop, len(rows))
        for row in (start + np.flatnonzero(~in_use[start:stop])).tolist():
            value = rows[row]
            if value is not None:
                if row in self._remembered:
                    self._remembered.remove(row)
                    del self._row_of[value]
                self.nbytes -= self._size_of(value)
                rows[row] = None
                freed.append(row)
        self._free += freed
        return len(freed)

    def _size_of(self, value: T) -> int:
        """Bytes of an object; the same whenever it is asked."""
        return OBJECT_BYTES
