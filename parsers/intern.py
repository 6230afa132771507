"""Interning of fixed-size keys, a batch at a time: equal keys get equal row numbers.

Strategy: an open-addressing hash table of row numbers beside an array of rows. A
batch is looked up with a handful of numpy passes; nearly every key matches at its
first probe, the rest look at eight further slots a step. New keys claim free slots in rounds,
so that a storm of new keys (a port scan) costs about a microsecond each. Where there is
compiled code, one loop does what those passes do, in the same table.

Rows are immutable. Row 0 is the all-zero key and is always there. ``reclaim`` frees
the rows that nobody refers to any more; their numbers are used again.

No call takes long because the table is large. A freed row is zeroed and its slot left
alone: a slot is a hint, and what counts is the key of the row it names. When slots run
out, a second hash is filled a piece at a time while the first still serves. Rows are
not copied, as from 16,384 on there is address space for two million of them, which costs
no memory before it is touched.

Deliberately not done: removal of single keys, and keys that are not whole 64-bit words.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parsers import compiled
from parsers.errors import UsageError

_MOST_WORDS = 8
# Odd factors of a hash that no sender knows. One who did could have conversations by the
# thousands in one slot: 30,000 of them held each batch up for 0.2 s, and numpy's passes for 13.
_SECRET = np.frombuffer(os.urandom(8 * _MOST_WORDS + 8), dtype=np.uint64) | np.uint64(1)
_FOLD, _HALF = np.uint64(29), np.uint64(32)
_AHEAD = np.arange(1, 9)  # slots looked at in one step of a search

_FEWEST_BITS = 10
_MOST_COPIED, _RESERVED = 1 << 14, 1 << 21  # rows; copying the first takes 0.3 ms
_MOVED_AT_ONCE = 1 << 13  # rows brought into a new hash by one call: 1-2 ms

Rows: TypeAlias = NDArray[np.uint32]
Keys: TypeAlias = NDArray[Any]


class _Slots:
    """Row numbers by the hash of their keys; 0 is an empty slot."""

    __slots__ = ("_cleared", "_shift", "bits", "numbers", "taken")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._shift = np.uint64(64 - bits)
        self.numbers = np.empty(1 << bits, dtype=np.uint32)  # not yet usable
        self._cleared = 0
        self.taken = 0  # slots that are not empty, those of freed rows included

    def clear(self, count: int) -> bool:
        """Empty the next ``count`` slots; True when there are no more, and it can be used.

        The first touch of memory costs 1 ms per 2 MB, which keys would otherwise do all over
        it in their first batch.
        """
        self.numbers[self._cleared : self._cleared + count] = 0
        self._cleared += count
        return self._cleared >= len(self.numbers)

    def home(self, hashed: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The slot at which the search for each key begins, by the key's hash."""
        return (hashed >> self._shift).astype(np.int64)

    def claim(self, numbers: Rows, hashed: NDArray[np.uint64]) -> None:
        """Write row numbers into free slots, in rounds: the loser of a slot goes on."""
        self.taken += len(numbers)
        if compiled.kernels is not None:
            compiled.kernels.intern_claim(self.numbers, self.bits, numbers, hashed, len(numbers))
            return
        mask = len(self.numbers) - 1
        slots = self.home(hashed)
        while len(numbers):
            free = self.numbers[slots] == 0
            self.numbers[slots[free]] = numbers[free]
            lost = self.numbers[slots] != numbers
            slots = (slots[lost] + 1) & mask
            numbers = numbers[lost]

    def is_crowded(self, more: int) -> bool:
        """Whether ``more`` numbers would make searches long enough to want a bigger table."""
        return _crowded(self.taken + more, len(self.numbers))

    def has_room(self, more: int) -> bool:
        """Whether ``more`` numbers may be claimed without searches becoming really long."""
        return 4 * (self.taken + more) <= 3 * len(self.numbers)


