"""Security identities where no Cilium gives them.

Reserved ones are in ``parsers.reserved``. A set of labels gets a number of the range that Cilium
uses for pods of a cluster, computed from the labels alone: so every agent, and an agent that
was started again, has the same number for the same labels. Two sets that would have the same
one are told apart: the one heard of later gets the next of its numbers. No two sets have the
same number in one agent at one time; between agents they can differ for such a pair only,
of which 1,000 identities have one in thirty clusters (n²/2 of 2²⁴).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Final

FIRST, LAST = 256, (1 << 24) - 1
"""The range of numbers that stand for labels of pods: scope 0, above the reserved ones."""

KEPT_UNUSED: Final = 1 << 12
"""Numbers without a pod, or without a ``CiliumIdentity``, that keep their labels."""


class OwnIdentities:
    """Numbers of label sets, as long as somebody has them and a while longer."""

    def __init__(self) -> None:
        self._number_of: dict[tuple[str, ...], int] = {}
        self._labels_of: dict[int, tuple[str, ...]] = {}
        self._uses: dict[int, int] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()

    def take(self, labels: tuple[str, ...]) -> int:
        """The number of sorted labels, which one more pod has now."""
        number = self._number_of.get(labels)
        if number is None:
            number = self._number_of[labels] = self._free_number(labels)
            self._labels_of[number] = labels
        self._unused.pop(number, None)
        self._uses[number] = self._uses.get(number, 0) + 1
        return number

    def give_back(self, number: int) -> int:
        """One pod has it no more. Returns a number that stands for no labels any more, or 0."""
        self._uses[number] -= 1
        if self._uses[number]:
            return 0
        del self._uses[number]
        self._unused[number] = None
        if len(self._unused) <= KEPT_UNUSED:
            return 0
        oldest, _ = self._unused.popitem(last=False)
        del self._number_of[self._labels_of.pop(oldest)]
        return oldest

    def labels_of(self, number: int) -> tuple[str, ...]:
        """The labels of a number that was given."""
        return self._labels_of[number]

    def _free_number(self, labels: tuple[str, ...]) -> int:
        text, attempt = "\0".join(labels).encode(), 0
        while True:
            digest = blake2b(text, digest_size=8, salt=attempt.to_bytes(2, "big")).digest()
            number = FIRST + int.from_bytes(digest, "big") % (LAST - FIRST + 1)
            if number not in self._labels_of:
                return number
            attempt += 1
