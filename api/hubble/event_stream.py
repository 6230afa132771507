"""One GetAgentEvents or GetDebugEvents call: a cursor in a queue of events.

The rules are those of GetFlows (see ``api.hubble.flow_stream``) without filters: order of
arrival, ``number`` counts what is returned, the newest event is there at once. Answers
have no place for a lost event: what the queue dropped before a slow client came to it is
booked and not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeAlias, TypeVar

from api.history import EventQueue, PastEvent
from api.hubble.flow_stream import nanoseconds, sendable
from api.hubble.rpc import RpcError
from api.v1.observer import observer_pb2
from parsers.ledger import Ledger

T = TypeVar("T")

CHUNK = 100  # events a chunk: about 1 ms to encode

Request: TypeAlias = observer_pb2.GetAgentEventsRequest | observer_pb2.GetDebugEventsRequest


class EventStream(Generic[T]):
    """A call over ``queue``: iterate over ``chunks``. ``encode`` makes an event's answer."""

    __slots__ = ("_encode", "_ledger", "_queue", "_request", "_since", "_until")

    def __init__(
        self,
        request: Request,
        queue: EventQueue[T],
        encode: Callable[[PastEvent[T]], bytes],
        ledger: Ledger,
    ) -> None:
        if request.first and request.follow:
            raise RpcError("INVALID_ARGUMENT", "first cannot be specified with follow")
        self._request = request
        self._queue = queue
        self._encode = encode
        self._ledger = ledger
        self._since = nanoseconds(request.since) if request.HasField("since") else None
        self._until = nanoseconds(request.until) if request.HasField("until") else None

    def chunks(self) -> Iterator[list[bytes] | None]:
        """What to send, in order; None when there is nothing until more was published."""
        follow = self._request.follow
        remaining = None if follow or not self._request.number else self._request.number
        position = self._start()
        while True:
            position += self._book_dropped(position)
            events = self._queue.since(position)[:CHUNK]
            position += len(events)
            late = next((i for i, event in enumerate(events) if self._is_late(event)), None)
            wanted = [event for event in events[:late] if not self._is_early(event)][:remaining]
            messages = sendable([self._encode(event) for event in wanted], self._ledger)
            passed = len(events) - len(wanted) + len(messages)
            self._ledger.book("follower", incoming=passed, outgoing=passed)
            if messages:
                yield messages
            if remaining is not None:
                remaining -= len(wanted)
            if late is not None or remaining == 0 or (not events and not follow):
                return
            if not events:
                yield None

    def _start(self) -> int:
        """The number of the first event to look at."""
        queue, number = self._queue, self._request.number
        if self._since is None and self._request.follow and not number:
            return queue.seen
        events = queue.since(queue.oldest)
        if self._since is not None:
            passed_over = [i for i, event in enumerate(events) if self._is_early(event)]
            return queue.oldest + (passed_over[-1] + 1 if passed_over else 0)
        if self._request.first or not number:
            return queue.oldest
        counted = [i for i, event in enumerate(events) if not self._is_late(event)][-number:]
        return queue.oldest + counted[0] if counted else queue.seen

    def _book_dropped(self, position: int) -> int:
        dropped = max(0, self._queue.oldest - position)
        self._ledger.book("follower", incoming=dropped)
        self._ledger.book_lost("follower", "overtaken", dropped)
        return dropped

    def _is_early(self, event: PastEvent[T]) -> bool:
        return self._since is not None and event.time < self._since

    def _is_late(self, event: PastEvent[T]) -> bool:
        return self._until is not None and event.time > self._until
