"""DNS queries and their answers, each once, however many interfaces see them.

An exchange is known by the client's address and port, the number in the message and the
transport. The server's address is no part of it: behind a service it differs between query
and answer, as translation changes it on the way.

Each exchange belongs to the interface that saw its query first: the client's own, if that
leads to a pod of this node, as a pod's interface is where its packets begin. What other
interfaces see of it is left out. A query that a covered interface had before and that now
leaves under another source address (SNAT) is remembered, so that its answer is left out
where it comes in, and told where it reaches the client.

All of it is bounded: by time, and by ``MOST_OPEN`` exchanges.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

MOST_OPEN = 10_000
"""Exchanges that wait for their answers; beyond it the oldest are given up."""

PATIENCE_NS = 5_000_000_000
"""After which a query counts as unanswered; resolvers ask again after 5 s."""


ExchangeKey: TypeAlias = bytes
"""The client's address and port, the transport and the number, in any form."""


class Sighting(NamedTuple):
    """Where and when a message was seen. ``came_by_covered``: on its way out, and an
    observed interface had it before.
    """

    time_ns: int
    ifindex: int
    came_by_covered: bool


@dataclass(slots=True)
class OpenQuery:
    """A query without an answer yet. ``about`` is what its finder wants to know later."""

    time_ns: int
    ifindex: int  # 0 for one that was told of under another key
    about: object


class Exchanges:
    """Matches what is seen, in the order of time.

    ``patience_ns``: after which a query is unanswered; ``given_up`` for want of room.
    """

    __slots__ = ("_open", "given_up", "patience_ns")

    def __init__(self, patience_ns: int = PATIENCE_NS) -> None:
        self.patience_ns = patience_ns
        self._open: OrderedDict[ExchangeKey, OpenQuery] = OrderedDict()
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._open)

    def query(self, key: ExchangeKey, seen: Sighting, about: object) -> bool:
        """Whether this sighting of a query is the one to tell of."""
        known = self._open.get(key)
        if known is not None and known.ifindex != seen.ifindex:
            return False
        if seen.came_by_covered:
            if known is None:
                self._remember(key, OpenQuery(seen.time_ns, 0, about))
            return False
        # asked again: the answer's latency counts from the first time
        if known is None:
            self._remember(key, OpenQuery(seen.time_ns, seen.ifindex, about))
        return True

    def answer(self, key: ExchangeKey, seen: Sighting) -> tuple[bool, OpenQuery | None]:
        """Whether this sighting is the one to tell of, and the query it answers."""
        known = self._open.get(key)
        if known is None:
            return not seen.came_by_covered, None
        if known.ifindex != seen.ifindex:
            if not known.ifindex:
                del self._open[key]
            return False, None
        del self._open[key]
        return True, known

    def unanswered(self, now_ns: int) -> list[tuple[ExchangeKey, OpenQuery]]:
        """Queries whose time is up, which are forgotten with that."""
        found = []
        while self._open:
            key, known = next(iter(self._open.items()))
            if known.time_ns + self.patience_ns > now_ns:
                break
            del self._open[key]
            if known.ifindex:
                found.append((key, known))
        return found

    def _remember(self, key: ExchangeKey, query: OpenQuery) -> None:
        if len(self._open) >= MOST_OPEN:
            self._open.popitem(last=False)
            self.given_up += 1
        self._open[key] = query
