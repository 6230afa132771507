"""The loss ledger: every stage books what came in, what went out, what was lost and why.

The law: ``in - out - sum(lost) = 0`` at each stage, and a stage's out is the next one's
in. Where the truth is not knowable, the stage says so (``NOT_OBSERVABLE``) and does not
pretend a zero.

Plain integers, touched from one thread; a batch is one booking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

STAGES = ("kernel", "socket", "framing", "parser", "history", "follower", "exporter")
"""In the order of an event's way."""

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
    """One stage's books, in events. ``waiting`` is what it still holds."""

    incoming: int = 0
    outgoing: int = 0
    waiting: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def balance(self) -> int:
        """0 when every event is accounted for."""
        return self.incoming - self.outgoing - self.waiting - sum(self.lost.values())


class Ledger:
    """All stages of one pipeline."""

    __slots__ = ("stages", "unobservable")

    def __init__(self) -> None:
        self.stages: dict[str, StageAccount] = {name: StageAccount() for name in STAGES}
        self.unobservable: Counter[tuple[str, str]] = Counter()

    def book(self, stage: str, *, incoming: int = 0, outgoing: int = 0) -> None:
        """Count events through a stage."""
        account = self.stages[stage]
        account.incoming += incoming
        account.outgoing += outgoing

    def book_lost(self, stage: str, reason: str, count: int) -> None:
        """Count events that end here, by reason."""
        if count:
            self.stages[stage].lost[reason] += count

    def book_unobservable(self, stage: str, reason: str) -> None:
        """Count an occasion at which an unknown number was lost."""
        self.unobservable[stage, reason] += 1

    def imbalance(self) -> dict[str, int]:
        """Stages whose books do not balance; empty when the law holds."""
        return {n: a.balance() for n, a in self.stages.items() if a.balance()}
