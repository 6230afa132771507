from __future__ import annotations

from contextlib import aclosing
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from api.history import History
from api.hubble.flow_stream import CHUNK
from api.hubble.observer import Observer
from api.hubble.rpc import LARGEST_MESSAGE
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.flow_batch import FlowBatch
from parsers.ledger import Ledger
from parsers.pipeline import LostRecords, ParsedBatch
from tests.api.hubble.from_json import batch_of, flows_of, interfaces_of, new_tables, node_of

FLOWS = flows_of("v1.20", "steady")
DROPS = [int(f["uuid"][-12:], 16) for f in FLOWS if f.get("verdict") == "DROPPED"]


class Agent:
    """An observer, its flows, and what one client has received."""

    def __init__(self, capacity: int = 10_000, drop_capacity: int | None = None) -> None:
        tables = new_tables()
        self.flows = batch_of(FLOWS, tables)
        self.ledger = Ledger()
        self.now = 10**18
        self.observer = Observer(
            History(tables, self.ledger, capacity, drop_capacity),
            node_of(FLOWS[0], interfaces_of(FLOWS)),
            self.ledger,
            clock=lambda: self.now,
        )
        self.received: list[int] = []
        self.lost: list[flow_pb2.LostEvent] = []

    def publish(self, start: int, stop: int, *lost: LostRecords) -> None:
        batch: FlowBatch = self.flows.select(np.arange(start, stop))
        self.observer.publish(ParsedBatch(len(batch) + len(lost), batch, lost_events=list(lost)))

    async def read(self, gate: trio.Event | None = None, **request: Any) -> None:
        call = self.observer.get_flows(observer_pb2.GetFlowsRequest(**request))
        async with aclosing(call) as chunks:
            async for chunk in chunks:
                self.receive(chunk)
                if gate is not None:
                    await gate.wait()

    def receive(self, chunk: list[bytes]) -> None:
        for data in chunk:
            response = observer_pb2.GetFlowsResponse.FromString(data)
            if response.HasField("lost_events"):
                self.lost.append(response.lost_events)
            else:
                self.received.append(int(response.flow.uuid[-12:], 16))


@pytest.mark.parametrize("history", [0, 1, CHUNK, CHUNK + 1, 1500])
async def test_history_and_what_comes_later_are_joined_without_gap_or_double(
    history: int, nursery: trio.Nursery
) -> None:
    agent = Agent()
    agent.publish(0, history)
    reader = trio.CancelScope()

    async def follow() -> None:
        with reader:
            await agent.read(follow=True, number=10_000)

    nursery.start_soon(follow)
    for start in range(history, 2000, 37):
        agent.publish(start, min(start + 37, 2000))
        if start % 3:
            await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert agent.received == list(range(2000))
    reader.cancel()


async def test_follow_without_number_sends_only_what_is_new(nursery: trio.Nursery) -> None:
    agent = Agent()
    agent.publish(0, 100, LostRecords(100, 1, 0, 5))
    nursery.start_soon(lambda: agent.read(follow=True))
    await trio.testing.wait_all_tasks_blocked()
    agent.publish(100, 103, LostRecords(102, 2, 3, 7))
    await trio.testing.wait_all_tasks_blocked()
    assert agent.received == [100, 101, 102]
    assert [(e.num_events_lost, e.cpu.value) for e in agent.lost] == [(7, 3)]
    nursery.cancel_scope.cancel()


async def test_a_reader_that_is_overtaken_is_told_how_many_it_missed(
    nursery: trio.Nursery,
) -> None:
    agent = Agent(capacity=100)
    agent.publish(0, 50)
    gate = trio.Event()
    nursery.start_soon(lambda: agent.read(gate, follow=True, number=50))
    await trio.testing.wait_all_tasks_blocked()
    assert agent.received == list(range(50))
    for start in range(50, 1000, 50):
        agent.publish(start, start + 50)
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert agent.received == [*range(50), *range(900, 1000)]
    (event,) = agent.lost
    assert (event.source, event.num_events_lost) == (flow_pb2.HUBBLE_RING_BUFFER, 850)
    assert event.last.ToNanoseconds() == agent.now
    account = agent.ledger.stages["follower"]
    assert account.lost == {"overtaken": 850}
    assert (account.incoming, account.balance()) == (1000, 0)
    nursery.cancel_scope.cancel()


