"""Which flows of a ring a call wants, found a view at a time.

A scan keeps positions alone: what it has looked at, and what it found there and was not asked
for yet. It looks no further before that is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api.history.ring import FlowRing
from api.hubble.filters import FlowSelection
from api.hubble.flow_view import FlowView, FlowViews
from parsers.flow_batch import FlowBatch

BEGIN, END = -(2**63), 2**63 - 1
"""Times no flow has: since ever, until ever."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Flows of a selection whose time (ns) is within [since, until]."""

    selection: FlowSelection
    since: int
    until: int

    def matches(self, view: FlowView) -> NDArray[np.intp]:
        """Rows of the view, in rising order."""
        found = self.selection.matches(view)
        if self.since != BEGIN:
            found = found[view.column("time", found) >= self.since]
        if self.until != END:
            found = found[view.column("time", found) <= self.until]
        return found


class FlowScan:
    """Goes through ``ring`` from ``position`` on."""

    __slots__ = ("_found", "_ring", "_views", "_wanted", "beyond", "position")

    def __init__(self, ring: FlowRing, views: FlowViews, wanted: Wanted, position: int) -> None:
        self._ring = ring
        self._views = views
        self._wanted = wanted
        self._found = np.zeros(0, dtype=np.int64)
        self.position = position
        """The next flow to look at."""
        self.beyond = False
        """A flow later than ``until`` was met, which ends the scan."""

    @property
    def next(self) -> int:
        """All flows below were taken or passed over."""
        return int(self._found[0]) if len(self._found) else self.position

    @property
    def is_empty(self) -> bool:
        """Nothing that was found waits to be taken."""
        return not len(self._found)

    def look(self, stop: int) -> int:
        """Look at the next view of flows below ``stop``; how many were passed over."""
        for position, view in self._views.pieces(self.position, stop, self._wanted.selection.width):
            matches, end = self._wanted.matches(view), len(view)
            if self._wanted.until != END:
                late = np.flatnonzero(view.column("time") > self._wanted.until)[:1]
                if len(late):
                    end, self.beyond = int(late[0]), True
                    matches = matches[matches < end]
            self._found = position + matches
            self.position = position + end
            return end - len(matches)
        return 0

    def take(self, limit: int, stop: int) -> FlowBatch | None:
        """At most ``limit`` of the flows that were found, below ``stop``."""
        count = min(limit, int(np.searchsorted(self._found, stop)))
        if not count:
            return None
        taken, self._found = self._found[:count], self._found[count:]
        return self._ring.at(taken)

    def give_up_overwritten(self) -> int:
        """Go on with the oldest flow of the ring; how many were missed."""
        oldest = self._ring.oldest
        if self.next >= oldest:
            return 0
        gone = int(np.searchsorted(self._found, oldest))
        self._found = self._found[gone:]
        missed = max(0, oldest - self.position)
        self.position += missed
        return gone + missed


def last_matches(
    views: FlowViews, ring: FlowRing, wanted: Wanted, number: int, stop: int
) -> Iterator[tuple[int, int]]:
    """Go back from ``stop`` until ``number`` flows that match were seen.

    Yields after each view the position it has come to and how many are still missing.
    """
    position = stop
    while position > ring.oldest:
        position, view = next(views.pieces_backwards(ring.oldest, position, wanted.selection.width))
        found = wanted.matches(view)
        if len(found) >= number:
            yield position + int(found[len(found) - number]), 0
            return
        number -= len(found)
        yield position, number
