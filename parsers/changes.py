"""What has become void of answers that a directory gave, for any number of readers.

A reader keeps the number of changes it has seen, and asks what came since. A change of one
address is told by its bucket (``buckets_of``): a few other addresses have the same one and
are asked about again in vain, which costs little and bounds the memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parsers.address_table import ADDRESS, BUCKETS, buckets_of
from parsers.prefixes import Prefix
from parsers.timeline import FOREVER

_REMEMBERED = 1 << 10  # identities, and prefixes; when more change at once, all is void


@dataclass(frozen=True, slots=True)
class Voided:
    """What is void: all answers, or those of addresses in ``buckets`` (bool, by bucket) or in
    ``prefixes``, and of entities with one of ``identities``. ``past``: all answers that were
    ever given.
    """

    everything: bool
    past: bool
    buckets: NDArray[np.bool_]
    identities: tuple[int, ...]
    prefixes: tuple[Prefix, ...]


class Changes:
    """``count`` rises with each change."""

    __slots__ = (
        "_buckets", "_everything", "_identities", "_late", "_past", "_prefixes", "count",
    )  # fmt: skip

    def __init__(self) -> None:
        self.count = 0
        self._buckets = np.zeros(BUCKETS, dtype=np.uint64)  # count at the last change
        self._identities: deque[tuple[int, int]] = deque()
        self._prefixes: deque[tuple[int, Prefix]] = deque()
        self._everything = self._past = 0
        self._late: dict[bytes, int] = {}

    def addresses(self, changed: Sequence[tuple[bytes, int]]) -> None:
        """Addresses have other owners, or services, each since a time (ns)."""
        if not changed:
            return
        self.count += 1
        packed = b"".join([address for address, _ in changed])
        self._buckets[buckets_of(np.frombuffer(packed, dtype=ADDRESS))] = self.count
        late = self._late
        for address, since in changed:
            if since < late.get(address, FOREVER):
                late[address] = since

    def identity(self, number: int) -> None:
        """A security identity has other labels."""
        self.count += 1
        self._identities.append((self.count, number))
        if len(self._identities) > _REMEMBERED:
            self._everything = max(self._everything, self._identities.popleft()[0])

    def prefix(self, prefix: Prefix) -> None:
        """Whoever has no name of its own in a prefix is somebody else."""
        self.count += 1
        self._prefixes.append((self.count, prefix))
        if len(self._prefixes) > _REMEMBERED:
            self._everything = max(self._everything, self._prefixes.popleft()[0])

    def everything(self, *, past: bool = False) -> None:
        """Any answer may be another one now; ``past``: as it should have been before."""
        self.count += 1
        self._everything = self.count
        if past:
            self._past = self.count

    def since(self, seen: int) -> Voided:
        """What changed after the ``seen``-th change."""
        return Voided(
            self._everything > seen,
            self._past > seen,
            self._buckets > seen,
            tuple(number for at, number in self._identities if at > seen),
            tuple(prefix for at, prefix in self._prefixes if at > seen),
        )

    def take_late(self) -> dict[bytes, int]:
        """The addresses that changed since this was asked last, and since when (ns) they differ.

        For the one who corrects what was named too early.
        """
        late, self._late = self._late, {}
        return late
