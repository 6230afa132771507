"""A predicate over the rows of a table, evaluated once per row however often it is asked.

Rows are immutable, so an answer holds until the row's number is used again: the table's
``generation`` tells. Asking about a batch is one gather of a byte per flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]

_UNKNOWN, _YES = 0, 2


def _never() -> int:
    return 0


class RowTest:
    """``evaluate`` maps distinct row numbers to a mask; ``generation`` voids old answers."""

    __slots__ = ("_answers", "_evaluate", "_generation", "_seen")

    def __init__(
        self, evaluate: Callable[[Rows], Mask], generation: Callable[[], int] = _never
    ) -> None:
        self._evaluate = evaluate
        self._generation = generation
        self._seen = generation()
        self._answers = np.zeros(1024, dtype=np.uint8)

    def __call__(self, rows: Rows) -> Mask:
        """Whether each row (any order, repeated) passes."""
        if not len(rows):
            return np.zeros(0, dtype=np.bool_)
        generation = self._generation()
        if generation != self._seen:
            self._seen = generation
            self._answers[:] = _UNKNOWN
        try:
            answers = self._answers.take(rows)
        except IndexError:
            grown = np.zeros(2 * int(rows.max()), dtype=np.uint8)
            grown[: len(self._answers)] = self._answers
            self._answers = grown
            answers = grown.take(rows)
        if answers.min() == _UNKNOWN:
            fresh = np.unique(rows[answers == _UNKNOWN])
            self._answers[fresh] = self._evaluate(fresh).astype(np.uint8) + 1
            answers = self._answers.take(rows)
        passes: Mask = answers == _YES
        return passes


def each(test: Callable[[int], bool]) -> Callable[[Rows], Mask]:
    """``evaluate`` of a test of single rows."""

    def evaluate(rows: Rows) -> Mask:
        return np.fromiter((test(row) for row in rows.tolist()), dtype=np.bool_, count=len(rows))

    return evaluate
