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
from api.history.ring import FlowRing
from api.hubble.encode import FlowEncoder
from api.hubble.filters import FlowSelection
from api.hubble.flow_scan import BEGIN, END, FlowScan, Wanted, last_matches
from api.hubble.flow_view import FlowViews
from api.hubble.node import LocalNode
from api.hubble.rpc import LARGEST_MESSAGE, RpcError
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.ledger import Ledger

CHUNK = 100
"""Flows a chunk. A client that does not read holds two of them; more are no quicker."""
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # of a Timestamp
_OVERRUN_INTERVAL = 1_000_000_000  # ns between two reports of a reader that is too slow


def nanoseconds(timestamp: Timestamp) -> int:
    """Since the epoch; what no clock of a flow can show is clipped.

    ``RpcError`` in Hubble's words for what is no time.
    """
    reason = ""
    if timestamp.seconds < _FIRST_SECOND:
        reason = "before 0001-01-01"
    elif timestamp.seconds > _LAST_SECOND:
        reason = "after 9999-12-31"
    elif not 0 <= timestamp.nanos < 1_000_000_000:
        reason = "has out-of-range nanos"
    if reason:
        fields = " ".join(f"{field.name}:{value}" for field, value in timestamp.ListFields())
        raise RpcError("UNKNOWN", f"proto: timestamp ({fields}) {reason}")
    time = int(timestamp.seconds) * 1_000_000_000 + int(timestamp.nanos)
    return min(max(time, BEGIN + 1), END - 1)


def sendable(messages: list[bytes], ledger: Ledger) -> list[bytes]:
    """Without those too large for clients, which are booked as lost."""
    fit = [message for message in messages if len(message) <= LARGEST_MESSAGE]
    left_out = len(messages) - len(fit)
    ledger.book("follower", incoming=left_out)
    ledger.book_lost("follower", "too_large", left_out)
    return fit


