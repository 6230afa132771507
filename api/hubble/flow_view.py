"""A batch as filters look at it: columns that index tables, each made once for all filters.

Followers that have caught up look at the same flows; ``FlowViews`` gives them the same view,
so that what they have in common is gathered once a batch and not once a follower. Pieces
end at multiples of ``WIDEST`` for that reason.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.history.ring import FlowRing
from parsers.flow_batch import FlowBatch

Chosen: TypeAlias = "NDArray[np.intp] | None"
"""Row numbers of a view in rising order; None for all."""

WIDEST = 1 << 13
"""Flows of a view at most: what their columns take stays in the processor's cache."""

_KEPT = 8  # views: as many as a large batch has
# A view is of a ring's own memory. It is never asked for once a flow of it is overwritten, as
# its positions are looked for from the oldest on.


class FlowView:
    """The columns of ``batch`` by name: those of ``FlowBatch``, and ``source_entity``,
    ``destination_entity`` and ``names`` of its conversations.
    """

    __slots__ = ("_columns", "answers", "batch")

    def __init__(self, batch: FlowBatch) -> None:
        self.batch = batch
        self._columns: dict[str, NDArray[Any]] = {}
        self.answers: dict[Hashable, NDArray[np.intp]] = {}
        """What selections found in it, for others that ask the same."""

    def __len__(self) -> int:
        return len(self.batch)

    def column(self, name: str, chosen: Chosen = None) -> NDArray[Any]:
        """Of the chosen flows; row numbers of tables have numpy's own type for an index."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._made(name)
        return column if chosen is None else column[chosen]

    def _made(self, name: str) -> NDArray[Any]:
        batch = self.batch
        if name in {"source_entity", "destination_entity", "names"}:
            rows = getattr(batch.tables.conversations, name)[self.column("conversation")]
        else:
            rows = getattr(batch, name)
        return np.asarray(rows, dtype=np.intp if rows.dtype == np.uint32 else rows.dtype)


class FlowViews:
    """The newest views of a ring, by their positions in it."""

    __slots__ = ("_kept", "_ring")

    def __init__(self, ring: FlowRing) -> None:
        self._ring = ring
        self._kept: OrderedDict[tuple[int, int], FlowView] = OrderedDict()

    def pieces(self, start: int, stop: int, width: int) -> Iterator[tuple[int, FlowView]]:
        """Views of the flows of positions [start, stop), oldest first, ``width`` at most each
        (a divisor of ``WIDEST``); each comes with its first position.
        """
        start, stop = max(start, self._ring.oldest), min(stop, self._ring.end)
        while start < stop:
            for position, view in self._views(start, min(stop, (start // width + 1) * width)):
                yield position, view
                start = position + len(view)

    def pieces_backwards(self, start: int, stop: int, width: int) -> Iterator[tuple[int, FlowView]]:
        """As ``pieces``, newest piece first; within a view the oldest flow is first."""
        start, stop = max(start, self._ring.oldest), min(stop, self._ring.end)
        while start < stop:
            begin = max(start, (stop - 1) // width * width)
            yield from reversed(list(self._views(begin, stop)))
            stop = begin

    def _views(self, start: int, stop: int) -> Iterator[tuple[int, FlowView]]:
        """One, or two where the ring begins anew."""
        capacity = self._ring.capacity
        while start < stop:
            end = min(stop, (start // capacity + 1) * capacity)
            view = self._kept.get((start, end))
            if view is None:
                ((_, piece),) = self._ring.pieces(start, end, end - start)
                view = self._kept[start, end] = FlowView(piece)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            yield start, view
            start = end
