"""What any engine must do: see ``api.hubble.rpc``."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
import trustme
from google.protobuf.wrappers_pb2 import StringValue

from api.hubble.peers import Peer, Peers
from api.hubble.rpc import (
    MOST_STREAMS,
    Certificates,
    Chunks,
    Dialogue,
    Engine,
    OpenEngine,
    RpcError,
    Services,
    Streaming,
    Unary,
)
from api.hubble.services import services_of
from api.v1.observer import observer_pb2, observer_pb2_grpc
from parsers.errors import UsageError
from tests.api.hubble.serving import serving
from tests.api.hubble.test_followers_miss_nothing import Agent


@contextmanager
def channel(engine: Engine, **options: int) -> Iterator[grpc.Channel]:
    named = [(f"grpc.http2.{name}", value) for name, value in options.items()]
    with grpc.insecure_channel(engine.addresses[0], named) as opened:
        yield opened


def services(agent: Agent) -> Services:
    peers = Peers([Peer.of(agent.observer.node)])
    return services_of(agent.observer, peers, version="0.1.0")


async def in_thread(function: Any, *arguments: Any) -> Any:
    return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not condition():  # what is waited for is in another thread
            await trio.sleep(0.01)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_client_gets_all_flows(open_engine: OpenEngine, kind: str, tmp_path: Path) -> None:
    agent = Agent()
    agent.publish(0, 2000)
    target = f"unix://{tmp_path}/hubble.sock" if kind == "unix" else "127.0.0.1:0"
    async with serving(open_engine, services(agent), target) as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)

            def ask() -> tuple[list[observer_pb2.GetFlowsResponse], Any]:
                call = stub.GetFlows(observer_pb2.GetFlowsRequest())
                return list(call), call.initial_metadata()

            answers, metadata = await in_thread(ask)
        assert [int(a.flow.uuid[-12:], 16) for a in answers] == list(range(2000))
        assert ("hubble-server-version", "0.1.0") in [(m.key, m.value) for m in metadata]


async def test_a_unary_call_and_what_is_not_there(open_engine: OpenEngine) -> None:
    agent = Agent()
    agent.publish(0, 10)
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)
            status = await in_thread(stub.ServerStatus, observer_pb2.ServerStatusRequest())
            assert (status.num_flows, status.seen_flows) == (10, 10)
            for name in ("/observer.Observer/GetNothing", "/recorder.Recorder/Record"):
                with pytest.raises(grpc.RpcError) as caught:
                    await in_thread(opened.unary_unary(name, bytes, bytes), b"")
                assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_each_request_of_a_dialogue_is_answered_in_turn(open_engine: OpenEngine) -> None:
    def answer(request: StringValue) -> bytes:
        if request.value == "3":
            raise RpcError("INVALID_ARGUMENT", "no threes")
        return StringValue(value=request.value * 2).SerializeToString()

    table = Services({"/t.T/D": Dialogue(StringValue, answer)}, (("who", "we"),))
    async with serving(open_engine, table, "127.0.0.1:0") as engine:
        with channel(engine) as opened:
            encode, decode = StringValue.SerializeToString, StringValue.FromString
            call = opened.stream_stream("/t.T/D", encode, decode)
            asked: Any = call(StringValue(value=str(n)) for n in range(3))
            assert [a.value for a in await in_thread(list, asked)] == ["00", "11", "22"]
            assert ("who", "we") in [(m.key, m.value) for m in asked.initial_metadata()]
            asked = call(StringValue(value=str(n)) for n in range(2, 9))
            assert (await in_thread(next, asked)).value == "22"
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(next, asked)
            assert (caught.value.code().name, caught.value.details()) == (
                "INVALID_ARGUMENT", "no threes",
            )  # fmt: skip


async def test_streams_beyond_the_limit_are_refused_until_others_end(
    open_engine: OpenEngine,
) -> None:
    agent = Agent()
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
        with ExitStack() as stack:
            request = observer_pb2.GetFlowsRequest(follow=True)
            stubs = []
            for number in range(-(-MOST_STREAMS // 200) + 1):  # connections have a limit too
                own = stack.enter_context(channel(engine, max_reconnect_backoff_ms=number + 1))
                stubs.append(observer_pb2_grpc.ObserverStub(own))
            calls = [stubs[n // 200].GetFlows(request) for n in range(MOST_STREAMS)]
            await until(lambda: agent.observer.followers == MOST_STREAMS)
            refused: Any = stubs[-1].GetFlows(request)
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(next, refused)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await in_thread(stubs[-1].ServerStatus, observer_pb2.ServerStatusRequest())
            calls.pop().cancel()
            await until(lambda: engine.open_calls == MOST_STREAMS - 1)
            calls.append(stubs[-1].GetFlows(request))
            await until(lambda: agent.observer.followers == MOST_STREAMS)
            for call in calls:
                call.cancel()
            await until(lambda: not engine.open_calls)


async def test_who_is_connected_stays_when_an_address_is_given_up(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    agent = Agent()
    path = tmp_path / "hubble.sock"
    async with serving(open_engine, services(agent), f"unix://{path}") as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)
            call = stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
            await until(lambda: agent.observer.followers == 1)
            path.unlink()
            others = socket.socket(socket.AF_UNIX)
            others.bind(str(path))
            await engine.unlisten(f"unix://{path}")
            assert engine.addresses == []
            agent.publish(0, 1)
            assert (await in_thread(next, call)).flow.uuid.endswith("000")
            assert path.exists()  # it is somebody else's now
            others.close()
            path.unlink()
            await engine.listen(f"unix://{path}")
            with channel(engine) as anew:
                stub = observer_pb2_grpc.ObserverStub(anew)
                status = await in_thread(stub.ServerStatus, observer_pb2.ServerStatusRequest())
                assert status.seen_flows == 1
            call.cancel()
            await until(lambda: not engine.open_calls)
            await engine.unlisten(f"unix://{path}")
            assert not path.exists()


async def test_a_refused_request_has_its_code_and_text(open_engine: OpenEngine) -> None:
    async with serving(open_engine, services(Agent()), "127.0.0.1:0") as engine:
        with channel(engine) as opened:
            stub = observer_pb2_grpc.ObserverStub(opened)
            request = observer_pb2.GetFlowsRequest(first=True, follow=True)
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(list, stub.GetFlows(request))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "first cannot be specified with follow"


async def test_a_follower_sees_flows_as_they_come_and_may_leave(open_engine: OpenEngine) -> None:
    agent = Agent()
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
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


async def test_a_client_that_does_not_read_delays_nobody(open_engine: OpenEngine) -> None:
    agent = Agent(capacity=500)
    async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
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


async def test_of_a_stream_that_is_not_read_two_lists_are_taken(open_engine: OpenEngine) -> None:
    taken = 0
    text = "x" * (1 << 20)  # far more than what is on its way

    async def stream(request: StringValue) -> Chunks:
        nonlocal taken
        for _ in range(6):
            taken += 1
            yield [StringValue(value=text).SerializeToString()]

    def answer(request: StringValue) -> bytes:
        return request.SerializeToString()

    table = Services(
        {"/t.T/S": Streaming(StringValue, stream), "/t.T/U": Unary(StringValue, answer)}
    )
    encode, decode = StringValue.SerializeToString, StringValue.FromString
    async with serving(open_engine, table, "127.0.0.1:0") as engine:
        with channel(engine, bdp_probe=0, lookahead_bytes=1 << 16) as opened:
            call: Any = opened.unary_stream("/t.T/S", encode, decode)(StringValue())
            await until(lambda: taken >= 2)
            for _ in range(50):  # it had time for more
                await in_thread(opened.unary_unary("/t.T/U", encode, decode), StringValue())
            assert taken == 2
            assert [answer.value == text for answer in await in_thread(list, call)] == [True] * 6


async def test_leaving_ends_streams_with_unavailable_at_once(
    open_engine: OpenEngine,
) -> None:
    agent = Agent()
    with trio.fail_after(20):
        async with serving(open_engine, services(agent), "127.0.0.1:0") as engine:
            opened = grpc.insecure_channel(engine.addresses[0])
            stub = observer_pb2_grpc.ObserverStub(opened)
            call = stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
            await until(lambda: agent.observer.followers == 1)
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(next, call)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    opened.close()


async def test_a_taken_port_is_refused_while_other_listeners_serve(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"
        ):
            async with serving(open_engine, services(Agent()), f"127.0.0.1:{port}"):
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


async def test_listening_that_is_cancelled_leaves_no_server(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    path = tmp_path / "hubble.sock"
    for delay in (0.0, 0.001, 0.002, 0.005):
        async with open_engine(services(Agent())) as engine:
            with trio.move_on_after(delay):
                await engine.listen(f"unix://{path}")
        gc.collect()  # a server that was forgotten complains when it goes
        assert not list(tmp_path.iterdir())


async def test_a_fault_in_a_service_is_internal_and_closes_the_stream(
    open_engine: OpenEngine,
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
    async with serving(open_engine, table, "127.0.0.1:0") as engine:
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


async def test_a_request_that_is_no_message_is_refused(open_engine: OpenEngine) -> None:
    async with serving(open_engine, services(Agent()), "127.0.0.1:0") as engine:
        with channel(engine) as opened:
            call: Any = opened.unary_stream("/observer.Observer/GetFlows", bytes, bytes)(b"\xff")
            with pytest.raises(grpc.RpcError) as caught:
                await in_thread(list, call)
            assert caught.value.code() == grpc.StatusCode.INTERNAL


def issued(authority: trustme.CA, *names: str) -> tuple[bytes, bytes]:
    """A certificate with its chain, and its key."""
    made = authority.issue_cert(*names)
    return b"".join(pem.bytes() for pem in made.cert_chain_pems), made.private_key_pem.bytes()


def secure_channel(
    address: str, authority: trustme.CA, client: tuple[bytes, bytes] | None = None
) -> grpc.Channel:
    """A channel that expects the name by which a relay knows a node."""
    chain, key = client or (None, None)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)
    name = ("grpc.ssl_target_name_override", "node-a.default.hubble-grpc.cilium.io")
    return grpc.secure_channel(address, credentials, [name])


NAME = "*.default.hubble-grpc.cilium.io"


async def seen_flows(opened: grpc.Channel) -> int:
    ask = observer_pb2_grpc.ObserverStub(opened).ServerStatus
    request = observer_pb2.ServerStatusRequest()
    status = await in_thread(lambda: ask(request, timeout=20))
    return int(status.seen_flows)


async def test_tls_serves_who_shows_a_certificate_of_the_authority(
    open_engine: OpenEngine,
) -> None:
    ours, theirs, strangers = trustme.CA(), trustme.CA(), trustme.CA()
    certificates = Certificates(*issued(ours, NAME), theirs.cert_pem.bytes())
    agent = Agent()
    agent.publish(0, 7)
    async with open_engine(services(agent)) as engine:
        address = await engine.listen("127.0.0.1:0", lambda: certificates)
        with secure_channel(address, ours, issued(theirs, "relay")) as opened:
            assert await seen_flows(opened) == 7
        refused = [
            secure_channel(address, ours),
            secure_channel(address, ours, issued(strangers, "relay")),
            secure_channel(address, strangers, issued(theirs, "relay")),
            grpc.insecure_channel(address),
        ]
        for each in refused:
            with each as opened, pytest.raises(grpc.RpcError) as caught:
                await seen_flows(opened)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_tls_without_authorities_asks_for_no_certificate(open_engine: OpenEngine) -> None:
    ours = trustme.CA()
    certificates = Certificates(*issued(ours, NAME))
    async with open_engine(services(Agent())) as engine:
        address = await engine.listen("127.0.0.1:0", lambda: certificates)
        with secure_channel(address, ours) as opened:
            assert await seen_flows(opened) == 0


async def test_new_certificates_are_for_later_connections_and_streams_go_on(
    open_engine: OpenEngine,
) -> None:
    before, after = trustme.CA(), trustme.CA()
    certificates = Certificates(*issued(before, NAME), before.cert_pem.bytes())
    agent = Agent()
    async with open_engine(services(agent)) as engine:
        address = await engine.listen("127.0.0.1:0", lambda: certificates)
        with secure_channel(address, before, issued(before, "relay")) as old:
            stub = observer_pb2_grpc.ObserverStub(old)
            call = stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True))
            await until(lambda: agent.observer.followers == 1)
            certificates = Certificates(*issued(after, NAME), after.cert_pem.bytes())
            with secure_channel(address, after, issued(after, "relay")) as opened:
                assert await seen_flows(opened) == 0
            with secure_channel(address, before, issued(before, "relay")) as opened:
                with pytest.raises(grpc.RpcError):
                    await seen_flows(opened)
            agent.publish(0, 1)
            assert (await in_thread(next, call)).flow.uuid.endswith("000")
            call.cancel()
            await until(lambda: not engine.open_calls)


async def test_certificates_that_cannot_be_used_leave_those_from_before(
    open_engine: OpenEngine,
) -> None:
    ours = trustme.CA()
    certificates = Certificates(*issued(ours, NAME))
    async with open_engine(services(Agent())) as engine:
        address = await engine.listen("127.0.0.1:0", lambda: certificates)
        certificates = Certificates(b"nonsense", b"nonsense")
        with secure_channel(address, ours) as opened:
            assert await seen_flows(opened) == 0


async def test_the_service_layer_is_usable_without_an_engine() -> None:
    agent = Agent()
    agent.publish(0, 5)
    method = services(agent).methods["/observer.Observer/GetFlows"]
    assert isinstance(method, Streaming)
    async with aclosing(method.stream(observer_pb2.GetFlowsRequest())) as chunks:
        assert [len(chunk) async for chunk in chunks] == [5]
