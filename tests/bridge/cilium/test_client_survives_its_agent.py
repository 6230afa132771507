"""What can happen to the socket, and that the client recovers, says so once, and books it.

Sockets are real, time is virtual: ``autojump_clock`` jumps when every task waits.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bridge.backoff import Backoff
from bridge.cilium import client as module
from bridge.cilium.client import MonitorClient
from bridge.event_log import EventLog
from parsers.framing import PayloadBatch
from parsers.ledger import Ledger
from tests.bridge.agent_socket import AgentSocket, agent_socket, definition, long_sample, sample


class Subject:
    """A client, what it delivered, what it said and booked."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger()
        self.said: list[str] = []
        self.got: list[bytes] = []
        log = EventLog(write=self.said.append, level="debug")
        self.client = MonitorClient(
            path, self.deliver, ledger=self.ledger, log=log, backoff=Backoff(draw=lambda _, b: b)
        )

    def deliver(self, batch: PayloadBatch) -> None:
        self.got += [batch.data(row) for row in range(len(batch))]

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not condition():
                await trio.sleep(0.01)

    async def until_got(self, count: int) -> None:
        await self.until(lambda: len(self.got) >= count)

    @property
    def gaps(self) -> int:
        return self.ledger.unobservable["socket", "gap"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monitor1_2.sock"


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Subject]:
    subject = Subject(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(subject.client.run)
        yield subject
        nursery.cancel_scope.cancel()


async def test_payloads_arrive_whole_and_in_order(path: Path, autojump_clock: MockClock) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition())
            for number in range(1000):
                await connection.send_all(sample(b"record %d" % number, cpu=number % 4))
            await subject.until_got(1000)
    assert [b"record %d" % number for number in range(1000)] == subject.got
    assert 1000 == subject.client.statistics().payloads


async def test_a_socket_that_is_absent_is_waited_for(path: Path, autojump_clock: MockClock) -> None:
    async with running(path) as subject:
        await trio.sleep(600)
        assert ["monitor.state" in line for line in subject.said] == [True]
        assert "is Cilium's agent running" in subject.said[0]
        async with agent_socket(path) as agent:
            asked = trio.current_time()
            async with await agent.accept() as connection:
                assert trio.current_time() - asked <= 1, "the new socket ends the backoff"
                await connection.send_all(definition() + sample(b"x"))
                await subject.until_got(1)
    assert 0 == subject.gaps


async def test_a_removed_socket_is_said_and_the_connection_kept(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            path.unlink()
            await trio.sleep(60)
            await connection.send_all(definition() + sample(b"still here"))
            await subject.until_got(1)
    assert 1 == sum("path is gone" in line for line in subject.said)
    assert 0 == subject.gaps


async def test_a_new_inode_replaces_a_silent_connection(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as old, running(path) as subject:
        async with await old.accept() as silent:
            await silent.send_all(definition() + sample(b"old"))
            await subject.until_got(1)
            path.unlink()
            async with agent_socket(path) as new, await new.accept() as connection:
                await connection.send_all(definition() + sample(b"new"))
                await subject.until_got(2)
    assert [b"old", b"new"] == subject.got
    assert 1 == subject.gaps
    assert any("replaced" in line for line in subject.said)


async def test_a_connection_closed_inside_a_message_costs_that_message(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition() + sample(b"whole") + sample(b"torn")[:-3])
        async with await agent.accept() as connection:
            await connection.send_all(definition() + sample(b"again"))
            await subject.until_got(2)
    assert [b"whole", b"again"] == subject.got
    assert 1 == subject.gaps
    assert any("inside a message" in line for line in subject.said)


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 64, b"\xa0\xff\xff", sample(b"no type")],
    ids=["text", "zeros", "bad length", "undefined type"],
)
async def test_garbage_drops_the_connection_and_backs_off(
    path: Path, garbage: bytes, autojump_clock: MockClock
) -> None:
    connections = 0

    async def talk(agent: AgentSocket) -> None:
        nonlocal connections
        while True:
            connection = await agent.accept()
            connections += 1
            await connection.send_all(garbage)
            if garbage.startswith(b"HTTP"):
                await connection.aclose()

    async with agent_socket(path) as agent, running(path) as subject:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, agent)
            await trio.sleep(600)
            assert connections > 3
            nursery.cancel_scope.cancel()
    assert connections < 35, "30 s between tries in the end"
    assert connections - 1 <= subject.gaps <= connections
    assert len(subject.said) == 2, "connected, and lost"
    assert [] == subject.got


