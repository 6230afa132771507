"""Freeing table rows that no flow of the history refers to, a bounded piece at a time.

Mark and sweep, one step for each batch that is appended. A cycle begins when a table has
grown by a quarter since the last one, and not before flows have left the history; or when
the history has more bytes than it may.

1. *Mark*: the flows that are stored flag their rows, ``MARKED`` flows a step.
2. *Sweep*: each table frees the rows without a flag, ``SWEPT`` rows a step. Surviving
   conversations flag the entities and names they resolved to, which are swept last.

Batches that come meanwhile flag their rows when they are appended, before the next step.
So whoever interns rows has to append them before anything else is appended. And so a
table's ``generation``, which rises when its sweep begins, is enough for caches by row:
what was cached earlier is void, and what is cached from then on belongs to flagged rows.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from api.history.ring import FlowRing
from parsers.flow_batch import U32, FlowBatch, FlowTables
from parsers.intern import lengthened

MARKED, SWEPT, SWEPT_OBJECTS = 1 << 15, 1 << 15, 1 << 12
"""Flows, rows, and rows of objects a step; each takes 1-2 ms at worst."""

_TABLES = ("classes", "conversations", "details", "entities", "name_pairs")
_FEWEST = (1 << 14, 1 << 14, 1 << 12, 1 << 12, 1 << 12)
"""Rows below which a table is not worth a look: 1-2 MB."""


class _Marks:
    """A flag for each row of each table: whether something refers to it."""

    __slots__ = ("_flags", "_tables")

    def __init__(self, tables: FlowTables) -> None:
        self._tables = tables
        self._flags = dict.fromkeys(_TABLES, np.zeros(0, dtype=np.bool_))

    def of(self, name: str, end: int) -> NDArray[np.bool_]:
        """The flags of a table that has rows below ``end``."""
        flags = self._flags[name]
        if end > len(flags):
            flags = self._flags[name] = lengthened(flags, 2 * end)
        return flags

    def flows(self, flows: FlowBatch) -> None:
        """Flag what flows refer to."""
        tables = self._tables
        conversations = tables.conversations
        self.of("classes", tables.classes.end)[flows.flow_class] = True
        self.of("details", tables.details.end)[flows.detail] = True
        conversations.mark(flows.conversation, self.of("conversations", conversations.end))

    def resolved(self, conversation: U32) -> None:
        """Flag the entities and names of conversations."""
        conversations = self._tables.conversations
        entities = self.of("entities", conversations.entities.end)
        entities[conversations.entities_of(conversation)] = True
        pairs = self.of("name_pairs", conversations.name_pairs.end)
        pairs[conversations.names[conversation]] = True


class Reclaimer:
    """Keeps ``tables`` in proportion to the flows of ``rings``, the longest of them first."""

    __slots__ = ("_cycle", "_limits", "_marks", "_rings", "_tables", "cycles")

    def __init__(self, tables: FlowTables, rings: Sequence[FlowRing]) -> None:
        self.cycles = 0
        """Cycles that are over."""
        self._tables = tables
        self._rings = rings
        self._marks = _Marks(tables)
        self._cycle: Iterator[int] | None = None
        self._limits: tuple[int, ...] = _FEWEST

    @property
    def is_idle(self) -> bool:
        """Whether no cycle is under way."""
        return self._cycle is None

    def after(self, batch: FlowBatch, needed: bool) -> None:
        """One step, after a batch was appended to the rings; ``needed`` begins a cycle."""
        unlisted = self._tables.conversations.take_unlisted()
        if self._cycle is None:
            if not needed and not (self._rings[0].oldest and self._is_due()):
                return
            self._cycle = self._run()
        else:
            self._marks.flows(batch)
            self._marks.resolved(batch.conversation)
            self.keep(unlisted)
        if next(self._cycle, None) is None:
            self._cycle = None

    def keep(self, conversation: U32) -> None:
        """Flag conversations that stored flows were given since they were appended."""
        if self._cycle is not None:
            conversations = self._tables.conversations
            conversations.mark(conversation, self._marks.of("conversations", conversations.end))
            self._marks.resolved(conversation)

    def keep_details(self, detail: U32) -> None:
        """Flag details that stored flows were given since they were appended."""
        if self._cycle is not None:
            self._marks.of("details", self._tables.details.end)[detail] = True

    def run(self) -> int:
        """A whole cycle at once; returns how many rows of all tables it freed."""
        self._cycle = None
        return sum(self._run())

    def _sizes(self) -> tuple[int, ...]:
        tables = self._tables
        conversations = tables.conversations
        return (
            len(tables.classes), len(conversations), len(tables.details),
            len(conversations.entities), len(conversations.name_pairs),
        )  # fmt: skip

    def _is_due(self) -> bool:
        return any(map(operator.gt, self._sizes(), self._limits))

    def _run(self) -> Iterator[int]:
        """The steps of a cycle; each tells how many rows it freed."""
        marks = self._marks = _Marks(self._tables)
        for ring in self._rings:
            # Flows that come meanwhile are flagged by ``after``.
            for start in range(ring.oldest, ring.end, MARKED):
                for _, piece in ring.pieces(start, start + MARKED, MARKED):
                    marks.flows(piece)
                yield 0
        yield from self._sweep()
        self._limits = tuple(map(max, _FEWEST, [size + size // 4 for size in self._sizes()]))
        self.cycles += 1

    def _sweep(self) -> Iterator[int]:
        marks, tables = self._marks, self._tables
        classes, conversations, details = tables.classes, tables.conversations, tables.details
        for start in range(0, classes.end, SWEPT):
            yield classes.reclaim(marks.of("classes", classes.end), start, start + SWEPT)
        for start in range(0, details.end, SWEPT_OBJECTS):
            in_use = marks.of("details", details.end)
            yield details.reclaim(in_use, start, start + SWEPT_OBJECTS)
        for start in range(0, conversations.end, SWEPT):
            in_use = marks.of("conversations", conversations.end)
            freed = conversations.reclaim(in_use, start, start + SWEPT)
            marks.resolved(conversations.live_rows(start, start + SWEPT))
            yield freed
        entities, pairs = conversations.entities, conversations.name_pairs
        for start in range(0, max(entities.end, pairs.end), SWEPT_OBJECTS):
            yield conversations.reclaim_resolved(
                marks.of("entities", entities.end),
                marks.of("name_pairs", pairs.end),
                start,
                start + SWEPT_OBJECTS,
            )
