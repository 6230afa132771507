"""The Observer service: what the pipeline publishes, and the answers made of it.

``Observer.publish`` is called by the pipeline with each parsed batch, in the trio thread;
it stores the batch and wakes whoever follows. Calls read from the history (see
``api.hubble.flow_stream``); nothing here waits for a client.

Encoders are shared by calls with the same field mask, so that their caches pay.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from weakref import WeakValueDictionary

import numpy as np
import trio

from api.history import History, PastEvent
from api.hubble.encode import FlowEncoder
from api.hubble.event_stream import EventStream
from api.hubble.events import agent_event_message, debug_event_message, lost_event_message
from api.hubble.filters import FlowSelection
from api.hubble.flow_stream import FlowStream
from api.hubble.flow_view import FlowViews
from api.hubble.mask import FieldMask, mask_paths
from api.hubble.namespaces import Namespaces
from api.hubble.node import LocalNode
from api.hubble.rpc import Chunks, RpcError, Streaming, Unary
from api.v1.observer import observer_pb2
from api.v1.relay import relay_pb2
from parsers.errors import UsageError
from parsers.ledger import Ledger
from parsers.pipeline import AgentRecord, DebugRecord, LostRecords, ParsedBatch

SERVICE = "hubble.server.Observer"
"""The name clients ask the health service for."""

_OBSERVER = "/observer.Observer/"
_MASKS = 8  # encoders kept; the CLI's default mask and none are nearly all there is
_MOST_FILTERS, _LARGEST = 1000, 1 << 17
"""What a request's filters may be at most: compiling them holds the loop, some 10 µs a value."""
_RATE_WINDOW = 60 * 10**9


