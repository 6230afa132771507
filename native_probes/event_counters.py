"""Counters that programs keep for each CPU, and the one that the kernel keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from native_probes import syscalls
from native_probes.counters import possible_cpus


class EventCounters:
    """A per-CPU array of 64-bit counters; ``names`` are those of its entries in order."""

    __slots__ = ("_before", "_fd", "_names")

    def __init__(self, map_fd: int, names: Sequence[str]) -> None:
        self._fd = map_fd
        self._names = tuple(names)
        self._before = np.zeros(len(self._names), np.uint64)

    def new(self) -> dict[str, int]:
        """What was counted since the last call."""
        now = np.zeros(len(self._names), np.uint64)
        value = np.zeros(possible_cpus(), np.uint64)
        for index in range(len(now)):
            syscalls.look_up(self._fd, np.array([index], "<u4"), value)
            now[index] = value.sum()
        new, self._before = now - self._before, now
        return dict(zip(self._names, map(int, new), strict=True))


class RecursionMisses:
    """Events that a tracing program was not run for, as it was at work on that processor already.

    Those that it would have left out are among them, so at most so many were lost. ``programs``
    are fds of loaded programs.
    """

    __slots__ = ("_before", "_programs")

    def __init__(self, programs: Iterable[int]) -> None:
        self._programs = tuple(programs)
        self._before = 0

    def new(self) -> int:
        """What the kernel counted since the last call."""
        now = sum(map(syscalls.recursion_misses, self._programs))
        new, self._before = now - self._before, now
        return new


def what_happened(**counts: int) -> dict[str, int]:
    """Those counts that are not 0, by name."""
    return {name: count for name, count in counts.items() if count}
