"""A value over time: who held something from when on."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Generic, TypeVar

EVER, FOREVER = -(2**63), 2**63 - 1
"""Before and after all times (ns)."""

T = TypeVar("T")


class Timeline(Generic[T]):
    """Changes of one value. ``None`` is nobody, which also holds before the first change."""

    __slots__ = ("_since", "_values")

    def __init__(self) -> None:
        self._since: list[int] = []
        self._values: list[T | None] = []

    def __len__(self) -> int:
        return len(self._since)

    def set(self, value: T | None, since: int) -> None:
        """From ``since`` (ns) on, until the next change that is known, it is ``value``."""
        at = bisect_right(self._since, since)
        if at and self._since[at - 1] == since:
            self._values[at - 1] = value
        else:
            self._since.insert(at, since)
            self._values.insert(at, value)

    def cut(self, since: int) -> None:
        """Forget changes at and after ``since``."""
        at = bisect_left(self._since, since)
        del self._since[at:], self._values[at:]

    def at(self, time: int) -> T | None:
        """The value at ``time``."""
        index = bisect_right(self._since, time) - 1
        return self._values[index] if index >= 0 else None

    def since(self, time: int) -> int:
        """When the value at ``time`` began."""
        index = bisect_right(self._since, time) - 1
        return self._since[index] if index >= 0 else EVER

    def until(self, time: int) -> int:
        """When the value at ``time`` ends."""
        index = bisect_right(self._since, time)
        return self._since[index] if index < len(self._since) else FOREVER

    def had_one(self, time: int) -> bool:
        """Whether there ever was a value before ``time``."""
        index = bisect_right(self._since, time)
        return any(value is not None for value in self._values[:index])

    def values(self) -> list[T | None]:
        """All values, oldest first."""
        return self._values

    def forget(self, before: int) -> None:
        """Drop changes that no event after ``before`` can need."""
        keep = max(0, bisect_right(self._since, before) - 1)
        del self._since[:keep], self._values[:keep]

    def is_over(self, since: int) -> bool:
        """Whether nobody has it from ``since`` on."""
        return self.at(since) is None and self.until(since) == FOREVER
