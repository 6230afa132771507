"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Doubling delays with jitter: quick first tries, at most ``maximum`` seconds.

    Each delay is drawn from the upper half of its step, so that a node's agents that
    lost the same peer do not come back in step.
    """

    __slots__ = ("_draw", "_first", "_maximum", "_step")

    def __init__(
        self,
        first: float = 0.1,
        maximum: float = 30.0,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = self._step = first
        self._maximum = maximum
        self._draw = draw

    def next_delay(self) -> float:
        """Seconds to wait now; the next one is longer."""
        step = self._step
        self._step = min(2 * step, self._maximum)
        return self._draw(step / 2, step)

    def reset(self) -> None:
        """It works again: the next failure starts over."""
        self._step = self._first
