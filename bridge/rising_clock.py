"""One clock for flows and names, that does not go back when the machine's does.

Flows are named by who owned an address at their time, so a change of owner must be dated
by the clock that dates flows. Those are dated rising; with another clock a step back would
give flows, for as long as the step is, the owners of before.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class RisingClock:
    """``clock`` (ns since the epoch), but never twice the same nor less than before."""

    __slots__ = ("_clock", "_last")

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._last = 0

    def __call__(self) -> int:
        """The time now, or a nanosecond after the last one given."""
        self._last = max(self._clock(), self._last + 1)
        return self._last
