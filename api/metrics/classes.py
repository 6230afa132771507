"""The classes of flows as far as metrics tell them apart.

Strategy: a row of the pipeline's class table has fields that no metric looks at
(interface, proxy port, ...), and its number is used again when the row is reclaimed.
Each row is therefore mapped once to a row of a smaller table that lives as long as the
counters, and all counting is by those. A batch costs one gather.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import FLAG_L7, FLAG_TCP_FLAGS, FLOW_CLASS, U32, FlowBatch
from parsers.intern import InternTable

FIN, SYN, RST, ACK = 1, 2, 4, 16
"""The TCP flags that metrics count or look at."""


class MetricClass(NamedTuple):
    """One class; the fields are those of ``FLOW_CLASS``."""

    event_type: int
    sub_type: int
    verdict: int
    direction: int
    is_reply: int
    ip_version: int
    l4: int
    policy_match_type: int
    flags: int
    l4_type: int
    l4_code: int
    l7_type: int
    l7_record: int
    tcp_flags: int
    drop_reason: int


_VALUES_OF: Final = itemgetter(*map((FLOW_CLASS.names or ()).index, MetricClass._fields))


def _counted() -> NDArray[Any]:
    """A ``FLOW_CLASS`` with the bits set that metrics look at."""
    mask = np.zeros(1, dtype=FLOW_CLASS)
    for name in MetricClass._fields:
        mask[name] = np.iinfo(FLOW_CLASS[name]).max
    mask["flags"] = FLAG_TCP_FLAGS | FLAG_L7
    mask["tcp_flags"] = FIN | SYN | RST | ACK
    return mask


_COUNTED: Final = _counted()


class MetricClasses:
    """Maps class rows of a pipeline to rows of its own; row 0 is never used.

    Batches of another pipeline are understood too: its rows are learned anew.
    """

    __slots__ = ("_of", "_source", "_table")

    def __init__(self) -> None:
        self._table = InternTable(FLOW_CLASS)
        self._source: InternTable | None = None
        self._of: U32 = np.zeros(0, dtype=np.uint32)  # by class row; 0 is "not seen yet"

    def __len__(self) -> int:
        """Row numbers are below it."""
        return len(self._table)

    @property
    def rows(self) -> NDArray[Any]:
        """Structured array by row, with the fields of ``MetricClass``."""
        return self._table.rows[: len(self)]

    def __getitem__(self, row: int) -> MetricClass:
        return MetricClass(*_VALUES_OF(self._table.rows[row].item()))

    def of(self, batch: FlowBatch) -> U32:
        """The metric class (uint32) of each flow."""
        source = batch.tables.classes
        if source is not self._source:
            self._source = source
            self._of = np.zeros(0, dtype=np.uint32)
        if source.capacity > len(self._of):
            grown = np.zeros(source.capacity, dtype=np.uint32)
            grown[: len(self._of)] = self._of
            self._of = grown
        found: U32 = self._of[batch.flow_class]
        if not found.all():
            self._learn(source, batch.flow_class[found == 0])
            found = self._of[batch.flow_class]
        return found

    def forget(self, class_rows: NDArray[Any]) -> None:
        """Class rows (numbers) that are about to be freed and used for something else."""
        self._of[class_rows[class_rows < len(self._of)]] = 0

    def _learn(self, source: InternTable, rows: U32) -> None:
        """Map class rows that are not mapped yet."""
        seen = np.zeros(source.end, dtype=np.bool_)
        seen[rows] = True
        fresh = seen.nonzero()[0]
        keys = source.rows[fresh]
        words = keys.view(np.uint64)
        words &= np.tile(_COUNTED.view(np.uint64), len(keys))
        keys["reserved"] = 1  # so that no key is zero
        self._of[fresh] = self._table.lookup(keys)[0]