async def test_what_was_found_but_not_sent_in_time_is_lost_too(nursery: trio.Nursery) -> None:
    agent = Agent(capacity=1000)
    agent.publish(0, 1000)
    gate = trio.Event()
    nursery.start_soon(lambda: agent.read(gate, follow=True, number=1000))
    await trio.testing.wait_all_tasks_blocked()
    assert agent.received == list(range(CHUNK))
    agent.publish(1000, 1700)
    gate.set()
    await trio.testing.wait_all_tasks_blocked()
    assert agent.received == [*range(CHUNK), *range(700, 1700)]
    assert [event.num_events_lost for event in agent.lost] == [700 - CHUNK]
    account = agent.ledger.stages["follower"]
    assert account.lost == {"overtaken": 700 - CHUNK}
    assert (account.incoming, account.balance()) == (1700, 0)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [0, 3])
async def test_an_answer_too_large_for_clients_is_left_out_and_booked(number: int) -> None:
    agent = Agent()
    at, http = next((i, f) for i, f in enumerate(FLOWS) if "http" in f.get("l7", {}))
    huge = deepcopy(http)
    huge["l7"]["http"]["url"] = "http://" + "x" * LARGEST_MESSAGE
    batch = batch_of([FLOWS[0], huge, FLOWS[at + 1]], agent.flows.tables)
    agent.observer.publish(ParsedBatch(3, batch))
    await agent.read(number=number)
    assert agent.received == [0, at + 1]
    account = agent.ledger.stages["follower"]
    assert account.lost == {"too_large": 1}
    assert (account.incoming, account.balance()) == (3, 0)


async def test_being_overtaken_again_is_told_once_a_second(nursery: trio.Nursery) -> None:
    agent = Agent(capacity=10)
    gates = [trio.Event()]

    async def read() -> None:
        call = agent.observer.get_flows(observer_pb2.GetFlowsRequest(follow=True))
        async with aclosing(call) as chunks:
            async for chunk in chunks:
                agent.receive(chunk)
                await gates[-1].wait()

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    for start in range(0, 400, 40):
        agent.publish(start, start + 40)
        agent.now += 300_000_000
        gates.append(trio.Event())
        gates[-2].set()
        await trio.testing.wait_all_tasks_blocked()
    assert 2 <= len(agent.lost) <= 4
    nursery.cancel_scope.cancel()


async def test_drops_that_the_main_ring_lost_are_found_by_requests_for_drops() -> None:
    agent = Agent(capacity=100, drop_capacity=1000)
    agent.publish(0, 2000)
    dropped = [flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED])]
    await agent.read(whitelist=dropped)
    assert agent.received == DROPS
    agent.received.clear()
    await agent.read(whitelist=dropped, number=20)
    assert agent.received == DROPS[-20:]
    agent.received.clear()
    await agent.read(whitelist=dropped, number=20, first=True)
    assert agent.received == DROPS[:20]
    agent.received.clear()
    await agent.read()
    assert agent.received == list(range(1900, 2000))


async def test_a_selective_filter_finds_its_flows_in_a_long_history() -> None:
    agent = Agent()
    agent.publish(0, 2000)
    uuid = "00000000-0000-4000-8000-0000000004d2"
    await agent.read(whitelist=[flow_pb2.FlowFilter(uuid=[uuid])], number=1)
    assert agent.received == [1234]


@pytest.mark.parametrize(
    ("count", "interval", "capacity", "rate"),
    # Hubble's own expectations: a ring that goes back less than a minute, and one that does not.
    [(8, 2, 100, 8 / 16), (7, 1, 7, 1.0), (0, 1, 7, 0.0), (200, 1, 1000, 1.0)],
)
def test_the_rate_is_that_of_the_last_minute(
    count: int, interval: int, capacity: int, rate: float
) -> None:
    agent = Agent(capacity=capacity)
    agent.now = 10**18
    batch = agent.flows.select(np.arange(count))
    times = agent.now - np.arange(count, 0, -1, dtype=np.int64) * interval * 10**9
    agent.observer.publish(
        ParsedBatch(count, FlowBatch(batch.tables, times, *list(batch.columns())[1:]))
    )
    status = agent.observer.server_status()
    assert status.flows_rate == pytest.approx(rate)
    assert (status.num_flows, status.max_flows, status.seen_flows) == (
        min(count, capacity), capacity, count,
    )  # fmt: skip
