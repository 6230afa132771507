"""A hundred followers with filters of their own, and one that does not read, by real gRPC."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import grpc
import trio

from api.hubble.rpc import OpenEngine
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2, observer_pb2_grpc
from tests.api.hubble.serving import serving
from tests.api.hubble.test_engines import in_thread, services, until
from tests.api.hubble.test_followers_miss_nothing import FLOWS, Agent

FOLLOWERS = 100
CAPACITY, BATCH, ROUNDS = 500, 250, 8
UUIDS = [flow["uuid"] for flow in FLOWS]


def filters() -> list[tuple[flow_pb2.FlowFilter, list[str]]]:
    """Different ones, each with the flows it lets through, the rarest first."""
    found: list[tuple[flow_pb2.FlowFilter, list[str]]] = []
    for field, side in (("source_identity", "source"), ("destination_identity", "destination")):
        by_identity: dict[int, list[str]] = {}
        for flow in FLOWS:
            if identity := flow.get(side, {}).get("identity"):
                by_identity.setdefault(identity, []).append(flow["uuid"])
        for identity, uuids in by_identity.items():
            found.append((flow_pb2.FlowFilter(**{field: [identity]}), uuids))  # type: ignore[arg-type]
    for port, _ in Counter(
        l4["destination_port"] for flow in FLOWS for l4 in flow.get("l4", {}).values()
        if "destination_port" in l4
    ).most_common(FOLLOWERS):  # fmt: skip
        uuids = [
            flow["uuid"]
            for flow in FLOWS
            for l4 in flow.get("l4", {}).values()
            if l4.get("destination_port") == port
        ]
        found.append((flow_pb2.FlowFilter(destination_port=[str(port)]), uuids))
    return sorted(found, key=lambda each: len(each[1]))[-FOLLOWERS:]


def read(call: Any, count: int, uuids: list[str]) -> None:
    """Add the uuids of so many flows to a list; what is no flow is an error."""
    while len(uuids) < count:
        answer = next(call)
        assert answer.HasField("flow")
        uuids.append(answer.flow.uuid)


async def test_one_that_does_not_read_costs_the_others_nothing_and_is_told_what_it_missed(
    open_engine: OpenEngine,
) -> None:
    agent = Agent(capacity=CAPACITY)
    chosen = filters()
    assert len(chosen) == FOLLOWERS
    small = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
        with ExitStack() as stack:
            address = engine.addresses[0]
            stuck_channel = stack.enter_context(grpc.insecure_channel(address, small))
            channel = stack.enter_context(grpc.insecure_channel(address))
            ask = observer_pb2_grpc.ObserverStub(channel).GetFlows
            request = observer_pb2.GetFlowsRequest
            stuck: Any = observer_pb2_grpc.ObserverStub(stuck_channel).GetFlows(
                request(follow=True)
            )
            calls = [ask(request(follow=True, whitelist=[only])) for only, _ in chosen]
            await until(lambda: agent.observer.followers == FOLLOWERS + 1)
            got: list[list[str]] = [[] for _ in chosen]
            threads = trio.CapacityLimiter(FOLLOWERS)

            async def follow(number: int) -> None:
                count = ROUNDS * len(chosen[number][1])
                await trio.to_thread.run_sync(
                    read, calls[number], count, got[number], limiter=threads,
                    abandon_on_cancel=True,
                )  # fmt: skip

            with trio.fail_after(100):
                async with trio.open_nursery() as nursery:
                    for number in range(FOLLOWERS):
                        nursery.start_soon(follow, number)
                    wanted = [0] * FOLLOWERS
                    for start in list(range(0, len(FLOWS), BATCH)) * ROUNDS:
                        batch = set(UUIDS[start : start + BATCH])
                        wanted = [
                            count + len(batch.intersection(uuids))
                            for count, (_, uuids) in zip(wanted, chosen, strict=True)
                        ]
                        agent.publish(start, min(start + BATCH, len(FLOWS)))
                        while [len(uuids) for uuids in got] != wanted:
                            await trio.sleep(0.001)
                        while agent.observer.followers < FOLLOWERS:
                            await trio.sleep(0.001)
            for number, (_, uuids) in enumerate(chosen):
                assert got[number] == ROUNDS * uuids
            published = ROUNDS * len(FLOWS)
            received = 0
            while not (answer := await in_thread(next, stuck)).HasField("lost_events"):
                received += 1
            lost = answer.lost_events
            assert lost.source == flow_pb2.HUBBLE_RING_BUFFER
            assert received + lost.num_events_lost + CAPACITY == published
            assert received < 5000  # what is on its way, in the kernel and on both sides
            rest: list[str] = []
            await in_thread(read, stuck, CAPACITY, rest)
            assert rest == UUIDS[-CAPACITY:]
            for call in (stuck, *calls):
                call.cancel()
            await until(lambda: not engine.open_calls)
    account = agent.ledger.stages["follower"]
    assert account.lost == {"overtaken": lost.num_events_lost}
    assert (account.incoming, account.balance()) == ((FOLLOWERS + 1) * published, 0)
