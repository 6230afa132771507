"""Agent and debug events, nodes and namespaces: Hubble's own server was asked the same.

Better on purpose: the ``NEWEST`` event is there, which Hubble cannot read; and in ``BETTER``
only what is returned counts towards the number.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from google.protobuf.json_format import MessageToDict, ParseDict

from api.history import History
from api.history.history import KEPT_EVENTS
from api.hubble.event_stream import CHUNK
from api.hubble.namespaces import LIFETIME, Namespaces
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.hubble.rpc import RpcError, Streaming, Unary
from api.v1.observer import observer_pb2
from parsers.agent_events import AgentEvent, AgentStart
from parsers.ledger import Ledger
from parsers.pipeline import AgentRecord, ParsedBatch
from tests.api.hubble.from_json import batch_of, flows_of, new_tables
from tests.fixtures import FIXTURES, expected, stream_bytes, world
from tests.parsers.recorded import Parser, batches

RECORDED = [
    json.loads(line)
    for line in lzma.decompress(
        (FIXTURES / "v1.20" / "requests.jsonl.xz").read_bytes()
    ).splitlines()
]
EVENTS = [r for r in RECORDED if r["method"] in {"GetAgentEvents", "GetDebugEvents"}]
NEWEST = len(expected("v1.20", "all")) - 1
KIND = {"GetAgentEvents": "agent", "GetDebugEvents": "debug"}
BETTER: dict[tuple[str, str], Callable[[list[int]], list[int]]] = {
    ("GetAgentEvents", "last-3"): lambda events: events[-3:],
    ("GetDebugEvents", "last-3"): lambda events: events[-3:],
}


@pytest.fixture(scope="module")
def observer() -> Observer:
    """Over everything there is in the stream."""
    parser = Parser(world("v1.20"), (1, 20))
    history = History(parser.tables, Ledger(), 65535)
    observer = Observer(history, LocalNode("oracle/node-a"), Ledger())
    for batch in batches(stream_bytes("v1.20", "all"), [50_000] * 40):
        observer.publish(parser.parse(batch))
    return observer


async def answers(observer: Observer, method: str, request: dict[str, Any]) -> list[Any]:
    called = observer.methods()[f"/observer.Observer/{method}"]
    message = ParseDict(request, called.request())
    response = getattr(observer_pb2, f"{method}Response")
    if isinstance(called, Unary):
        return [response.FromString(called.answer(message))]
    assert isinstance(called, Streaming)
    return [response.FromString(data) async for chunk in called.stream(message) for data in chunk]


def index(response: Any) -> int:
    clock = world("v1.20")
    begin = ParseDict({"time": clock["base_time"]}, observer_pb2.GetFlowsResponse()).time
    since: int = response.time.ToNanoseconds() - begin.ToNanoseconds()
    return since // int(clock["step_ns"])


@pytest.mark.parametrize(
    "recorded", EVENTS, ids=lambda r: f"{r['method']}-{r['name']}-{r['max_flows']}"
)
async def test_a_request_gets_the_events_that_hubble_sent(
    recorded: dict[str, Any], observer: Observer
) -> None:
    method = recorded["method"]
    if "code" in recorded:
        with pytest.raises(RpcError) as caught:
            await answers(observer, method, recorded["request"])
        assert caught.value.code.replace("_", "") == recorded["code"].upper()
        assert str(caught.value) == recorded["message"]
        return
    got = await answers(observer, method, recorded["request"])
    better = BETTER.get((method, recorded["name"]))
    if better is None:
        assert [index(r) for r in got if index(r) != NEWEST] == recorded["result"]
    else:
        kind = KIND[method]
        every = [line["i"] for line in expected("v1.20", "all") if line["kind"] == kind]
        assert [index(r) for r in got] == better(every)
    shown = {index(r): MessageToDict(r, preserving_proto_field_name=True) for r in got}
    for wanted in recorded.get("responses", ()):
        at = index(ParseDict(wanted, getattr(observer_pb2, f"{method}Response")()))
        assert shown.get(at, wanted) == wanted


async def test_the_namespaces_are_those_that_hubble_named(observer: Observer) -> None:
    (wanted,) = (r["responses"] for r in RECORDED if r["method"] == "GetNamespaces")
    got = await answers(observer, "GetNamespaces", {})
    assert [MessageToDict(r, preserving_proto_field_name=True) for r in got] == wanted


async def test_the_node_answers_for_itself() -> None:
    tables = new_tables()
    node = LocalNode("prod.a/node.b", address="10.0.0.1:4244", tls=True)
    observer = Observer(History(tables, Ledger(), 100), node, Ledger(), version="ciliary v1")
    (answer,) = await answers(observer, "GetNodes", {})
    shown = MessageToDict(answer, preserving_proto_field_name=True)["nodes"]
    assert int(shown[0].pop("uptime_ns")) >= 0
    assert shown == [
        {
            "name": "prod.a/node.b",
            "version": "ciliary v1",
            "address": "10.0.0.1:4244",
            "state": "NODE_CONNECTED",
            "tls": {"enabled": True, "server_name": "node-b.prod-a.hubble-grpc.cilium.io"},
            "max_flows": "100",
        }
    ]


def test_a_namespace_is_forgotten_an_hour_after_its_last_flow() -> None:
    tables = new_tables()
    flows = batch_of(flows_of("v1.20", "steady"), tables)
    seen = Namespaces()
    seen.see(flows, 0)
    every = seen.names(LIFETIME)
    assert every
    seen.see(flows.select(np.arange(1)), LIFETIME // 2)
    assert 1 <= len(seen.names(LIFETIME + 1)) <= 2
    assert seen.names(2 * LIFETIME) == []
    kept = Namespaces(lifetime=None)
    kept.see(flows, 0)
    assert kept.names(100 * LIFETIME) == every


class Feed:
    """An observer to which agent events are published, and one client of it."""

    def __init__(self) -> None:
        self.tables = new_tables()
        self.ledger = Ledger()
        history = History(self.tables, self.ledger, 100)
        self.observer = Observer(history, LocalNode("node"), self.ledger)
        self.received: list[int] = []

    def publish(self, start: int, stop: int) -> None:
        events = [AgentRecord(i, i, AgentEvent(2, AgentStart(i))) for i in range(start, stop)]
        none = batch_of(flows_of("v1.20", "steady")[:1], self.tables).select(np.arange(0))
        self.observer.publish(ParsedBatch(len(events), none, agent_events=events))

    async def read(self, gate: trio.Event | None = None, **request: Any) -> None:
        chunks: AsyncIterator[list[bytes]] = self.observer.get_agent_events(
            observer_pb2.GetAgentEventsRequest(**request)
        )
        async for chunk in chunks:
            for data in chunk:
                self.received.append(
                    observer_pb2.GetAgentEventsResponse.FromString(data).time.ToNanoseconds()
                )
            if gate is not None:
                await gate.wait()


async def test_events_of_the_past_and_later_ones_are_joined(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed.publish(0, 250)
    nursery.start_soon(lambda: feed.read(follow=True, number=30))
    await trio.testing.wait_all_tasks_blocked()
    assert feed.received == list(range(220, 250))
    feed.publish(250, 260)
    await trio.testing.wait_all_tasks_blocked()
    assert feed.received == list(range(220, 260))
    nursery.cancel_scope.cancel()


async def test_following_without_number_begins_with_what_is_new(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed.publish(0, 10)
    nursery.start_soon(lambda: feed.read(follow=True))
    await trio.testing.wait_all_tasks_blocked()
    feed.publish(10, 12)
    await trio.testing.wait_all_tasks_blocked()
    assert feed.received == [10, 11]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({"since": 5, "number": 3}, [5, 6, 7]),
        ({"since": 5, "until": 6}, [5, 6]),
        ({"until": 6, "number": 3}, [4, 5, 6]),
        ({"until": 6, "number": 3, "first": True}, [0, 1, 2]),
        ({"number": 2**64 - 1}, list(range(10))),
        ({"since": 100}, []),
        ({"since": 8, "first": True}, [8, 9]),
    ],
)
async def test_numbers_and_times_together(request_: dict[str, Any], wanted: list[int]) -> None:
    feed = Feed()
    feed.publish(0, 10)
    request = observer_pb2.GetAgentEventsRequest(
        number=request_.get("number", 0), first=request_.get("first", False)
    )
    for name in ("since", "until"):
        if name in request_:
            getattr(request, name).FromNanoseconds(request_[name])
    await feed.read(
        number=request.number,
        first=request.first,
        since=request.since if "since" in request_ else None,
        until=request.until if "until" in request_ else None,
    )
    assert feed.received == wanted


async def test_events_that_a_slow_client_missed_are_booked(nursery: trio.Nursery) -> None:
    feed = Feed()
    feed.publish(0, CHUNK)
    gate = trio.Event()
    nursery.start_soon(lambda: feed.read(gate, follow=True, number=CHUNK))
    await trio.testing.wait_all_tasks_blocked()
    assert len(feed.received) == CHUNK
    feed.publish(CHUNK, CHUNK + KEPT_EVENTS + 7)
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert feed.received[CHUNK:] == list(range(CHUNK + 7, CHUNK + KEPT_EVENTS + 7))
    account = feed.ledger.stages["follower"]
    assert (account.lost, account.balance()) == ({"overtaken": 7}, 0)
    nursery.cancel_scope.cancel()