class InternTable:
    """Rows of ``dtype`` (whole 64-bit words), each distinct one once.

    ``rows[r]`` is the key of row ``r``; the array is replaced when it grows, so take it
    anew for each batch. ``limit`` bounds the rows: a lookup that would exceed it raises
    ``UsageError``; owners call ``reclaim`` well before (``len``).

    ``generation`` rises when rows begin to be freed: caches by row are void then.
    ``before_free`` are called with the numbers (uint32) of rows that are freed next.
    """

    __slots__ = (
        "_free", "_hashes", "_live", "_moved", "_next", "_slots",
        "_successor", "_voids", "_word_count", "_words", "before_free", "dtype", "generation",
        "limit", "rows",
    )  # fmt: skip

    def __init__(self, dtype: DTypeLike, limit: int = 1 << 24) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype.itemsize % 8 or not 8 <= self.dtype.itemsize <= 8 * _MOST_WORDS:
            raise UsageError(f"a key has {self.dtype.itemsize} bytes; use 1 to 8 whole words")
        self.limit = limit
        self.generation = 0
        self.before_free: list[Callable[[Rows], None]] = []
        self._word_count = self.dtype.itemsize // 8
        self._slots = _Slots(_FEWEST_BITS)
        self._slots.clear(1 << _FEWEST_BITS)
        self._successor: _Slots | None = None  # takes over when it has all rows
        self._moved = 0  # rows below it are in the successor
        self.rows: Keys = np.zeros(512, dtype=self.dtype)
        self._words = self._as_words(self.rows)
        self._voids = self.rows.view(f"V{self.dtype.itemsize}")
        self._hashes = np.zeros(512, dtype=np.uint64)
        self._live = np.zeros(512, dtype=np.bool_)
        self._live[0] = True  # the zero key
        self._next = 1
        self._free: Rows = np.empty(0, dtype=np.uint32)

    def __len__(self) -> int:
        """Rows in use, the zero row included."""
        return self._next - len(self._free)

    @property
    def capacity(self) -> int:
        """Length of ``rows``."""
        return len(self.rows)

    @property
    def end(self) -> int:
        """Row numbers given so far are below it."""
        return self._next

    def nbytes(self) -> int:
        """Bytes of the rows in use, with a hash and slots for each."""
        return len(self) * (self.dtype.itemsize + 9 + 12)

    def lookup(self, keys: Keys) -> tuple[Rows, Rows]:
        """Row numbers of ``keys``, and those of them that are new.

        ``keys`` is a contiguous one-dimensional array of ``dtype``. Returns
        (uint32 of the same length, uint32 of the newly made rows in no order).
        """
        words, rows, absent = self._find(keys)
        if not len(absent):
            return rows, rows[:0]
        return self._add_absent(words, rows, absent)

    def find(self, keys: Keys) -> Rows:
        """Row numbers (uint32) of ``keys``; 0 for the zero key and for those not there."""
        return self._find(keys)[1]

    def reclaim(self, in_use: NDArray[np.bool_], start: int = 0, stop: int | None = None) -> int:
        """Free the rows of [start, stop) whose flag is false; returns how many. Row 0 stays.

        ``in_use`` has a flag for each row below ``end``. A sweep in pieces begins with row 0,
        when every row in use is flagged, and flags what comes into use until it is over.
        """
        if not start:
            self.generation += 1
        stop = self._next if stop is None else min(stop, self._next)
        start = max(1, start)
        dead = start + (self._live[start:stop] & ~in_use[start:stop]).nonzero()[0]
        self.free(dead.astype(np.uint32))
        return len(dead)

    def free(self, numbers: Rows) -> None:
        """Free rows, of which no one may know any more when their numbers are used again."""
        if not len(numbers):
            return
        for tell in self.before_free:
            tell(numbers)
        self._words[numbers] = 0
        self._hashes[numbers] = 0
        self._live[numbers] = False
        self._free = np.concatenate([self._free, numbers])

    def is_live(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which rows of [start, stop) are in use; a view."""
        return self._live[start : min(stop, self._next)]

    def live_rows(self) -> Rows:
        """Row numbers in use, the zero row included."""
        return (self._live[: self._next]).nonzero()[0].astype(np.uint32)

    def _as_words(self, keys: Keys) -> NDArray[np.uint64]:
        return keys.view(np.uint64).reshape(len(keys), self._word_count)

    def _matches(self, rows: Rows, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        equal: NDArray[np.bool_] = (self._words[rows] == words).all(axis=1)
        return equal

    def _find(self, keys: Keys) -> tuple[NDArray[np.uint64], Rows, NDArray[np.int64]]:
        """Words of keys, their rows (0 for the zero key), and which keys are absent (row 0)."""
        words = self._as_words(keys)
        if compiled.kernels is None:
            rows, absent = self._probe(words)
            return words, rows, absent
        count, slots = len(words), self._slots
        rows, absent = np.empty(count, dtype=np.uint32), np.empty(count, dtype=np.int64)
        missing = compiled.kernels.intern_find(
            words, count, self._word_count, _SECRET, self._words, self._hashes,
            slots.numbers, slots.bits, rows, absent,
        )  # fmt: skip
        return words, rows, absent[:missing]

    def _probe(self, words: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.int64]]:
        """As ``_find``, in passes of numpy."""
        hashed, slots, rows, pending = self._first_probe(words)
        if len(pending):
            pending = self._search(words, hashed, slots, rows, pending)
        return rows, pending

    def _first_probe(
        self, words: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], Rows, NDArray[np.int64]]:
        """Hashes and home slots of keys, the rows there, and which of them are wrong."""
        hashed = hash_of(words)
        slots = self._slots.home(hashed)
        rows = self._slots.numbers[slots]
        # Freed rows are zero as well, so the zero key, whose hash is 0, is not searched for.
        zero = (slots == 0).nonzero()[0]
        rows[zero[~words[zero].any(axis=1)]] = 0
        # Hashes tell nearly always; that the keys are equal as well is asked of all at once.
        pending = (self._hashes[rows] != hashed).nonzero()[0]
        equal = self._voids[rows].view(np.uint64).reshape(words.shape) == words
        equal[pending] = True
        if not equal.all():
            pending = (~self._matches(rows, words)).nonzero()[0]
        return hashed, slots, rows, pending

    def _search(
        self,
        words: NDArray[np.uint64],
        hashed: NDArray[np.uint64],
        slots: NDArray[np.int64],
        rows: Rows,
        pending: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Probe on for the keys of ``pending``, writing into ``rows``; returns the absent."""
        numbers = self._slots.numbers
        mask = len(numbers) - 1
        missing: list[NDArray[np.int64]] = []
        while True:
            empty = rows[pending] == 0
            missing.append(pending[empty])
            pending = pending[~empty]
            if not len(pending):
                break
            # The next slots of each, at once: the first that is empty or has the key's hash.
            ahead = (slots[pending][:, np.newaxis] + _AHEAD) & mask
            found = numbers[ahead]
            stop = (self._hashes[found] == hashed[pending][:, np.newaxis]) | (found == 0)
            stop[:, -1] = True
            first = stop.argmax(axis=1)
            each = np.arange(len(pending))
            slots[pending] = ahead[each, first]
            chosen = rows[pending] = found[each, first]
            pending = pending[(chosen == 0) | ~self._matches(chosen, words[pending])]
        return np.concatenate(missing)

    def _add_absent(
        self, words: NDArray[np.uint64], rows: Rows, absent: NDArray[np.int64]
    ) -> tuple[Rows, Rows]:
        """Make the rows of the ``absent`` keys, each distinct one once."""
        if compiled.kernels is not None and self._has_room(len(absent)):
            return rows, self._add_at_once(compiled.kernels, words, rows, absent)
        fresh, inverse = _distinct(words, absent)
        made = self._insert(fresh)
        rows[absent] = made[inverse]
        return rows, made

    def _has_room(self, count: int) -> bool:
        """Whether ``count`` keys need no more memory, and nothing is being moved."""
        return (
            self._successor is None
            and self._next + count <= min(self.capacity, self.limit)
            and not self._slots.is_crowded(count)
        )

    def _add_at_once(
        self,
        kernels: compiled.Kernels,
        words: NDArray[np.uint64],
        rows: Rows,
        absent: NDArray[np.int64],
    ) -> Rows:
        """Make rows where there is room for all; returns the new ones."""
        count, unused, slots = len(absent), len(self._free), self._slots
        made = np.empty(count, dtype=np.uint32)
        added = kernels.intern_add(
            words, self._word_count, _SECRET, absent, count, self._free, unused, self._next,
            self._words, self._hashes, self._live, slots.numbers, slots.bits, rows, made,
        )  # fmt: skip
        slots.taken += added
        self._free = self._free[added:]
        self._next += max(0, added - unused)
        return made[:added]

    def _insert(self, words: NDArray[np.uint64]) -> Rows:
        """Add distinct, absent keys; returns their new row numbers in order."""
        count = len(words)
        reused = self._free[:count]
        grown = count - len(reused)
        if self._next + grown > self.limit:
            raise UsageError(f"more than {self.limit} distinct rows of {self.dtype.itemsize} bytes")
        self._make_room(count, grown)
        self._free = self._free[count:]
        numbers = np.concatenate(
            [reused, np.arange(self._next, self._next + grown, dtype=np.uint32)]
        ).astype(np.uint32)
        self._next += grown
        hashed = hash_of(words)
        self._words[numbers] = words
        self._hashes[numbers] = hashed
        self._live[numbers] = True
        self._slots.claim(numbers, hashed)
        if self._successor is not None:
            passed = numbers < self._moved
            self._successor.claim(numbers[passed], hashed[passed])
        return numbers

    def _make_room(self, count: int, grown: int) -> None:
        """Make room for ``count`` keys, of which ``grown`` get new row numbers."""
        if self._next + grown > self.capacity:
            capacity = roomier(self.capacity, self._next + grown, self.limit)
            self.rows = lengthened(self.rows, capacity)
            self._words = self._as_words(self.rows)
            self._voids = self.rows.view(f"V{self.dtype.itemsize}")
            self._hashes = lengthened(self._hashes, capacity)
            self._live = lengthened(self._live, capacity)
        if self._successor is None and self._slots.is_crowded(count):
            rows = len(self) + count
            bits = _FEWEST_BITS
            while _crowded(rows + rows // 4, 1 << bits):
                bits += 1
            self._successor, self._moved = _Slots(bits), 0
        while self._successor is not None:
            self._move_on(self._successor, max(_MOVED_AT_ONCE, 3 * count))
            if self._slots.has_room(count):
                return

    def _move_on(self, successor: _Slots, count: int) -> None:
        """Bring the next ``count`` rows into the successor."""
        if not successor.clear(16 * count):
            return
        start = max(1, self._moved)
        self._moved = min(start + count, self._next)
        numbers = (start + (self._live[start : self._moved]).nonzero()[0]).astype(np.uint32)
        successor.claim(numbers, self._hashes[numbers])
        if self._moved == self._next:
            self._slots, self._successor = successor, None


def _distinct(
    words: NDArray[np.uint64], absent: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[Any]]:
    """The distinct ones of the ``absent`` keys by first appearance, and which each is."""
    count, width = len(absent), words.shape[1]
    if compiled.kernels is not None:
        bits = max(4, (2 * count - 1).bit_length())
        first, inverse = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.uint32)
        scratch = np.zeros(1 << bits, dtype=np.uint32)
        distinct = compiled.kernels.intern_distinct(
            words, width, _SECRET, absent, count, scratch, bits, first, inverse
        )
        return words[first[:distinct]], inverse
    # A dict of bytes is several times faster here than sorting the keys.
    numbers: dict[bytes, int] = {}
    size = 8 * width
    raw = words[absent].tobytes()
    places = [
        numbers.setdefault(raw[at : at + size], len(numbers)) for at in range(0, len(raw), size)
    ]
    return np.frombuffer(b"".join(numbers), np.uint64).reshape(-1, width), np.array(places)


def hash_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash (uint64) of each row of contiguous words; that of the zero key is 0."""
    if compiled.kernels is not None:
        found = np.empty(len(words), dtype=np.uint64)
        compiled.kernels.intern_hash(words, len(words), words.shape[1], _SECRET, found)
        return found
    # Folded, as of the upper half of a word the lower of its product would know nothing, and
    # addresses lie there; twice, as sums of words whose highest bits alone differ are foreseen.
    width = words.shape[1]
    products = words * _SECRET[:width]
    products ^= products >> _HALF
    hashed: NDArray[np.uint64] = products @ _SECRET[1 : width + 1]
    hashed ^= hashed >> _FOLD
    hashed *= _SECRET[0]
    return hashed


def roomier(capacity: int, needed: int, limit: int = 1 << 62) -> int:
    """The next length of an array by row, of which there are ``limit`` at most."""
    reserved = min(_RESERVED, max(limit, 2 * _MOST_COPIED))
    while capacity < needed:
        capacity = reserved if _MOST_COPIED <= capacity < reserved else 2 * capacity
    return capacity


def lengthened(rows: NDArray[Any], capacity: int) -> NDArray[Any]:
    """A copy with zeros behind it, which take no memory until they are written to."""
    longer = np.zeros(capacity, dtype=rows.dtype)
    longer[: len(rows)] = rows
    return longer


def _crowded(rows: int, slots: int) -> bool:
    # A second probe costs more than the first, so small tables are kept three quarters
    # empty; big ones half, where the memory of the slots begins to show.
    return (4 if rows < 1 << 17 else 2) * rows > slots
