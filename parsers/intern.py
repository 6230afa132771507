"""Interning of fixed-size keys, a batch at a time: equal keys get equal row numbers.

Strategy: an open-addressing hash table of row numbers beside an array of rows. A
batch is looked up with a handful of numpy passes; nearly every key matches at its
first probe, the rest are retried as a shrinking subset. New keys claim free slots in rounds,
so that a storm of new keys (a port scan) costs about a microsecond each.

Rows are immutable. Row 0 is the all-zero key and is always there. ``reclaim`` frees
the rows that nobody refers to any more; their numbers are used again.

Deliberately not done: removal of single keys, and keys that are not whole 64-bit words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parsers.errors import UsageError

_MULTIPLIERS = np.array(
    # Odd constants; each word is multiplied and the products are folded together, so
    # that words with a constant high half (mapped addresses, small ports) still spread.
    [
        0x9E3779B97F4A7C15,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0xD6E8FEB86659FD93,
        0xFF51AFD7ED558CCD,
        0xC4CEB9FE1A85EC53,
        0x9FB21C651E98DF25,
        0x8CB92BA72F3D8DD7,
    ],
    dtype=np.uint64,
)
_FOLD = np.uint64(29)

Rows: TypeAlias = NDArray[np.uint32]
Keys: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class InternStatistics:
    """``rows`` in use now, the most there ever were, and how often ``reclaim`` ran."""

    rows: int
    peak: int
    reclaims: int


class InternTable:
    """Rows of ``dtype`` (whole 64-bit words), each distinct one once.

    ``rows[r]`` is the key of row ``r``; the array is replaced when it grows, so take it
    anew for each batch. ``limit`` bounds the rows: a lookup that would exceed it raises
    ``UsageError``; owners call ``reclaim`` well before (``statistics().rows``).
    """

    __slots__ = (
        "_bits", "_free", "_next", "_peak", "_reclaims", "_slots", "_word_count", "_words",
        "dtype", "limit", "rows",
    )  # fmt: skip

    def __init__(self, dtype: DTypeLike, limit: int = 1 << 24) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.itemsize % 8 or not 8 <= self.dtype.itemsize <= 8 * len(_MULTIPLIERS):
            raise UsageError(f"a key has {self.dtype.itemsize} bytes; use 1 to 8 whole words")
        self.limit = limit
        self._word_count = self.dtype.itemsize // 8
        self._bits = 10
        self._slots = np.zeros(1 << self._bits, dtype=np.uint32)
        self.rows: Keys = np.zeros(512, dtype=self.dtype)
        self._words = self._as_words(self.rows)
        self._next = 1  # row 0 is the zero key
        self._free: Rows = np.empty(0, dtype=np.uint32)
        self._peak = 1
        self._reclaims = 0

    def __len__(self) -> int:
        """Rows in use, the zero row included."""
        return self._next - len(self._free)

    @property
    def capacity(self) -> int:
        """Length of ``rows``; row numbers are below it."""
        return len(self.rows)

    def statistics(self) -> InternStatistics:
        """Current and peak fill."""
        return InternStatistics(len(self), self._peak, self._reclaims)

    def nbytes(self) -> int:
        """Bytes of rows and hash slots."""
        return int(self.rows.nbytes + self._slots.nbytes)

    def lookup(self, keys: Keys) -> tuple[Rows, Rows]:
        """Row numbers of ``keys``, and those of them that are new.

        ``keys`` is a contiguous one-dimensional array of ``dtype``. Returns
        (uint32 of the same length, uint32 of the newly made rows in no order).
        """
        words = self._as_words(keys)
        slots = self._home(words)
        rows = self._slots[slots]
        matched = self._words[:, 0][rows] == words[:, 0]
        for w in range(1, self._word_count):
            matched &= self._words[:, w][rows] == words[:, w]
        if matched.all():
            return rows, rows[:0]
        return self._probe_on(words, slots, rows, np.flatnonzero(~matched))

    def reclaim(self, in_use: NDArray[np.bool_]) -> int:
        """Free every row whose flag is false; returns how many. Row 0 stays.

        ``in_use`` has a flag for each row below ``capacity``.
        """
        live = np.zeros(self.capacity, dtype=np.bool_)
        live[: self._next] = in_use[: self._next]
        live[self._free] = False
        live[0] = True
        before = len(self)
        self._free = np.flatnonzero(~live[: self._next]).astype(np.uint32)
        self.rows[self._free] = np.zeros(1, dtype=self.dtype)
        self._rehash(np.flatnonzero(live).astype(np.uint32)[1:])
        self._reclaims += 1
        return before - len(self)

    def live_rows(self) -> Rows:
        """Row numbers in use, the zero row included."""
        live = np.ones(self._next, dtype=np.bool_)
        live[self._free] = False
        return np.flatnonzero(live).astype(np.uint32)

    def _as_words(self, keys: Keys) -> NDArray[np.uint64]:
        return keys.view(np.uint64).reshape(len(keys), self._word_count)

    def _home(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        hashed = words @ _MULTIPLIERS[: self._word_count]
        hashed ^= hashed >> _FOLD
        hashed *= _MULTIPLIERS[0]
        return (hashed >> np.uint64(64 - self._bits)).astype(np.int64)

    def _matches(self, rows: Rows, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        equal: NDArray[np.bool_] = (self._words[rows] == words).all(axis=1)
        return equal

    def _probe_on(
        self,
        words: NDArray[np.uint64],
        slots: NDArray[np.int64],
        rows: Rows,
        pending: NDArray[np.int64],
    ) -> tuple[Rows, Rows]:
        mask = len(self._slots) - 1
        missing: list[NDArray[np.int64]] = []
        while len(pending):
            empty = rows[pending] == 0
            # The zero key ends at the first empty slot, where candidate row 0 equals it.
            if empty.any():
                missing.append(pending[empty])
                pending = pending[~empty]
            slots[pending] = (slots[pending] + 1) & mask
            rows[pending] = self._slots[slots[pending]]
            pending = pending[~self._matches(rows[pending], words[pending])]
        if not missing:
            return rows, rows[:0]
        absent = np.concatenate(missing)
        absent = absent[words[absent].any(axis=1)]
        if not len(absent):
            return rows, rows[:0]
        fresh_words = words[absent]
        distinct: dict[bytes, int] = {}
        size = self.dtype.itemsize
        raw = fresh_words.tobytes()
        # A dict of bytes is several times faster here than sorting the keys.
        inverse = [
            distinct.setdefault(raw[at : at + size], len(distinct))
            for at in range(0, len(raw), size)
        ]
        made = self._insert(
            np.frombuffer(b"".join(distinct), np.uint64).reshape(-1, words.shape[1])
        )
        rows[absent] = made[inverse]
        return rows, made

    def _insert(self, words: NDArray[np.uint64]) -> Rows:
        """Add distinct, absent keys; returns their new row numbers in order."""
        count = len(words)
        reused = self._free[:count]
        self._free = self._free[count:]
        grown = count - len(reused)
        if self._next + grown > self.limit:
            self._free = np.concatenate([reused, self._free])
            raise UsageError(f"more than {self.limit} distinct rows of {self.dtype.itemsize} bytes")
        numbers = np.concatenate(
            [reused, np.arange(self._next, self._next + grown, dtype=np.uint32)]
        ).astype(np.uint32)
        self._next += grown
        if self._next > self.capacity:
            bigger = np.zeros(max(2 * self.capacity, self._next), dtype=self.dtype)
            bigger[: self.capacity] = self.rows
            self.rows = bigger
            self._words = self._as_words(bigger)
        self._words[numbers] = words
        self._peak = max(self._peak, len(self))
        if _crowded(len(self), len(self._slots)):
            self._rehash(self.live_rows()[1:])
        else:
            self._claim(numbers, words)
        return numbers

    def _rehash(self, live: Rows) -> None:
        while _crowded(len(live) + 1, 1 << self._bits):
            self._bits += 1
        self._slots = np.zeros(1 << self._bits, dtype=np.uint32)
        self._claim(live, self._words[live])

    def _claim(self, numbers: Rows, words: NDArray[np.uint64]) -> None:
        """Write row numbers into free slots, in rounds: the loser of a slot goes on."""
        mask = len(self._slots) - 1
        slots = self._home(words)
        while len(numbers):
            free = self._slots[slots] == 0
            self._slots[slots[free]] = numbers[free]
            lost = self._slots[slots] != numbers
            slots = (slots[lost] + 1) & mask
            numbers = numbers[lost]


def _crowded(rows: int, slots: int) -> bool:
    # A second probe costs more than the first, so small tables are kept three quarters
    # empty; big ones half, where the memory of the slots begins to show.
    return (4 if rows < 1 << 16 else 2) * rows > slots
