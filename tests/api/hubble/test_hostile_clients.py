"""Random bytes on the wire, requests that are too large, deadlines: nothing is left of them."""

from __future__ import annotations

import random
import socket
from typing import Any

import grpc
import pytest

from api.hubble.rpc import OpenEngine
from api.v1.observer import observer_pb2
from tests.api.hubble.serving import serving
from tests.api.hubble.test_engines import in_thread, seen_flows, services, until
from tests.api.hubble.test_followers_miss_nothing import Agent

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


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
