"""The settings of the process that the hot path depends on.

Memory: numpy's temporaries are a few hundred kilobytes and live for microseconds. By
default glibc takes such blocks from the kernel and gives them back each time; on this
design that was a quarter of all CPU time, in page faults. Raising two thresholds keeps
them in the heap: a few megabytes.

Huge pages: numpy asks for them, and the first touch of one stops the loop for up to 5 ms
while the kernel clears 2 MB. The tables grow all the time, so they are switched off.

Garbage: L7 records are objects without cycles that live as long as the history holds
them. Collections that look at all of them find nothing; they are made rare.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 8 << 20
_PR_SET_THP_DISABLE = 41  # sys/prctl.h
_COLLECTION_THRESHOLDS = (5_000, 100, 100)


def tune_process() -> None:
    """Set all; skips what the C library does not have (musl: ``mallopt``)."""
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "mallopt"):
        c_library.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        c_library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    if hasattr(c_library, "prctl"):
        c_library.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)


def give_back_memory() -> None:
    """Let the kernel have what is free in the heap; after something that took much once."""
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "malloc_trim"):
        c_library.malloc_trim(0)
