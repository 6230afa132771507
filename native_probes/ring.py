"""Reads a BPF ring buffer of records of one size, as memory.

Strategy: records of one size have one stride, so all that are unread are one numpy view; what
wraps is put together first. Busy records end a read; discarded ones are left out. The consumer's
position is one aligned store. The kernel offers the data twice in a row, which is mapped once here,
as each mapping counts as memory of the process.

Layout (kernel ``kernel/bpf/ringbuf.c``): one page with the consumer's position, one page
with the producer's, then the data. A record is a word with its length and two flags, a word
of the kernel's own, and the payload, padded to 8 bytes.
"""

from __future__ import annotations

import mmap

import numpy as np

from parsers.windows import Columns

_PAGE = mmap.PAGESIZE
_HEADER = 8
_BUSY = np.uint32(1 << 31)


class Ring:
    """The reader's end of a ring map. ``record`` is a whole number of 64-bit words."""

    __slots__ = ("_consumer", "_data", "_entry", "_mask", "_producer", "_record")

    def __init__(self, map_fd: int, size: int, record: np.dtype[np.void]) -> None:
        self._record = record
        self._entry = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", record)])
        self._mask = size - 1
        writable = mmap.mmap(map_fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        readable = mmap.mmap(map_fd, _PAGE + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        # the arrays keep the mappings alive
        self._consumer = np.frombuffer(writable, "<u8", 1)
        self._producer = np.frombuffer(readable, "<u8", 1)
        self._data = np.frombuffer(readable, "u1", size, _PAGE)

    def has_news(self) -> bool:
        """Whether a read may find something."""
        return bool(self._consumer[0] != self._producer[0])

    def read(self) -> Columns:
        """All finished records, copied out, and their room given back."""
        start, end = int(self._consumer[0]), int(self._producer[0])
        at, stride = start & self._mask, self._entry.itemsize
        length = (end - start) // stride * stride
        unread = self._data[at : at + length]
        if len(unread) < length:
            unread = np.concatenate([unread, self._data[: length - len(unread)]])
        entries = unread.view(self._entry)
        busy = np.flatnonzero(entries["length"] & _BUSY)
        if busy.size:
            entries = entries[: busy[0]]
        records: Columns = entries["record"][entries["length"] == self._record.itemsize]
        self._consumer[0] = start + len(entries) * stride
        return records
