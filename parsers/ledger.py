"""The loss ledger: every stage books what came in, what went out, what was lost and why.

The law: ``in - out - waiting - sum(lost) = 0`` at each stage, and along ``CHAIN`` a stage's
out is the next one's in. What the parser puts out is of several kinds, and only the flows
go on into the history. Where the truth is not knowable, the stage says so
(``NOT_OBSERVABLE``) and does not pretend a zero.

Two stages are no links of the chain. "kernel" knows only what it lost. "follower" adds up
the requests that follow: each reads the history for itself, from none to many at a time.

Plain integers, touched from one thread; a batch is one booking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

STAGES = ("kernel", "socket", "framing", "parser", "history", "follower")
"""In the order of an event's way."""

CHAIN = ("socket", "framing", "parser", "history")
"""Stages that hand on to the next one all that they put out, or its flows."""

INTERNAL_ERROR = "internal_error"
"""Why an event ended in a stage that failed while it had it."""

ERROR_CLASSES = (
    "decode", "invalid-type", "unknown-event", "skipped", "empty", "gob", "payload-type",
)  # fmt: skip
"""Why the parser stage gave no event for a record; Hubble's own classes."""

NOT_OBSERVABLE: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("socket", "agent_queue"): (
            "the agent discards payloads of a client whose queue is full and tells nobody"
        ),
        ("socket", "gap"): "what happened while there was no connection",
    }
)
"""Closed list of losses whose size nobody can know, with the reason."""


@dataclass(slots=True)
class StageAccount:
    """One stage's books, in events. ``waiting`` is what it still holds.

    ``kinds`` splits ``outgoing`` where a stage puts out more than one kind of event.
    """

    incoming: int = 0
    outgoing: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def balance(self) -> int:
        """0 when every event is accounted for."""
        return self.incoming - self.outgoing - self.waiting - sum(self.lost.values())

    def handed_on(self) -> int:
        """What the next stage of the chain must have got."""
        return self.kinds["flows"] if self.kinds else self.outgoing


class Ledger:
    """All stages of one pipeline.

    ``chained`` is set by who moves events along ``CHAIN``; until then, stages may be used
    without their neighbours.
    """

    __slots__ = ("chained", "stages", "unobservable")

    def __init__(self) -> None:
        self.stages: dict[str, StageAccount] = {name: StageAccount() for name in STAGES}
        self.unobservable: Counter[tuple[str, str]] = Counter()
        self.chained = False

    def book(self, stage: str, *, incoming: int = 0, outgoing: int = 0) -> None:
        """Count events through a stage."""
        account = self.stages[stage]
        account.incoming += incoming
        account.outgoing += outgoing

    def book_kinds(self, stage: str, **kinds: int) -> None:
        """Count events out of a stage by kind."""
        account = self.stages[stage]
        account.outgoing += sum(kinds.values())
        account.kinds.update(kinds)

    def book_lost(self, stage: str, reason: str, count: int) -> None:
        """Count events that end here, by reason."""
        if count:
            self.stages[stage].lost[reason] += count

    def book_unobservable(self, stage: str, reason: str) -> None:
        """Count an occasion at which an unknown number was lost."""
        self.unobservable[stage, reason] += 1

    def book_failure(self) -> None:
        """Book what a failing stage had not passed on yet as lost there.

        For who moves events along the chain, when moving a batch raised: what the stage
        before has put out and this one has not booked ended here.
        """
        for before, stage in pairwise(CHAIN):
            missing = self.stages[before].handed_on() - self.stages[stage].incoming
            if missing > 0:
                self.book(stage, incoming=missing)
                self.book_lost(stage, INTERNAL_ERROR, missing)

    def between(self) -> dict[tuple[str, str], int]:
        """Neighbours of the chain, and what one put out that the other did not get."""
        if not self.chained:
            return {}
        stages = self.stages
        return {
            (before, stage): stages[before].handed_on() - stages[stage].incoming
            for before, stage in pairwise(CHAIN)
        }

    def imbalance(self) -> dict[str, int]:
        """Where the law does not hold, ``stage`` or ``stage -> stage``; empty when it does."""
        found = {name: account.balance() for name, account in self.stages.items()}
        found |= {f"{before} -> {stage}": n for (before, stage), n in self.between().items()}
        return {name: count for name, count in found.items() if count}
