"""One GetFlows call: where it starts, what it skips, when it ends.

A call is a cursor in the history and nothing else, so history joins follow without gap or
double, and a client that does not read costs no memory: when the ring overtakes its cursor,
the flows in between are lost to it, which is booked (stage "follower") and told to it as a
``LostEvent``.

Rules are Hubble's (order of arrival; filters, ``since`` and ``number`` do not touch lost
events; the first event after ``until`` ends the call). Better than there, on purpose:

- the newest flow is there at once,
- ``number`` counts the flows that are returned: no agent or debug events, none after
  ``until``,
- requests that can match only drops also get those that the main ring has lost already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from api.history import History, PastEvent
from api.hubble.encode import FlowEncoder
from api.hubble.filters import FlowSelection
from api.hubble.node import LocalNode
from api.hubble.row_test import Mask
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.flow_batch import FlowBatch
from parsers.ledger import Ledger

CHUNK = 500  # flows a chunk: 1-2 ms to encode
_WIDEST = 1 << 15  # flows looked at in one step when few match: 1-2 ms of masks
_BEGIN, _END = -(2**63), 2**63 - 1
_OVERRUN_INTERVAL = 1_000_000_000  # ns between two reports of a reader that is too slow


def nanoseconds(timestamp: Timestamp) -> int:
    """Since the epoch; what no clock of a flow can show is clipped."""
    time = int(timestamp.seconds) * 1_000_000_000 + int(timestamp.nanos)
    return min(max(time, _BEGIN + 1), _END - 1)


class FlowStream:
    """A call over ``history``: iterate over ``chunks``."""

    __slots__ = (
        "_after", "_clock", "_encoder", "_ended", "_first_overrun", "_follow", "_history",
        "_last_report", "_ledger", "_lost", "_lost_seen", "_node", "_number", "_old_drops",
        "_oldest_first", "_overrun", "_position", "_remaining", "_selection", "_since", "_until",
        "_width",
    )  # fmt: skip

    def __init__(
        self,
        request: observer_pb2.GetFlowsRequest,
        history: History,
        selection: FlowSelection,
        encoder: FlowEncoder,
        node: LocalNode,
        ledger: Ledger,
        clock: Callable[[], int],
    ) -> None:
        self._history = history
        self._selection = selection
        self._encoder = encoder
        self._node = node
        self._ledger = ledger
        self._clock = clock
        self._follow = request.follow
        self._number = request.number
        self._oldest_first = request.first
        self._since = nanoseconds(request.since) if request.HasField("since") else _BEGIN
        self._until = nanoseconds(request.until) if request.HasField("until") else _END
        self._remaining = None if self._follow or not self._number else self._number
        self._ended = False
        self._width = CHUNK
        self._overrun = self._first_overrun = self._last_report = 0
        self._position = self._after = history.flows.end
        """The next flow to look at; lost events before position ``_after`` are not ours."""
        self._old_drops = 0, 0
        """Positions in the ring of drops that come before the flows."""
        self._lost: deque[PastEvent[flow_pb2.LostEvent]] = deque()
        self._lost_seen = history.lost.seen

    def chunks(self) -> Iterator[list[bytes] | None]:
        """What to send, in order; None when there is nothing until more was published.

        A chunk may be empty: that is a good moment for others to run.
        """
        yield from self._seek()
        self._lost.extend(e for e in self._history.lost.since(0) if e.position >= self._after)
        self._lost_seen = self._history.lost.seen
        yield from self._send_old_drops()
        while not self._ended:
            self._take_lost()
            chunk = self._overrun_report()
            chunk += self._send_flows()
            at_end = self._position >= self._history.flows.end and not self._lost
            if chunk or not at_end:
                yield chunk
            elif not self._follow:
                return
            else:
                yield None

    def _seek(self) -> Iterator[list[bytes]]:
        """Find the first flow to send."""
        if self._since == _BEGIN and self._follow and not self._number:
            self._after = _END  # only what is new, also of lost events
            return
        if self._since == _BEGIN and (self._oldest_first or not self._number):
            self._position = self._after = self._history.flows.oldest
            self._old_drops = self._all_old_drops()
            return
        missing = self._number
        flows = self._history.flows
        while self._position > flows.oldest:
            position, piece = next(flows.pieces_backwards(flows.oldest, self._position, _WIDEST))
            if self._since != _BEGIN:
                found = np.flatnonzero(piece.time < self._since)
                if len(found):
                    self._position = self._after = position + int(found[-1]) + 1
                    return
            else:
                found = np.flatnonzero(self._mask(piece))
                if len(found) >= missing:
                    self._position = position + int(found[len(found) - missing])
                    self._after = self._position + 1
                    return
                missing -= len(found)
            self._position = self._after = position
            yield []
        self._old_drops = self._all_old_drops()
        if self._since == _BEGIN:
            self._old_drops = self._newest_old_drops(missing)

    def _all_old_drops(self) -> tuple[int, int]:
        if not self._selection.only_drops or self._history.drops is None:
            return 0, 0
        return self._history.drops.oldest, self._history.older_drops()

    def _newest_old_drops(self, missing: int) -> tuple[int, int]:
        start, stop = self._old_drops
        drops = self._history.drops
        if drops is not None and start < stop:
            for position, piece in drops.pieces_backwards(start, stop, _WIDEST):
                found = np.flatnonzero(self._mask(piece))
                if len(found) >= missing:
                    return position + int(found[len(found) - missing]), stop
                missing -= len(found)
        return start, stop

    def _send_old_drops(self) -> Iterator[list[bytes]]:
        position, stop = self._old_drops
        drops = self._history.drops
        while drops is not None and not self._ended:
            piece = next(drops.pieces(position, stop, self._width), None)
            if piece is None:
                return
            chunk, position = self._select(*piece)
            yield chunk

    def _send_flows(self) -> list[bytes]:
        """Lost events that are due, or the flows up to the next of them."""
        flows = self._history.flows
        stop = flows.end
        if self._lost:
            if self._lost[0].position <= self._position:
                return [self._lost_message(self._lost.popleft())]
            stop = min(stop, self._lost[0].position)
        piece = next(flows.pieces(self._position, stop, self._width), None)
        if piece is None:
            return []
        chunk, end = self._select(*piece)
        count = end - self._position
        self._ledger.book("follower", incoming=count, outgoing=count)
        self._position = end
        return chunk

    def _mask(self, piece: FlowBatch) -> Mask:
        mask = self._selection.mask(piece)
        if self._since != _BEGIN:
            mask &= piece.time >= self._since
        if self._until != _END:
            mask &= piece.time <= self._until
        return mask

    def _select(self, position: int, piece: FlowBatch) -> tuple[list[bytes], int]:
        """At most ``CHUNK`` encoded flows of a piece, and the position to go on from.

        The width of the next piece follows from how many matched, so that a selective
        filter is not a chunk of nothing again and again.
        """
        end = position + len(piece)
        beyond = np.flatnonzero(piece.time > self._until)[:1]
        matches = np.flatnonzero(self._mask(piece))
        limit = CHUNK if self._remaining is None else min(CHUNK, self._remaining)
        if len(beyond):
            matches = matches[matches < beyond[0]]
        if len(matches) > limit:
            matches = matches[:limit]
            end = position + int(matches[-1]) + 1
        else:
            self._ended = bool(len(beyond))
        if len(matches) == limit:
            self._width = CHUNK
        elif len(matches) < CHUNK // 4:
            self._width = min(2 * self._width, _WIDEST)
        if self._remaining is not None:
            self._remaining -= len(matches)
            self._ended |= not self._remaining
        return self._encoder.encode(piece.select(matches)), end

    def _take_lost(self) -> None:
        lost = self._history.lost
        if lost.seen != self._lost_seen:
            self._lost.extend(lost.since(self._lost_seen))
            self._lost_seen = lost.seen

    def _overrun_report(self) -> list[bytes]:
        """What the ring overwrote before we read it, summed up once a second."""
        missed = self._history.flows.oldest - self._position
        if missed > 0:
            self._ledger.book("follower", incoming=missed)
            self._ledger.book_lost("follower", "overtaken", missed)
            self._first_overrun = self._first_overrun or self._clock()
            self._overrun += missed
            self._position += missed
        if not self._overrun or self._clock() - self._last_report < _OVERRUN_INTERVAL:
            return []
        now = self._last_report = self._clock()
        event = flow_pb2.LostEvent(
            source=flow_pb2.HUBBLE_RING_BUFFER, num_events_lost=self._overrun
        )
        event.first.FromNanoseconds(self._first_overrun)
        event.last.FromNanoseconds(now)
        self._overrun = self._first_overrun = 0
        return [self._lost_message(PastEvent(self._position, now, event))]

    def _lost_message(self, event: PastEvent[flow_pb2.LostEvent]) -> bytes:
        response = observer_pb2.GetFlowsResponse(node_name=self._node.name)
        response.lost_events.CopyFrom(event.event)
        response.time.FromNanoseconds(event.time)
        return response.SerializeToString()