class FlowStream:
    """A call over ``history``: iterate over ``chunks``. ``views`` are of its flows."""

    __slots__ = (
        "_after", "_clock", "_encoder", "_ended", "_first_overrun", "_follow", "_history",
        "_last_report", "_ledger", "_lost", "_lost_seen", "_node", "_number", "_old_drops",
        "_oldest_first", "_overrun", "_remaining", "_start", "_views", "_wanted",
    )  # fmt: skip

    def __init__(
        self,
        request: observer_pb2.GetFlowsRequest,
        history: History,
        views: FlowViews,
        selection: FlowSelection,
        encoder: FlowEncoder,
        node: LocalNode,
        ledger: Ledger,
        clock: Callable[[], int],
    ) -> None:
        self._history = history
        self._views = views
        self._encoder = encoder
        self._node = node
        self._ledger = ledger
        self._clock = clock
        self._follow = request.follow
        self._number = request.number
        self._oldest_first = request.first
        self._wanted = Wanted(
            selection,
            nanoseconds(request.since) if request.HasField("since") else BEGIN,
            nanoseconds(request.until) if request.HasField("until") else END,
        )
        self._remaining = None if self._follow or not self._number else self._number
        self._ended = False
        self._overrun = self._first_overrun = self._last_report = 0
        self._start = self._after = history.flows.end
        """The first flow to look at; lost events before position ``_after`` are not ours."""
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
        flows = self._history.flows
        scan = FlowScan(flows, self._views, self._wanted, self._start)
        while not self._ended:
            self._take_lost()
            chunk = self._overrun_report(scan)
            if self._lost and self._lost[0].position <= scan.next:
                chunk.append(self._lost_message(self._lost.popleft()))
            else:
                chunk += self._send_flows(scan)
            if chunk or scan.next < flows.end or self._lost:
                yield chunk
            elif not self._follow:
                return
            elif not self._ended:
                yield None

    def _seek(self) -> Iterator[list[bytes]]:
        """Find the first flow to send."""
        since = self._wanted.since
        if since == BEGIN and self._follow and not self._number:
            self._after = END  # only what is new, also of lost events
            return
        flows = self._history.flows
        old_drops = self._all_old_drops()
        # There is no need to count whether as many match as there are at all.
        is_all = self._number >= len(flows) and old_drops[0] >= old_drops[1]
        if since == BEGIN and (self._oldest_first or not self._number or is_all):
            self._start = self._after = flows.oldest
            self._old_drops = old_drops
        elif since != BEGIN:
            yield from self._seek_time(since)
        else:
            yield from self._seek_last(flows)

    def _seek_time(self, since: int) -> Iterator[list[bytes]]:
        """Behind the newest flow that is older."""
        flows = self._history.flows
        while self._start > flows.oldest:
            position, piece = next(flows.pieces_backwards(flows.oldest, self._start, 1 << 15))
            found = np.flatnonzero(piece.time < since)[-1:]
            self._start = self._after = position + int(found[0]) + 1 if len(found) else position
            if len(found):
                return
            yield []
        self._old_drops = self._all_old_drops()

    def _seek_last(self, flows: FlowRing) -> Iterator[list[bytes]]:
        missing = self._number
        for position, missing in last_matches(
            self._views, flows, self._wanted, self._number, self._start
        ):
            self._start = self._after = position
            if not missing:
                self._after += 1
                return
            yield []
        start, stop = self._all_old_drops()
        drops = self._history.drops
        if drops is not None and start < stop:
            views = FlowViews(drops)
            for start, _ in last_matches(  # noqa: B007  # the last one counts
                views, drops, self._wanted, missing, stop
            ):
                yield []
        self._old_drops = start, stop

    def _all_old_drops(self) -> tuple[int, int]:
        if not self._wanted.selection.only_drops or self._history.drops is None:
            return 0, 0
        return self._history.drops.oldest, self._history.older_drops()

    def _send_old_drops(self) -> Iterator[list[bytes]]:
        drops, (start, stop) = self._history.drops, self._old_drops
        if drops is None or start >= stop:
            return
        scan = FlowScan(drops, FlowViews(drops), self._wanted, start)
        while not self._ended and (scan.next < stop):
            if scan.is_empty:
                scan.look(stop)
            yield self._encoded(scan, stop)
            scan.give_up_overwritten()

    def _send_flows(self, scan: FlowScan) -> list[bytes]:
        """Flows up to the next lost event."""
        flows = self._history.flows
        if scan.is_empty and not scan.beyond:
            passed = scan.look(flows.end)
            self._ledger.book("follower", incoming=passed, outgoing=passed)
        chunk = self._encoded(scan, self._lost[0].position if self._lost else END)
        self._ledger.book("follower", incoming=len(chunk), outgoing=len(chunk))
        return chunk

    def _encoded(self, scan: FlowScan, stop: int) -> list[bytes]:
        """At most ``CHUNK`` of the flows that were found; notes when they were the last."""
        limit = CHUNK if self._remaining is None else min(CHUNK, self._remaining)
        batch = scan.take(limit, stop)
        if self._remaining is not None and batch is not None:
            self._remaining -= len(batch)
        self._ended = self._remaining == 0 or (scan.beyond and scan.is_empty)
        return [] if batch is None else sendable(self._encoder.encode(batch), self._ledger)

    def _take_lost(self) -> None:
        lost = self._history.lost
        if lost.seen != self._lost_seen:
            self._lost.extend(lost.since(self._lost_seen))
            self._lost_seen = lost.seen

    def _overrun_report(self, scan: FlowScan) -> list[bytes]:
        """What the ring overwrote before we read it, summed up once a second."""
        missed = scan.give_up_overwritten()
        if missed:
            self._ledger.book("follower", incoming=missed)
            self._ledger.book_lost("follower", "overtaken", missed)
            self._first_overrun = self._first_overrun or self._clock()
            self._overrun += missed
        if not self._overrun or self._clock() - self._last_report < _OVERRUN_INTERVAL:
            return []
        now = self._last_report = self._clock()
        event = flow_pb2.LostEvent(
            source=flow_pb2.HUBBLE_RING_BUFFER, num_events_lost=self._overrun
        )
        event.first.FromNanoseconds(self._first_overrun)
        event.last.FromNanoseconds(now)
        self._overrun = self._first_overrun = 0
        return [self._lost_message(PastEvent(scan.next, now, event))]

    def _lost_message(self, event: PastEvent[flow_pb2.LostEvent]) -> bytes:
        response = observer_pb2.GetFlowsResponse(node_name=self._node.name)
        response.lost_events.CopyFrom(event.event)
        response.time.FromNanoseconds(event.time)
        return response.SerializeToString()
