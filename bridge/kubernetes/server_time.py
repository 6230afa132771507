"""How far our clock is ahead of the API server's.

Times in objects are the server's (or a kubelet's, which is taken to agree with it), while
changes and flows are dated by ours. Of each answer the ``Date`` header tells what time it is
there; from then on that goes on by a clock that nobody sets, so a step of ours is noticed
at once. It has a resolution of a second, and the answer takes its time: what is within
``_TOLERATED`` is no difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

_TOLERATED = 3 * 10**9 // 2  # ns
_HALF_A_SECOND = 10**9 // 2  # by which a time in whole seconds is behind, on average


class ServerTime:
    """``steady`` (ns) is a clock that nobody sets."""

    __slots__ = ("_at", "_steady", "_time")

    def __init__(self, steady: Callable[[], int] = time.monotonic_ns) -> None:
        self._steady = steady
        self._time: int | None = None  # there, ns since the epoch
        self._at = 0  # when it was that, by ``steady``

    def observe(self, date: str) -> None:
        """An answer came just now, with this header; what is no date says nothing."""
        try:
            seconds = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        self._time, self._at = int(seconds) * 10**9 + _HALF_A_SECOND, self._steady()

    def ahead(self, now: int) -> int:
        """By how much ``now``, of our clock, is ahead of the server's (ns); less than 0: behind."""
        if self._time is None:
            return 0
        ahead = now - self._time - (self._steady() - self._at)
        return ahead if abs(ahead) > _TOLERATED else 0
