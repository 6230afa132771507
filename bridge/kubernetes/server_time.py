"""How far our clock is ahead of the API server's.

Times in objects are the server's (or a kubelet's, which is taken to agree with it), while
changes and flows are dated by ours. Of each answer the ``Date`` header tells what time it is
there; from then on that goes on by a clock that nobody sets, so a step of ours is noticed
at once. It has a resolution of a second: what is within ``_TOLERATED`` is no difference. Nor is
what the answer may have taken, which is much where the node or the server is overloaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

_TOLERATED = 3 * 10**9 // 2  # ns
_HALF_A_SECOND = 10**9 // 2  # by which a time in whole seconds is behind, on average


class ServerTime:
    """``steady`` (ns) is a clock that nobody sets."""

    __slots__ = ("_asked", "_at", "_time", "steady")

    def __init__(self, steady: Callable[[], int] = time.monotonic_ns) -> None:
        self.steady = steady
        self._time: int | None = None  # there, ns since the epoch
        self._asked = self._at = 0  # it was that between these, by ``steady``

    def observe(self, date: str, asked: int) -> None:
        """An answer came just now, with this header, to what was asked at ``asked`` (``steady``).

        What is no date says nothing.
        """
        try:
            seconds = parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return
        self._time = int(seconds) * 10**9 + _HALF_A_SECOND
        self._asked, self._at = asked, self.steady()

    def ahead(self, now: int) -> int:
        """By how much ``now``, of our clock, is ahead of the server's (ns); less than 0: behind."""
        if self._time is None:
            return 0
        most = now - self._time - (self.steady() - self._at)
        least = most - (self._at - self._asked)
        if least > _TOLERATED:
            return least
        return most if most < -_TOLERATED else 0
