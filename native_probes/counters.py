"""Counters of kernel maps as what is new since they were last read.

Strategy: nothing that may still be counted in is deleted. Maps are copied whole by one
system call, and what was read the last time is kept, sorted by an id that each entry
keeps for its life; differences are a binary search and a subtraction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from native_probes import syscalls
from parsers.windows import Columns


class Differences:
    """``count`` counters an id, as they were last time."""

    __slots__ = ("_ids", "_seen")

    def __init__(self, count: int) -> None:
        self._ids = np.empty(0, np.uint64)
        self._seen = np.empty((0, count), np.uint64)

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

    def put(self, key: Columns, value: Columns) -> None:
        """Write one entry: arrays of length 1."""
        syscalls.put(self._fd, key, value)


def per_cpu(value: np.dtype[np.void]) -> np.dtype[np.void]:
    """The layout of a per-CPU map's value: one for each CPU that the kernel may have."""
    return np.dtype((value, (possible_cpus(),)))


def possible_cpus() -> int:
    """CPUs that the kernel may ever have; per-CPU maps have a value for each."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1
