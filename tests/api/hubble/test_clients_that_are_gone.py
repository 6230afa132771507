"""A client that is gone without a word: its connection stays open and answers nothing."""

from __future__ import annotations

import grpc
import pytest
import trio

from api.hubble import grpc_engine
from api.v1.observer import observer_pb2, observer_pb2_grpc
from tests.api.hubble.serving import serving
from tests.api.hubble.test_engines import in_thread, services, until
from tests.api.hubble.test_followers_miss_nothing import Agent

FASTER = 60


def faster(name: str, value: int) -> tuple[str, int]:
    """An option of the library with times that a test can wait for."""
    waits = "keepalive_time" in name or name.endswith("ping_timeout_ms")
    return name, value // FASTER if waits else value


async def test_its_streams_end(monkeypatch: pytest.MonkeyPatch) -> None:
    options = tuple(faster(*option) for option in grpc_engine._OPTIONS)
    monkeypatch.setattr(grpc_engine, "_OPTIONS", options)
    agent = Agent()
    async with serving(grpc_engine.open_engine, services(agent), "127.0.0.1:0") as engine:
        host, _, port = engine.addresses[0].rpartition(":")
        gone = trio.Event()

        async def carry(here: trio.SocketStream, there: trio.SocketStream) -> None:
            async for data in here:
                if not gone.is_set():
                    await there.send_all(data)

        async def between(client: trio.SocketStream) -> None:
            server = await trio.open_tcp_stream(host, int(port))
            async with server, trio.open_nursery() as nursery:
                nursery.start_soon(carry, client, server)
                nursery.start_soon(carry, server, client)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, between, 0)
            address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            with grpc.insecure_channel(address) as opened:
                stub = observer_pb2_grpc.ObserverStub(opened)
                call = stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
                await until(lambda: agent.observer.followers == 1)
                agent.publish(0, 1)
                await in_thread(next, call)
                gone.set()
                await until(lambda: not engine.open_calls)
            nursery.cancel_scope.cancel()
