"""The history: a ring of flows, a longer one of drops, and the events between them.

Flows live in the main ring. Those that were dropped are kept a second time in a ring of
their own, where they outlive the others; it answers requests that can match nothing else.
Lost, agent and debug events are few: each kind has a bounded queue, and an event knows
the position of the flow that came next, which gives their order.

Table rows that no flow of the history refers to are freed little by little inside
``append`` (see ``reclaim``), so whoever interned rows has to append them before anything
else is appended, and caches by row compare the table's generation.

The history has a budget of bytes as well. Once table rows make it exceed that, the oldest
flows are forgotten before their places are needed, and their rows are freed. It may be
exceeded by what comes during one cycle of that.

A flow that is overwritten or forgotten has left the history ("outgoing"): it is no loss.
A reader that was overtaken lost it, and books that itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from api.history.reclaim import Reclaimer
from api.history.ring import FlowRing
from api.v1.flow import flow_pb2
from parsers.flow_batch import U32, FlowBatch, FlowTables
from parsers.ledger import Ledger
from parsers.pipeline import AgentRecord, DebugRecord

T = TypeVar("T")

_DROPPED = 2  # flow.Verdict
_FORGOTTEN_AHEAD = 1 / 16  # share of the flows
BYTES_PER_FLOW, FEWEST_BYTES = 80, 1 << 25
"""The memory of a history, for each flow of its capacity and at least.

A flow with an L7 record needs several hundred bytes, so a stream of those alone gets fewer
flows than the capacity; the floor gives small rings all of theirs.
"""

KEPT_EVENTS = 4096
"""Events kept of each kind; as many as Hubble's ring has by default."""


@dataclass(frozen=True, slots=True)
class PastEvent(Generic[T]):
    """An event that is no flow; ``position`` is that of the flow that came next."""

    position: int
    time: int  # ns
    event: T


@dataclass(frozen=True, slots=True)
class HistoryStatistics:
    """Fill of the history. ``seen`` counts flows since the start; ``bytes`` is about how much
    memory the flows take with the table rows they refer to, of which ``byte_limit`` is allowed.
    """

    flows: int
    capacity: int
    drops: int
    drop_capacity: int
    seen: int
    reclaims: int
    bytes: int
    byte_limit: int


class EventQueue(Generic[T]):
    """The newest events of one kind."""

    __slots__ = ("_events", "seen")

    def __init__(self) -> None:
        self._events: deque[PastEvent[T]] = deque(maxlen=KEPT_EVENTS)
        self.seen = 0
        """Events ever added; the number of the next one."""

    def add(self, event: PastEvent[T]) -> None:
        """Append, dropping the oldest of a full queue."""
        self._events.append(event)
        self.seen += 1

    @property
    def oldest(self) -> int:
        """The number of the oldest event that is kept."""
        return self.seen - len(self._events)

    def since(self, number: int) -> Sequence[PastEvent[T]]:
        """Events from the ``number``-th on, as far as they are kept."""
        return list(islice(self._events, max(0, number - self.oldest), None))


class History:
    """The flows of one pipeline; ``drop_capacity`` 0 keeps no separate drops.

    Booked at the ledger's stage "history". Not thread-safe.
    """

    def __init__(
        self, tables: FlowTables, ledger: Ledger, capacity: int, drop_capacity: int | None = None
    ) -> None:
        self.tables = tables
        self.flows = FlowRing(tables, capacity)
        if drop_capacity is None:
            drop_capacity = max(1, capacity // 16)
        self.drops = FlowRing(tables, drop_capacity) if drop_capacity else None
        self.lost: EventQueue[flow_pb2.LostEvent] = EventQueue()
        self.agent: EventQueue[AgentRecord] = EventQueue()
        self.debug: EventQueue[DebugRecord] = EventQueue()
        self.byte_limit = max(FEWEST_BYTES, BYTES_PER_FLOW * capacity)
        self._ledger = ledger
        self.rings = [self.flows] if self.drops is None else [self.flows, self.drops]
        self._reclaimer = Reclaimer(tables, self.rings)

    def append(self, batch: FlowBatch) -> None:
        """Add flows in order of arrival; may free some table rows (see above)."""
        self.flows.append(batch)
        self._book(len(batch))
        if self.drops is not None:
            dropped = batch.attribute("verdict") == _DROPPED
            if dropped.any():
                self.drops.append(batch.select(dropped))
        excess = self.nbytes() - self.byte_limit if self._reclaimer.is_idle else 0
        if excess > 0:
            self._forget(excess)
            self._book(0)
        self._reclaimer.after(batch, excess > 0)

    def _book(self, arrived: int) -> None:
        """What came in and, as the ring now has so many, what went out."""
        account = self._ledger.stages["history"]
        account.incoming += arrived
        account.outgoing += account.waiting + arrived - len(self.flows)
        account.waiting = len(self.flows)

    def nbytes(self) -> int:
        """About how much memory the flows take with what they refer to."""
        return sum(ring.nbytes() for ring in self.rings) + self.tables.nbytes()

    def keep(self, conversations: U32) -> None:
        """Rows that flows were given after they were appended are in use, too."""
        self._reclaimer.keep(conversations)

    def keep_details(self, details: U32) -> None:
        """As ``keep``, of rows of details."""
        self._reclaimer.keep_details(details)

    def reclaim(self) -> int:
        """Free all rows of the tables that no flow here refers to; returns how many.

        Takes some 50 ms with a million flows, and is not needed: ``append`` does it in steps.
        """
        return self._reclaimer.run()

    def _forget(self, excess: int) -> None:
        """Give up the oldest flows, for ``excess`` bytes and what comes until rows are free."""
        share = min(1.0, excess / max(1, self.tables.nbytes()) + _FORGOTTEN_AHEAD)
        for ring in self.rings:
            ring.forget(math.ceil(len(ring) * share))

    def older_drops(self) -> int:
        """End position in ``drops`` of those that the main ring no longer has."""
        if self.drops is None or not len(self.drops):
            return 0
        if not len(self.flows):
            return self.drops.end
        _, oldest = next(self.flows.pieces(self.flows.oldest, self.flows.oldest + 1, 1))
        end = 0
        for position, piece in self.drops.pieces(self.drops.oldest, self.drops.end, 1 << 16):
            end = position + int(np.searchsorted(piece.sequence, oldest.sequence[0]))
            if end < position + len(piece):
                break
        return end

    def statistics(self) -> HistoryStatistics:
        """Current fill; a ring's peak is its fill."""
        drops, drop_capacity = 0, 0
        if self.drops is not None:
            drops, drop_capacity = len(self.drops), self.drops.capacity
        return HistoryStatistics(
            flows=len(self.flows),
            capacity=self.flows.capacity,
            drops=drops,
            drop_capacity=drop_capacity,
            seen=self.flows.end,
            reclaims=self._reclaimer.cycles,
            bytes=self.nbytes(),
            byte_limit=self.byte_limit,
        )
