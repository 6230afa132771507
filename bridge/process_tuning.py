"""The two settings of the process that the hot path depends on.

Memory: numpy's temporaries are a few hundred kilobytes and live for microseconds. By
default glibc takes such blocks from the kernel and gives them back each time; on this
design that was a quarter of all CPU time, in page faults. Raising two thresholds keeps
them in the heap: a few megabytes.

Garbage: L7 records are objects without cycles that live as long as the history holds
them. Collections that look at all of them find nothing; they are made rare.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 64 << 20
_COLLECTION_THRESHOLDS = (50_000, 20, 100)


def tune_process() -> None:
    """Set both; does nothing to the allocator where there is no ``mallopt`` (musl)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        mallopt = None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTION_THRESHOLDS)
