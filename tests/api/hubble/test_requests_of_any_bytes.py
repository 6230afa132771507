"""Whatever bytes a client sends, it gets flows or a status; nothing stays open.

Requests are sound ones with bytes changed, and noise, from fixed seeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import grpc
import numpy as np
import pytest
import trio
import trio.testing
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from api.hubble.grpc_engine import open_engine
from api.hubble.observer import Observer
from api.hubble.peers import Peers
from api.hubble.rpc import RpcError, Streaming, Unary
from api.hubble.services import services_of
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.pipeline import ParsedBatch
from tests.api.hubble.serving import serving
from tests.api.hubble.test_answers_equal_hubbles_to_recorded_requests import corpus
from tests.api.hubble.test_followers_miss_nothing import Agent

FLOWS = 60
SEEDS = range(16)
EACH = 50  # requests of a seed
GET_FLOWS = "/observer.Observer/GetFlows"


@cache
def sound() -> list[bytes]:
    """Every request that was recorded, and the same with follow."""
    made = [
        ParseDict(r["request"], observer_pb2.GetFlowsRequest()) for r in corpus("v1.20").requests
    ]
    following = [observer_pb2.GetFlowsRequest(follow=True) for _ in made]
    for one, other in zip(following, made, strict=True):
        one.MergeFrom(other)
    return [request.SerializeToString() for request in (*made, *following)]


def spoiled(dice: random.Random) -> bytes:
    """A request with a few bytes changed, cut, repeated; or two of them; or noise."""
    if dice.random() < 0.1:
        return dice.randbytes(dice.choice([0, 1, 5, 50, 500]))
    if dice.random() < 0.5:
        return reworded(dice)
    data = bytearray(dice.choice(sound()))
    if dice.random() < 0.3:
        data += dice.choice(sound())  # fields of both: messages are merged
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        if not data:
            break
        at = dice.randrange(len(data))
        kind = dice.randrange(4)
        if kind == 0:
            data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
        elif kind == 1:
            del data[at : at + dice.choice([1, 1, 3, 20])]
        elif kind == 2:
            data[at:at] = dice.randbytes(dice.choice([1, 1, 4]))
        else:
            data[at:at] = data[at : at + dice.choice([1, 5, 30])]
    return bytes(data)


WORDS = (
    "", "*", ".", "/", ":", "=", "!", "(", ")", "[", "\\", "^", "|", "?", "+", ",", " ", "in", "\0",
    "\n", "é", "\U0001f600", "%", "-", "0", "9", "a", "A", "_", "{9}", "'", '"', "&&",
)  # fmt: skip


def reworded(dice: random.Random) -> bytes:
    """A request with its texts changed."""
    request = observer_pb2.GetFlowsRequest.FromString(dice.choice(sound()))
    for one in (*request.whitelist, *request.blacklist, one_field_mask(request)):
        for field, values in one.ListFields():
            if field.type == field.TYPE_STRING:
                values[:] = [changed(dice, text) for text in values]
    conditions = [c for f in request.whitelist for c in f.experimental.cel_expression]
    for one in request.whitelist:
        if conditions and one.HasField("experimental"):
            one.experimental.cel_expression[:] = [changed(dice, text) for text in conditions]
    return request.SerializeToString()


def one_field_mask(request: observer_pb2.GetFlowsRequest) -> Any:
    return request.field_mask if request.field_mask.paths else observer_pb2.GetFlowsRequest()


def changed(dice: random.Random, text: str) -> str:
    for _ in range(dice.choice([1, 1, 2, 4])):
        at = dice.randrange(len(text) + 1)
        text = text[:at] + dice.choice(WORDS) + text[at + dice.choice([0, 0, 1, 2]) :]
    return text


def requests(seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    return (spoiled(dice) for _ in range(EACH))


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_service_answers_or_refuses(seed: int) -> None:
    agent = Agent(capacity=100)
    agent.publish(0, FLOWS)
    methods = agent.observer.methods()
    dice = random.Random(seed)
    outcomes: list[str] = []
    refusals: list[RpcError] = []

    async def call(method: Unary | Streaming, data: bytes) -> None:
        try:
            request = method.request.FromString(data)
        except DecodeError:
            outcomes.append("undecodable")
            return
        try:
            if isinstance(method, Unary):
                method.answer(request)
            else:
                async for chunk in method.stream(request):
                    for message in chunk:
                        observer_pb2.GetFlowsResponse.FromString(message)
        except RpcError as refused:
            refusals.append(refused)
            outcomes.append("refused")
            return
        outcomes.append("answered")

    async with trio.open_nursery() as nursery:
        for data in requests(seed):
            name = GET_FLOWS if dice.random() < 0.7 else dice.choice(sorted(methods))
            nursery.start_soon(call, methods[name], data)
        await trio.testing.wait_all_tasks_blocked()
        # Followers of all these filters see what comes.
        agent.observer.publish(batch(agent))
        await trio.testing.wait_all_tasks_blocked()
        assert len(outcomes) + agent.observer.followers == EACH
        nursery.cancel_scope.cancel()
    assert agent.observer.followers == 0
    assert {refused.code for refused in refusals} <= {"INVALID_ARGUMENT", "UNKNOWN"}
    assert all(map(str, refusals))
    assert {"answered", "refused", "undecodable"} & set(outcomes)


def batch(agent: Agent) -> ParsedBatch:
    flows = agent.flows.select(np.arange(FLOWS, FLOWS + 20))
    return ParsedBatch(len(flows), flows)


ALLOWED = {
    grpc.StatusCode.INTERNAL,  # bytes that are no message, as Go has it
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,  # by the test: a call that follows
}


async def test_on_the_wire_there_is_a_status_and_nothing_stays_open() -> None:
    agent = Agent(capacity=100)
    agent.publish(0, FLOWS)
    seen: set[grpc.StatusCode] = set()
    services = services_of(agent.observer, Peers(), version="0.1.0")
    async with serving(open_engine, services, "127.0.0.1:0") as engine:
        with grpc.insecure_channel(engine.addresses[0]) as opened:
            method: Any = opened.unary_stream(GET_FLOWS)  # of bytes
            for data in (d for seed in range(100, 104) for d in requests(seed)):
                call = method(data)
                request = parsed(data)
                if request is not None and request.follow and not request.first:
                    call.cancel()
                seen.add(await trio.to_thread.run_sync(status_of, call))
            assert seen <= {*ALLOWED, grpc.StatusCode.OK}
            assert {grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN} <= seen
        await until(lambda: engine.open_calls == 0 and agent.observer.followers == 0)
        await noise_on(engine.addresses[0])
        with grpc.insecure_channel(engine.addresses[0]) as opened:  # it is still there
            method = opened.unary_stream(GET_FLOWS)
            assert len(await trio.to_thread.run_sync(list, method(b""))) == FLOWS


def parsed(data: bytes) -> observer_pb2.GetFlowsRequest | None:
    try:
        return observer_pb2.GetFlowsRequest.FromString(data)
    except DecodeError:
        return None


def status_of(call: Any) -> grpc.StatusCode:
    try:
        for message in call:
            observer_pb2.GetFlowsResponse.FromString(message)
    except grpc.RpcError:
        pass
    found: grpc.StatusCode = call.code()
    return found


async def noise_on(address: str) -> None:
    """Connections that speak something else than HTTP/2."""
    host, _, port = address.rpartition(":")
    dice = random.Random(7)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for size in (0, 1, 9, 100, 5000):
        for begin in (b"", preface, b"GET / HTTP/1.1\r\n\r\n"):
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(begin + dice.randbytes(size))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # what is waited for is in another thread
            await trio.sleep(0.01)


async def test_filters_of_any_size_are_refused_in_time() -> None:
    agent = Agent()
    for request in (
        observer_pb2.GetFlowsRequest(whitelist=[flow_pb2.FlowFilter()] * 1001),
        observer_pb2.GetFlowsRequest(blacklist=[flow_pb2.FlowFilter(uuid=["x" * 200_000])]),
    ):
        with pytest.raises(RpcError, match="too large") as caught:
            await ask(agent.observer, request)
        assert caught.value.code == "INVALID_ARGUMENT"
    many = {"experimental": {"cel_expression": ["true"] * 33}}
    with pytest.raises(RpcError, match="too many"):
        await ask(agent.observer, ParseDict({"whitelist": [many]}, observer_pb2.GetFlowsRequest()))


@pytest.mark.parametrize(
    ("seconds", "nanos", "text"),
    [
        (10**15, 0, "proto: timestamp (seconds:1000000000000000) after 9999-12-31"),
        (-(10**15), 0, "proto: timestamp (seconds:-1000000000000000) before 0001-01-01"),
        (0, -5, "proto: timestamp (nanos:-5) has out-of-range nanos"),
        (0, 2 * 10**9, "proto: timestamp (nanos:2000000000) has out-of-range nanos"),
    ],
)
@pytest.mark.parametrize("name", ["since", "until"])
async def test_what_is_no_time_is_refused_as_hubble_does(
    name: str, seconds: int, nanos: int, text: str
) -> None:
    request = observer_pb2.GetFlowsRequest()
    getattr(request, name).seconds, getattr(request, name).nanos = seconds, nanos
    with pytest.raises(RpcError) as caught:
        await ask(Agent().observer, request)
    assert (caught.value.code, str(caught.value)) == ("UNKNOWN", text)


async def ask(observer: Observer, request: observer_pb2.GetFlowsRequest) -> None:
    async for _ in observer.get_flows(request):
        pass
