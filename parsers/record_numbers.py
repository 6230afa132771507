"""Numbers and times of records: one row of them over all sources of an agent.

A flow's uuid is made of its record's number, and readers of the history take numbers and
times to rise, whichever source a record came from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import I64, U64

Clock: TypeAlias = Callable[[NDArray[np.uint64]], NDArray[np.int64]]
"""Sequence numbers to times in ns; a live source stamps what it read."""


class RecordNumbers:
    """Gives each record its number, and times that rise."""

    __slots__ = ("last_time", "next")

    def __init__(self) -> None:
        self.next = 0
        """The number of the next record."""
        self.last_time = 0
        """The newest time given, in ns."""

    def take(self, count: int) -> U64:
        """Numbers for ``count`` records."""
        first, self.next = self.next, self.next + count
        return np.arange(first, self.next, dtype=np.uint64)

    def live_clock(self, now: int) -> Clock:
        """Times of records read at ``now`` (ns): that and rising, never one twice."""

        def times(sequence: NDArray[np.uint64]) -> NDArray[np.int64]:
            first = max(now, self.last_time + 1)
            self.last_time = first + max(0, len(sequence) - 1)
            return np.arange(first, first + len(sequence), dtype=np.int64)

        return times

    def rising(self, time: I64) -> I64:
        """Times of records in order (ns), those raised that lie at or before an earlier one."""
        if not len(time):
            return time
        steps = np.arange(len(time), dtype=np.int64)
        least = np.maximum(time - steps, self.last_time + 1)
        found: I64 = np.maximum.accumulate(least) + steps
        self.last_time = int(found[-1])
        return found