class Observer:
    """The API over one history.

    ``version`` is shown by ``hubble status``; ``clock`` gives ns since the epoch. Namespaces
    are forgotten when no flow shows them for an hour, unless told otherwise.
    """

    def __init__(
        self,
        history: History,
        node: LocalNode,
        ledger: Ledger,
        *,
        version: str = "ciliary",
        clock: Callable[[], int] = time.time_ns,
        namespaces: Namespaces | None = None,
    ) -> None:
        self.history = history
        self.node = node
        self._ledger = ledger
        self._version = version
        self._clock = clock
        self._started = clock()
        self._published = trio.Event()
        self._namespaces = namespaces or Namespaces()
        self._encoders: OrderedDict[tuple[str, ...], FlowEncoder] = OrderedDict()
        self._views = FlowViews(history.flows)
        self._selections: WeakValueDictionary[tuple[bytes, ...], FlowSelection] = (
            WeakValueDictionary()
        )
        self.followers = 0
        """Calls that wait for new flows now."""

    def publish(self, parsed: ParsedBatch) -> None:
        """Make a batch visible to all calls. Not from another thread than trio's."""
        history = self.history
        for lost in parsed.lost_events:
            message = lost_event_message(lost)
            history.lost.add(PastEvent(self._position(parsed, lost), lost.time, message))
        for agent in parsed.agent_events:
            history.agent.add(PastEvent(self._position(parsed, agent), agent.time, agent))
        for debug in parsed.debug_events:
            history.debug.add(PastEvent(self._position(parsed, debug), debug.time, debug))
        self._namespaces.see(parsed.flows, self._clock())
        history.append(parsed.flows)
        self._wake()

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """For an engine."""
        return {
            _OBSERVER + "GetFlows": Streaming(observer_pb2.GetFlowsRequest, self.get_flows),
            _OBSERVER + "GetAgentEvents": Streaming(
                observer_pb2.GetAgentEventsRequest, self.get_agent_events
            ),
            _OBSERVER + "GetDebugEvents": Streaming(
                observer_pb2.GetDebugEventsRequest, self.get_debug_events
            ),
            _OBSERVER + "GetNodes": Unary(
                observer_pb2.GetNodesRequest, lambda _: self.nodes().SerializeToString()
            ),
            _OBSERVER + "GetNamespaces": Unary(
                observer_pb2.GetNamespacesRequest, lambda _: self.namespaces().SerializeToString()
            ),
            _OBSERVER + "ServerStatus": Unary(
                observer_pb2.ServerStatusRequest,
                lambda _: self.server_status().SerializeToString(),
            ),
        }

    def get_flows(self, request: observer_pb2.GetFlowsRequest) -> Chunks:
        """Serialized ``GetFlowsResponse`` messages; raises ``RpcError`` before the first."""
        return self._follow(lambda: self._flow_stream(request).chunks())

    def get_agent_events(self, request: observer_pb2.GetAgentEventsRequest) -> Chunks:
        """Serialized ``GetAgentEventsResponse`` messages, as above."""

        def encode(past: PastEvent[AgentRecord]) -> bytes:
            answer = observer_pb2.GetAgentEventsResponse(
                agent_event=agent_event_message(past.event.event), node_name=self.node.name
            )
            answer.time.FromNanoseconds(past.time)
            return answer.SerializeToString()

        queue = self.history.agent
        return self._follow(lambda: EventStream(request, queue, encode, self._ledger).chunks())

    def get_debug_events(self, request: observer_pb2.GetDebugEventsRequest) -> Chunks:
        """Serialized ``GetDebugEventsResponse`` messages, as above."""

        def encode(past: PastEvent[DebugRecord]) -> bytes:
            answer = observer_pb2.GetDebugEventsResponse(
                debug_event=debug_event_message(past.event), node_name=self.node.name
            )
            answer.time.FromNanoseconds(past.time)
            return answer.SerializeToString()

        queue = self.history.debug
        return self._follow(lambda: EventStream(request, queue, encode, self._ledger).chunks())

    async def _follow(self, begin: Callable[[], Iterator[list[bytes] | None]]) -> Chunks:
        for chunk in begin():
            if chunk is None:
                await self._next_publication()
            elif chunk:
                yield chunk
            else:
                await trio.lowlevel.checkpoint()

    def nodes(self) -> observer_pb2.GetNodesResponse:
        """This node. Hubble's own servers leave that to a relay; a UI without one asks us."""
        status, node = self.server_status(), self.node
        return observer_pb2.GetNodesResponse(
            nodes=[
                observer_pb2.Node(
                    name=node.name,
                    version=status.version,
                    address=node.address,
                    state=relay_pb2.NODE_CONNECTED,
                    tls=observer_pb2.TLS(enabled=node.tls, server_name=node.server_name),
                    uptime_ns=status.uptime_ns,
                    num_flows=status.num_flows,
                    max_flows=status.max_flows,
                    seen_flows=status.seen_flows,
                )
            ]
        )

    def namespaces(self) -> observer_pb2.GetNamespacesResponse:
        """Namespaces of the endpoints in flows."""
        return observer_pb2.GetNamespacesResponse(
            namespaces=[
                observer_pb2.Namespace(cluster=self.node.cluster, namespace=name)
                for name in self._namespaces.names(self._clock())
            ]
        )

    def server_status(self) -> observer_pb2.ServerStatusResponse:
        """Fill of the history, flows seen, rate of the last minute."""
        flows = self.history.flows
        return observer_pb2.ServerStatusResponse(
            num_flows=len(flows),
            max_flows=flows.capacity,
            seen_flows=flows.end,
            uptime_ns=self._clock() - self._started,
            version=self._version,
            flows_rate=self._flows_rate(),
        )

    def _flow_stream(self, request: observer_pb2.GetFlowsRequest) -> FlowStream:
        if request.first and request.follow:
            raise RpcError("INVALID_ARGUMENT", "first cannot be specified with follow")
        try:
            selection = self._selection(request)
            encoder = self._encoder(FieldMask(mask_paths(request)))
        except UsageError as error:
            raise RpcError("UNKNOWN", str(error)) from None  # as Hubble does for both
        return FlowStream(
            request, self.history, self._views, selection, encoder, self.node, self._ledger,
            self._clock,
        )  # fmt: skip

    def _selection(self, request: observer_pb2.GetFlowsRequest) -> FlowSelection:
        """The selection of a request; that of another call that asks the same."""
        black = [one.SerializeToString(deterministic=True) for one in request.blacklist]
        white = [one.SerializeToString(deterministic=True) for one in request.whitelist]
        if len(white) + len(black) > _MOST_FILTERS or sum(map(len, white + black)) > _LARGEST:
            raise RpcError(
                "INVALID_ARGUMENT",
                f"filters are too large; use at most {_MOST_FILTERS} of {_LARGEST} bytes together",
            )
        key = (*white, b"not", *black)
        found = self._selections.get(key)
        if found is None:
            found = self._selections[key] = FlowSelection(
                self.history.tables, self.node, request.whitelist, request.blacklist
            )
        return found

    def _encoder(self, mask: FieldMask) -> FlowEncoder:
        encoder = self._encoders.pop(mask.paths, None)
        if encoder is None:
            encoder = FlowEncoder(self.history.tables, self.node, mask)
            while len(self._encoders) >= _MASKS:
                self._encoders.popitem(last=False)
        self._encoders[mask.paths] = encoder
        return encoder

    def _flows_rate(self) -> float:
        """Flows a second of the last minute, or of the time the history spans."""
        now, flows = self._clock(), self.history.flows
        count, oldest = 0, now
        for _, piece in flows.pieces_backwards(flows.oldest, flows.end, 1 << 16):
            recent = piece.time >= now - _RATE_WINDOW
            if not recent.all():
                return (count + int(recent[::-1].argmin())) / 60
            count += len(piece)
            oldest = int(piece.time[0])
        return count * 1e9 / (now - oldest) if now > oldest else 0.0

    def _position(
        self, parsed: ParsedBatch, record: LostRecords | AgentRecord | DebugRecord
    ) -> int:
        """Of the flow that comes next after the record; before ``parsed`` is appended."""
        before = int(np.searchsorted(parsed.flows.sequence, record.sequence))
        return self.history.flows.end + before

    def _wake(self) -> None:
        self._published.set()
        self._published = trio.Event()

    async def _next_publication(self) -> None:
        self.followers += 1
        try:
            await self._published.wait()
        finally:
            self.followers -= 1
