from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from api.hubble.grpc_engine import GrpcEngine, open_engine, serve
from api.hubble.rpc import Chunks, RpcError, Services, Streaming, Unary
from api.hubble.services import services_of
from api.v1.observer import observer_pb2, observer_pb2_grpc
from parsers.errors import UsageError
from tests.api.hubble.test_followers_miss_nothing import Agent


@contextmanager
def channel(engine: GrpcEngine, **options: int) -> Iterator[grpc.Channel]:
    named = [(f"grpc.http2.{name}", value) for name, value in options.items()]
    with grpc.insecure_channel(engine.addresses[0], named) as opened:
        yield opened


def services(agent: Agent) -> Services:
    return services_of(agent.observer, version="0.1.0")


async def in_thread(function: Any, *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # what is waited for is in another thread
            await trio.sleep(0.01)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_client_gets_all_flows(kind: str, tmp_path: Path) -> None:
    agent = Agent()
    agent.publish(0, 2000)
    target = f"unix://{tmp_path}/hubble.sock" if kind == "unix" else "127.0.0.1:0"
    async with serve(services(agent), [target]) as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)

            def ask() -> tuple[list[observer_pb2.GetFlowsResponse], Any]:
                call = stub.GetFlows(observer_pb2.GetFlowsRequest())
                return list(call), call.initial_metadata()

            answers, metadata = await in_thread(ask)
        assert [int(a.flow.uuid[-12:], 16) for a in answers] == list(range(2000))
        assert ("hubble-server-version", "0.1.0") in [(m.key, m.value) for m in metadata]


async def test_status_health_and_what_is_not_there() -> None:
    agent = Agent()
    agent.publish(0, 10)
    async with serve(services(agent), ["127.0.0.1:0"]) as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)
            status = await in_thread(stub.ServerStatus, observer_pb2.ServerStatusRequest())
            assert (status.num_flows, status.seen_flows) == (10, 10)
            check = opened.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=Int32Value.FromString,
            )
            assert (await in_thread(check, StringValue(value="hubble.server.Observer"))).value == 1
            for call, request, code in (
                (check, StringValue(value="nobody"), grpc.StatusCode.NOT_FOUND),
                (stub.GetNodes, observer_pb2.GetNodesRequest(), grpc.StatusCode.UNIMPLEMENTED),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    await in_thread(call, request)
                assert caught.value.code() == code


async def test_a_refused_request_has_its_code_and_text() -> None:
    async with serve(services(Agent()), ["127.0.0.1:0"]) as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)
            request = observer_pb2.GetFlowsRequest(first=True, follow=True)
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(list, stub.GetFlows(request))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "first cannot be specified with follow"


async def test_a_follower_sees_flows_as_they_come_and_may_leave() -> None:
    agent = Agent()
    async with serve(services(agent), ["127.0.0.1:0"]) as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)
            call = stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
            await until(lambda: agent.observer.followers == 1)
            for start in range(0, 100, 10):
                agent.publish(start, start + 10)
                for number in range(start, start + 10):
                    answer = await in_thread(next, call)
                    assert int(answer.flow.uuid[-12:], 16) == number
            call.cancel()
            await until(lambda: not agent.observer.followers and not engine.open_calls)


async def test_a_client_that_does_not_read_delays_nobody() -> None:
    agent = Agent(capacity=500)
    async with serve(services(agent), ["127.0.0.1:0"]) as engine:
        small = {"bdp_probe": 0, "lookahead_bytes": 1 << 16}
        with channel(engine, **small) as slow, channel(engine) as quick:
            request = observer_pb2.GetFlowsRequest(follow=True)
            stuck = observer_pb2_grpc.ObserverStub(slow).GetFlows(request)
            reader = observer_pb2_grpc.ObserverStub(quick).GetFlows(request)
            await until(lambda: agent.observer.followers == 2)
            for _ in range(40):
                agent.publish(0, 400)
                for _ in range(400):
                    await in_thread(next, reader)
            assert agent.observer.followers == 1  # the other is stuck with what it has
            received = 0
            while not (answer := await in_thread(next, stuck)).HasField("lost_events"):
                received += 1
            assert received < 5000
            assert answer.lost_events.num_events_lost == 16_000 - 500 - received
            stuck.cancel()
            reader.cancel()


async def test_leaving_ends_streams_with_unavailable_within_half_a_second() -> None:
    agent = Agent()
    with trio.fail_after(20):
        async with serve(services(agent), ["127.0.0.1:0"]) as engine:
            opened = grpc.insecure_channel(engine.addresses[0])
            stub = observer_pb2_grpc.ObserverStub(opened)
            call = stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
            await until(lambda: agent.observer.followers == 1)
            started = trio.current_time()
        assert trio.current_time() - started < 0.5
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(next, call)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    opened.close()


async def test_a_taken_port_is_refused_while_other_listeners_serve(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"
        ):
            async with serve(services(Agent()), [f"127.0.0.1:{port}"]):
                pytest.fail("it serves")
        async with open_engine(services(Agent())) as engine:
            with pytest.raises(
                UsageError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"
            ):
                await engine.listen(f"127.0.0.1:{port}")
            with pytest.raises(UsageError, match=r"cannot listen on nowhere\.invalid:1: "):
                await engine.listen("nowhere.invalid:1")
            await engine.listen(f"unix://{tmp_path}/s")
            assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660
            assert engine.addresses == [f"unix://{tmp_path}/s"]
        assert not (tmp_path / "s").exists()


async def test_a_fault_in_a_service_is_internal_and_closes_the_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed: list[bool] = []

    async def stream(request: StringValue) -> Chunks:
        try:
            yield [StringValue(value="one").SerializeToString()]
            raise ValueError(request.value)
        finally:
            closed.append(True)

    def answer(request: StringValue) -> bytes:
        if request.value:
            raise RpcError("NOT_FOUND", "nothing here")
        raise ValueError

    table = Services(
        {"/t.T/S": Streaming(StringValue, stream), "/t.T/U": Unary(StringValue, answer)}
    )
    async with serve(table, ["127.0.0.1:0"]) as engine:
        with channel(engine) as opened:
            encode, decode = StringValue.SerializeToString, StringValue.FromString
            call = opened.unary_stream("/t.T/S", encode, decode)(StringValue())
            assert (await in_thread(next, call)).value == "one"
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(next, call)
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert closed == [True]
            for text, code in (("", "INTERNAL"), ("x", "NOT_FOUND")):
                with pytest.raises(grpc.RpcError) as caught:
                    await in_thread(
                        opened.unary_unary("/t.T/U", encode, decode), StringValue(value=text)
                    )
                assert caught.value.code().name == code
    assert {r.message for r in caplog.records} >= {"a stream failed", "a unary call failed"}


async def test_a_request_that_is_no_message_is_refused() -> None:
    async with serve(services(Agent()), ["127.0.0.1:0"]) as engine:
        with channel(engine) as opened:
            call: Any = opened.unary_stream("/observer.Observer/GetFlows", bytes, bytes)(b"\xff")
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(list, call)
            assert caught.value.code() == grpc.StatusCode.INTERNAL


async def test_the_service_layer_is_usable_without_an_engine() -> None:
    agent = Agent()
    agent.publish(0, 5)
    method = services(agent).methods["/observer.Observer/GetFlows"]
    assert isinstance(method, Streaming)
    async with aclosing(method.stream(observer_pb2.GetFlowsRequest())) as chunks:
        assert [len(chunk) async for chunk in chunks] == [5]
