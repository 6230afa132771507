"""One clock for flows and names, that does not go back when the machine's does.

Flows are named by who owned an address at their time, so a change of owner must be dated
by the clock that dates flows. Those are dated rising; with another clock a step back would
give flows, for as long as the step is, the owners of before.

When the machine's clock is set back, this one goes on at half its pace until that has caught up.
It must not stand still: how long ago an address was given back would be forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class RisingClock:
    """``clock`` (ns since the epoch), but never twice the same nor less than before.

    ``steady`` (ns) is one that nobody sets.
    """

    __slots__ = ("_clock", "_last", "_steady", "_tick")

    def __init__(
        self,
        clock: Callable[[], int] = time.time_ns,
        steady: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock = clock
        self._steady = steady
        self._last = 0
        self._tick = steady()

    def __call__(self) -> int:
        """The time now, or one that comes after the last one given."""
        tick = self._steady()
        self._last = max(self._clock(), self._last + max(1, (tick - self._tick) // 2))
        self._tick = tick
        return self._last