async def test_a_server_that_sends_one_byte_a_second_is_heard(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            for byte in definition() + sample(b"slow"):
                await connection.send_all(bytes([byte]))
                await trio.sleep(1)
            await subject.until_got(1)
    assert [b"slow"] == subject.got
    assert 0 == subject.gaps


async def test_a_server_that_hangs_up_at_once_is_told_of_a_few_times_only(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        async with trio.open_nursery() as nursery:

            async def hang_up() -> None:
                while True:
                    await (await agent.accept()).aclose()

            nursery.start_soon(hang_up)
            await trio.sleep(600)
            nursery.cancel_scope.cancel()
    assert len(subject.said) == 2, "connected, and lost"


async def test_type_ids_of_one_connection_mean_nothing_on_the_next(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition() + sample(b"defined"))
            await subject.until_got(1)
        async with await agent.accept() as connection:
            await connection.send_all(sample(b"not defined here"))
            await subject.until(lambda: subject.gaps == 2)
    assert [b"defined"] == subject.got


async def test_what_cannot_be_processed_in_time_is_bounded_and_booked(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 4096)
    monkeypatch.setattr(module, "BATCH", 10)
    record = sample(b"r" * 90)
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition())
            await connection.send_all(record * 5000)
            await subject.until_got(5000)
    statistics = subject.client.statistics()
    assert 5000 == len(subject.got)
    assert statistics.stalls == subject.ledger.unobservable["socket", "agent_queue"] > 0
    assert statistics.waiting_peak <= 4096 + module._READ


@pytest.mark.parametrize("cap", [4096, module.MAX_WAITING])
async def test_a_long_message_behind_a_full_buffer_arrives(
    path: Path, cap: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", cap)
    record, long = sample(b"r" * 95), bytes(12 << 20)
    count = (7 << 20) // len(record)
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition() + record * count + long_sample(long) + record)
            await subject.until_got(count + 2)
    assert long == subject.got[count]
    assert count + 2 == len(subject.got)


async def test_an_overload_is_told_when_it_begins_and_when_it_is_over(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 4096)
    record = sample(b"r" * 90)
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition())
            for _ in range(2):
                await connection.send_all(record * 50_000)
                await trio.sleep(60)
    told = [line.split()[2:] for line in subject.said if "monitor.stall" in line]
    assert ["monitor.stalled", "monitor.stalls_over"] * 2 == [event for event, _ in told]
    totals = [int(field.removeprefix("stalls=")) for event, field in told[1::2]]
    assert subject.client.statistics().stalls == sum(totals) > 2


async def test_a_silent_connection_behind_a_useless_one_is_told(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent, running(path) as subject:
        await (await agent.accept()).aclose()
        async with await agent.accept():
            await trio.sleep(60)
            assert ["connected", "connection", "connected"] == [
                line.split('state="')[1].split('"')[0].split(":")[0].split()[0]
                for line in subject.said
            ]


async def test_the_first_tries_are_quick_and_the_last_half_a_minute_apart() -> None:
    backoff = Backoff(draw=lambda _, b: b)
    delays = [backoff.next_delay() for _ in range(12)]
    assert [0.1, 0.2, 0.4] == delays[:3]
    assert 30.0 == max(delays) == delays[-1]


async def test_an_error_of_the_pipeline_is_not_swallowed(
    path: Path, autojump_clock: MockClock
) -> None:
    subject = Subject(path)

    def fail(batch: PayloadBatch) -> None:
        raise LookupError("a fault of ours")

    subject.client._deliver = fail
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with agent_socket(path) as agent, trio.open_nursery() as nursery:
            nursery.start_soon(subject.client.run)
            connection = await agent.accept()
            await connection.send_all(definition() + sample(b"x"))
    assert 1 == subject.gaps


async def test_a_burst_of_200_000_events_arrives_whole(
    path: Path, autojump_clock: MockClock
) -> None:
    count = 200_000
    record = sample(b"r" * 90)
    async with agent_socket(path) as agent, running(path) as subject:
        async with await agent.accept() as connection:
            await connection.send_all(definition() + record * count)
            await subject.until_got(count)
    statistics = subject.client.statistics()
    assert count == statistics.payloads == len(subject.got)
    assert statistics.waiting_peak <= module.MAX_WAITING + module._READ


async def test_a_socket_that_may_not_be_read_is_told_with_the_remedy(
    path: Path, autojump_clock: MockClock
) -> None:
    async with agent_socket(path) as agent:
        path.chmod(0)
        user = os.geteuid()
        if user == 0:  # permissions do not hold for root
            os.seteuid(65534)
        try:
            async with running(path) as subject:
                await trio.sleep(60)
        finally:
            os.seteuid(user)
        assert 1 == len(subject.said)
        assert "no permission to connect; run in the group" in subject.said[0]
        path.chmod(0o600)
        async with running(path) as subject, await agent.accept() as connection:
            await connection.send_all(definition() + sample(b"x"))
            await subject.until_got(1)
