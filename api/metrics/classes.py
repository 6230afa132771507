"""The classes of flows as far as metrics tell them apart.

Strategy: a row of the pipeline's class table has fields that no metric looks at
(interface, proxy port, ...), and its number is used again when the row is reclaimed.
Each row is therefore mapped once to a row of a smaller table, and all counting is by those.
A batch costs one gather.

Where labels name the sides of a flow, each pair of a class and the values of such context
labels is a class of its own (``ContextClasses``). Either may become many (by the 65,536 types
and codes of ICMP, for one), so they are dropped and learned anew, which whoever keeps their
rows sees by the ``generation``.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from api.metrics.context import Contexts
from api.metrics.family import Labels
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
    own_reason: int


class Key(NamedTuple):
    """What the labels of a flow follow from, its port and its L7 record apart."""

    flow: MetricClass
    context: Labels = ()


_VALUES_OF: Final = itemgetter(*map((FLOW_CLASS.names or ()).index, MetricClass._fields))


def metric_classes(rows: NDArray[Any]) -> Iterator[MetricClass]:
    """The classes of ``FLOW_CLASS`` rows."""
    return (MetricClass(*_VALUES_OF(row)) for row in rows.tolist())


def _counted() -> NDArray[Any]:
    """A ``FLOW_CLASS`` with the bits set that metrics look at."""
    mask = np.zeros(1, dtype=FLOW_CLASS)
    for name in MetricClass._fields:
        mask[name] = np.iinfo(FLOW_CLASS[name]).max
    mask["flags"] = FLAG_TCP_FLAGS | FLAG_L7
    mask["tcp_flags"] = FIN | SYN | RST | ACK
    return mask


_COUNTED: Final = _counted()


class Classes(Protocol):
    """Numbered classes of flows; row 0 is never given to one."""

    @property
    def generation(self) -> int:
        """Rises when all row numbers become void."""

    @property
    def rows(self) -> NDArray[Any]:
        """Structured array by row, with the fields of ``MetricClass``."""

    def __len__(self) -> int:
        """Row numbers are below it."""

    def __getitem__(self, row: int) -> Key:
        """What a row stands for."""

    def base_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The row of each row's class among those without context."""

    def contexts_of(self, rows: NDArray[Any]) -> U32:
        """The number of each row's context."""

    def context(self, number: int) -> Labels:
        """The values of context labels that have a number."""


class MetricClasses:
    """Maps class rows of a pipeline to rows of its own.

    Batches of another pipeline are understood too: its rows are learned anew.
    """

    __slots__ = ("_keys", "_of", "_source", "_table", "generation")

    def __init__(self) -> None:
        self.generation = 0
        self._table = InternTable(FLOW_CLASS)
        self._keys: dict[int, Key] = {}  # of the rows that somebody asked for
        self._source: InternTable | None = None
        self._of: U32 = np.zeros(0, dtype=np.uint32)  # by class row; 0 is "not seen yet"

    def __len__(self) -> int:
        return len(self._table)

    @property
    def rows(self) -> NDArray[Any]:
        """See ``Classes``."""
        return self._table.rows[: len(self)]

    def __getitem__(self, row: int) -> Key:
        key = self._keys.get(row)
        if key is None:
            key = self._keys[row] = Key(next(metric_classes(self.rows[row : row + 1])))
        return key

    def base_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """See ``Classes``."""
        return rows

    def contexts_of(self, rows: NDArray[Any]) -> U32:
        """See ``Classes``: there is no context here."""
        return np.zeros(len(rows), dtype=np.uint32)

    def context(self, number: int) -> Labels:
        """See ``Classes``."""
        return ()

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

    def clear(self) -> None:
        """Drop all rows; what was counted by them must have been folded."""
        self.generation += 1
        self._table = InternTable(FLOW_CLASS)
        self._keys = {}
        self._of[:] = 0

    def forget(self, class_rows: NDArray[Any]) -> None:
        """Class rows (numbers) that are about to be freed and used for something else."""
        self._of[class_rows[class_rows < len(self._of)]] = 0

    def _learn(self, source: InternTable, rows: U32) -> None:
        """Map class rows that are not mapped yet."""
        fresh = np.array(sorted(set(rows.tolist())), dtype=np.uint32)
        keys = source.rows[fresh]
        keys.view(np.uint64).reshape(len(keys), -1)[:] &= _COUNTED.view(np.uint64)
        keys["origin"] = 1  # so that no key is zero
        self._of[fresh] = self._table.lookup(keys)[0]


_MOST_PAIRS: Final = 1 << 20  # its owner clears it long before
_PAIR: Final = np.dtype([("row", "u4"), ("context", "u4")])


class ContextClasses:
    """Classes with the values of context labels."""

    __slots__ = ("_contexts", "_parent", "_table", "generation")

    def __init__(self, parent: MetricClasses, contexts: Contexts) -> None:
        self.generation = 0
        self._parent = parent
        self._contexts = contexts
        self._table = InternTable(_PAIR, _MOST_PAIRS)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def context_count(self) -> int:
        """How many contexts the rows have together."""
        return len(self._contexts)

    @property
    def rows(self) -> NDArray[Any]:
        """See ``Classes``."""
        rows: NDArray[Any] = self._parent.rows[self._table.rows["row"][: len(self)]]
        return rows

    def __getitem__(self, row: int) -> Key:
        of_parent, number = self._table.rows[row].item()
        return Key(self._parent[of_parent].flow, self._contexts[number])

    def of(self, batch: FlowBatch, classes: U32) -> U32:
        """The row of each flow, whose row of the parent is given."""
        keys = np.empty(len(batch), dtype=_PAIR)
        keys["row"] = classes
        keys["context"] = self._contexts.of(batch, self._parent.rows["direction"][classes])
        return self._table.lookup(keys)[0]

    def base_of(self, rows: NDArray[Any]) -> NDArray[Any]:
        """See ``Classes``."""
        found: NDArray[Any] = self._table.rows["row"][rows]
        return found

    def contexts_of(self, rows: NDArray[Any]) -> U32:
        """See ``Classes``."""
        numbers: U32 = self._table.rows["context"][rows]
        return numbers

    def context(self, number: int) -> Labels:
        """See ``Classes``."""
        return self._contexts[number]

    def clear(self) -> None:
        """Drop all rows; what was counted by them must have been folded."""
        self.generation += 1
        self._table = InternTable(_PAIR, _MOST_PAIRS)
        self._contexts.clear()
