"""Random bytes on the wire, and requests with random faults: refused, and nothing is left.

The faults follow from the seed in a test's name.
"""

from __future__ import annotations

import json
import lzma
import random
import socket
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest
import trio
import trio.testing
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from api.hubble.rpc import OpenEngine, RpcError, Streaming, Unary
from api.v1.observer import observer_pb2
from tests.api.hubble.serving import serving
from tests.api.hubble.test_engines import ENGINES, in_thread, seen_flows, services, until
from tests.api.hubble.test_followers_miss_nothing import Agent
from tests.fixtures import FIXTURES

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
REFUSALS = {"INVALID_ARGUMENT", "UNKNOWN", "NOT_FOUND"}
RECORDED = [
    (recorded["method"], recorded["request"])
    for recorded in map(
        json.loads,
        lzma.decompress((FIXTURES / "v1.20" / "requests.jsonl.xz").read_bytes()).splitlines(),
    )
]


@pytest.fixture(params=ENGINES)
def open_engine(request: pytest.FixtureRequest) -> OpenEngine:
    return ENGINES[request.param]


def requests(dice: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """Recorded requests with faults: the method, and bytes."""
    for _ in range(count):
        method, request = dice.choice(RECORDED)
        message = ParseDict(request, getattr(observer_pb2, f"{method}Request")())
        yield f"/observer.Observer/{method}", with_faults(message.SerializeToString(), dice)


def with_faults(data: bytes, dice: random.Random) -> bytes:
    faulty = bytearray(data)
    for _ in range(dice.randint(1, 2)):
        at = dice.randrange(len(faulty) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            faulty[at:at] = dice.randbytes(dice.randint(1, 8))
        elif kind == 1:
            del faulty[at : at + dice.randint(1, 8)]
        elif kind == 2 and at < len(faulty):
            faulty[at] ^= 1 << dice.randrange(8)
        else:
            faulty += faulty[at : at + 20]
    return bytes(faulty)


@pytest.mark.parametrize("seed", range(4))
async def test_a_service_answers_or_refuses_whatever_it_is_asked(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    agent = Agent()
    agent.publish(0, 2000)
    table = services(agent).methods
    understood = 0
    refused: list[RpcError] = []
    for path, data in requests(random.Random(seed), 1500):
        method = table[path]
        try:
            request = method.request.FromString(data)
        except DecodeError:
            continue
        understood += 1
        try:
            await answer(method, request)
        except RpcError as error:
            refused.append(error)
    assert understood > 100
    assert len(refused) > 10
    assert {error.code for error in refused} <= REFUSALS
    assert all(map(str, refused))
    assert agent.observer.followers == 0


async def answer(method: Any, request: Any) -> None:
    """All of it; who follows leaves when nothing more comes."""
    if isinstance(method, Unary):
        assert method.answer(request)
        return
    assert isinstance(method, Streaming)
    with trio.move_on_after(1):
        async with aclosing(method.stream(request)) as chunks:
            async for chunk in chunks:
                assert all(chunk)


@pytest.mark.parametrize("seed", range(2))
async def test_faulty_requests_by_grpc_have_a_code_and_leave_nothing(
    seed: int, open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent()
    agent.publish(0, 50)
    allowed = {*REFUSALS, "INTERNAL", "CANCELLED"}
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
        with grpc.insecure_channel(engine.addresses[0]) as opened:

            def ask(path: str, data: bytes) -> None:
                call: Any = opened.unary_stream(path, bytes, bytes)(data)
                try:
                    next(call, None)
                except grpc.RpcError as error:
                    told: Any = error
                    assert told.code().name in allowed
                    is_fault = told.code().name == "INTERNAL"
                    assert not is_fault or told.details().startswith("request is no message")
                call.cancel()

            for path, data in requests(random.Random(seed), 200):
                if not follows(data):
                    await in_thread(ask, path, data)
            assert await seen_flows(opened) == 50
        await until(lambda: not engine.open_calls)
    assert not caplog.records


def follows(data: bytes) -> bool:
    """Whether a call would wait for ever."""
    try:
        return bool(
            getattr(observer_pb2.GetFlowsRequest.FromString(data), "follow", False)
        ) or bool(observer_pb2.GetAgentEventsRequest.FromString(data).follow)
    except DecodeError:
        return True


@pytest.mark.parametrize("seed", range(2))
async def test_random_bytes_on_the_wire_harm_nobody(seed: int, open_engine: OpenEngine) -> None:
    dice = random.Random(seed)
    agent = Agent()
    agent.publish(0, 50)
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
        host, _, port = engine.addresses[0].rpartition(":")

        def send(data: bytes) -> None:
            with socket.create_connection((host, int(port)), timeout=20) as client:
                client.sendall(data)

        for _ in range(100):
            begin = dice.choice((b"", PREFACE, PREFACE + SETTINGS))
            frame = dice.randbytes(dice.randint(0, 200))
            if dice.random() < 0.5:  # a frame of a length that is true
                frame = len(frame).to_bytes(3, "big") + dice.randbytes(6) + frame
            try:
                await in_thread(send, begin + frame)
            except ConnectionError:
                continue  # hung up on
        with grpc.insecure_channel(engine.addresses[0]) as opened:
            assert await seen_flows(opened) == 50
        await until(lambda: not engine.open_calls)


async def test_a_request_of_more_than_a_mebibyte_is_refused(open_engine: OpenEngine) -> None:
    async with serving(open_engine, services(Agent()), "127.0.0.1:0") as engine:
        with grpc.insecure_channel(engine.addresses[0]) as opened:
            call: Any = opened.unary_stream("/observer.Observer/GetFlows", bytes, bytes)
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(list, call(b"\0" * (2 << 20)))
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_deadline_ends_a_stream_on_both_sides(open_engine: OpenEngine) -> None:
    agent = Agent()
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
        with grpc.insecure_channel(engine.addresses[0]) as opened:
            request = observer_pb2.GetFlowsRequest(follow=True).SerializeToString()
            call: Any = opened.unary_stream("/observer.Observer/GetFlows", bytes, bytes)
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(lambda: list(call(request, timeout=0.5)))
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: not engine.open_calls and not agent.observer.followers)
