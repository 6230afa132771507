"""The loss ledger: every stage books what came in, what went out, what was lost and why.

The law: ``in - out - waiting - sum(lost) = 0`` at each stage, and along ``CHAIN`` a stage's
out is the next one's in. What the parser puts out is of several kinds, and only the flows
go on into the history. Where the truth is not knowable, the stage says so
(``NOT_OBSERVABLE``) and does not pretend a zero.

What own probes deliver comes to the parser by a stage of its own, "probes", beside the
chain: it books what the kernel had for them and what of it found no room there.

Two stages are no links of the chain. "kernel" knows only what it lost. "follower" adds up
the requests that follow: each reads the history for itself, from none to many at a time.

Plain integers, touched from one thread; a batch is one booking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

STAGES = ("kernel", "probes", "socket", "framing", "parser", "history", "follower")
"""In the order of an event's way."""

CHAIN = ("socket", "framing", "parser", "history")
"""Stages that hand on to the next one all that they put out, or its flows."""

JOINING = ("probes",)
"""Stages beside the chain that put out to one of it."""

LINKS = (
    ("socket", "framing"), ("framing", "parser"), ("probes", "parser"), ("parser", "history"),
)  # fmt: skip
"""Stages and those that get what they put out: the chain, and what joins it."""

OTHER_SOURCE = "other_source"
"""Why an event of Cilium's ended in the parser while own probes told of the same traffic."""

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
        ("probes", "gap"): "what happened after own probes were detached",
    }
)
"""Closed list of losses whose size nobody can know, with the reason."""


@dataclass(slots=True)
class StageAccount:
    """One stage's books, in events. ``waiting`` is what it still holds.

    ``kinds`` splits ``outgoing`` where a stage puts out more than one kind of event.
    ``joined`` has what came by a stage that joins the chain here, which ``incoming`` includes.
    """

    incoming: int = 0
    outgoing: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    joined: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def balance(self) -> int:
        """0 when every event is accounted for."""
        return self.incoming - self.outgoing - self.waiting - sum(self.lost.values())

    def handed_on(self) -> int:
        """What the next stage of the chain must have got."""
        return self.kinds["flows"] if self.kinds else self.outgoing

    def received_from(self, stage: str) -> int:
        """What it got of that stage."""
        if stage in JOINING:
            return self.joined[stage]
        return self.incoming - sum(self.joined.values())


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

    def book(self, stage: str, *, incoming: int = 0, outgoing: int = 0, before: str = "") -> None:
        """Count events through a stage; ``before``: that they came by, if it joins the chain."""
        account = self.stages[stage]
        account.incoming += incoming
        account.outgoing += outgoing
        if before in JOINING:
            account.joined[before] += incoming

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
        for before, stage in LINKS:
            missing = self._missing(before, stage)
            if missing > 0:
                self.book(stage, incoming=missing, before=before)
                self.book_lost(stage, INTERNAL_ERROR, missing)

    def between(self) -> dict[tuple[str, str], int]:
        """Neighbours of the chain, and what one put out that the other did not get."""
        if not self.chained:
            return {}
        return {(before, stage): self._missing(before, stage) for before, stage in LINKS}

    def _missing(self, before: str, stage: str) -> int:
        return self.stages[before].handed_on() - self.stages[stage].received_from(before)

    def imbalance(self) -> dict[str, int]:
        """Where the law does not hold, ``stage`` or ``stage -> stage``; empty when it does."""
        found = {name: account.balance() for name, account in self.stages.items()}
        found |= {f"{before} -> {stage}": n for (before, stage), n in self.between().items()}
        return {name: count for name, count in found.items() if count}
