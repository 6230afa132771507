"""Counters of kernel maps as what is new since they were last read.

Strategy: nothing that may still be counted in is deleted. Maps are copied whole by one
system call, and what was read the last time is kept, sorted by an id that each entry
keeps for its life; differences are a binary search and a subtraction.
"""

from __future__ import annotations

import mmap
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from native_probes import syscalls
from parsers.windows import Columns


class Memory:
    """What was read last, in a mapped array map: with a pin it outlives the process.

    The map's values are rows of 64-bit words, an id and its counters: a first row whose first
    word says how many there are (times 2) and in which copy (0 or 1), then two copies of
    ``entries`` rows. The one that does not hold is written, and then the word, so a process
    that is killed meanwhile leaves the other.
    """

    __slots__ = ("_copies", "_head")

    def __init__(self, map_fd: int, entries: int, count: int) -> None:
        rows = memory_rows(entries)
        mapped = mmap.mmap(map_fd, 8 * (1 + count) * rows, mmap.MAP_SHARED)
        words = np.frombuffer(mapped, "<u8", (1 + count) * rows).reshape(rows, -1)
        self._head = words[0]
        self._copies = words[1 : 1 + entries], words[1 + entries :]

    def load(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Ids in order, and their counters."""
        count, which = divmod(int(self._head[0]), 2)
        rows = self._copies[which][:count]
        return rows[:, 0].copy(), rows[:, 1:].copy()

    def save(self, ids: NDArray[np.uint64], counters: NDArray[np.uint64]) -> None:
        """As many as there is room for."""
        which = 1 - int(self._head[0]) % 2
        rows = self._copies[which]
        count = min(len(ids), len(rows))
        rows[:count, 0] = ids[:count]
        rows[:count, 1:] = counters[:count]
        self._head[0] = 2 * count + which


def memory_rows(entries: int) -> int:
    """Rows of the map of a ``Memory``."""
    return 1 + 2 * entries


class Differences:
    """``count`` counters an id, as they were last time.

    With ``memory``, the last time may have been in an earlier process.
    """

    __slots__ = ("_ids", "_memory", "_seen")

    def __init__(self, count: int, memory: Memory | None = None) -> None:
        self._memory = memory
        self._ids = np.empty(0, np.uint64)
        self._seen = np.empty((0, count), np.uint64)
        if memory:
            self._ids, self._seen = memory.load()

    def __len__(self) -> int:
        """Ids that are remembered."""
        return len(self._ids)

    def save(self) -> None:
        """Let a later process know what has been told."""
        if self._memory:
            self._memory.save(self._ids, self._seen)

    def update(self, ids: NDArray[np.uint64], counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """What is new of ``counters`` (a row for each of the distinct ``ids``)."""
        new = counters.copy()
        if len(self._ids):
            at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            known = self._ids[at] == ids
            new[known] -= self._seen[at[known]]
        order = np.argsort(ids)
        self._ids, self._seen = ids[order], counters[order]
        return new

    def forget(self, ids: NDArray[np.uint64]) -> None:
        """Entries that are no longer in the map, as we deleted them."""
        kept = ~np.isin(self._ids, ids)
        self._ids, self._seen = self._ids[kept], self._seen[kept]


class HashMap:
    """A hash map of the kernel, read as a whole into arrays that are used again."""

    __slots__ = ("_fd", "_keys", "_values")

    def __init__(
        self, map_fd: int, capacity: int, key: np.dtype[np.void], value: np.dtype[np.void]
    ) -> None:
        self._fd = map_fd
        self._keys = np.zeros(capacity, key)
        self._values = np.zeros(capacity, value)

    def read(self) -> tuple[Columns, Columns]:
        """Keys and values, valid until the next read."""
        count = syscalls.look_up_all(self._fd, self._keys, self._values)
        return self._keys[:count], self._values[:count]

    def delete(self, keys: Columns) -> int:
        """Remove entries; how many were there."""
        return syscalls.delete_batch(self._fd, keys)

    def insert(self, key: Columns, value: Columns) -> None:
        """Write one entry, arrays of length 1, unless it is there."""
        syscalls.put(self._fd, key, value, keep=True)


def per_cpu(value: np.dtype[np.void]) -> np.dtype[np.void]:
    """The layout of a per-CPU map's value: one for each CPU that the kernel may have."""
    return np.dtype((value, (possible_cpus(),)))


@cache
def possible_cpus() -> int:
    """CPUs that the kernel may ever have; per-CPU maps have a value for each."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1


def per_cpu_sum(map_fd: int) -> int:
    """The first entry of a per-CPU array of 64-bit counters."""
    value = np.zeros(possible_cpus(), np.uint64)
    syscalls.look_up(map_fd, np.zeros(1, "<u4"), value)
    return int(value.sum())
