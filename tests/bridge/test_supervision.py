from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from bridge.event_log import EventLog
from bridge.supervision import Supervisor
from parsers.errors import UsageError


async def test_a_part_that_fails_is_degraded_said_once_and_tried_for_ever(
    autojump_clock: MockClock,
) -> None:
    said: list[str] = []
    supervisor = Supervisor(EventLog(write=said.append))
    tries = 0

    async def part(ready: Callable[[], None]) -> None:
        nonlocal tries
        tries += 1
        raise UsageError("the port is taken; choose another")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "p", part)
        await trio.sleep(600)
        nursery.cancel_scope.cancel()
    assert {"p": "the port is taken; choose another"} == supervisor.complaints
    assert 1 == len(said)
    assert 20 < tries < 60


async def test_a_part_that_comes_back_is_said_to_have_recovered(
    autojump_clock: MockClock,
) -> None:
    said: list[str] = []
    supervisor = Supervisor(EventLog(write=said.append))
    tries = 0

    async def part(ready: Callable[[], None]) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("not yet")
        ready()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "p", part)
        await trio.sleep(60)
        assert {} == supervisor.complaints
        nursery.cancel_scope.cancel()
    assert ["part.degraded", "part.recovered"] == [line.split()[2] for line in said]


async def test_a_part_that_fails_while_it_is_ended_ends_nobody_else() -> None:
    supervisor = Supervisor(EventLog(write=lambda _: None))

    async def part(ready: Callable[[], None]) -> None:
        ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise UsageError("it was too late for that")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "p", part)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_one_part_does_not_notice_another(autojump_clock: MockClock) -> None:
    supervisor = Supervisor(EventLog(write=lambda _: None))
    beats = 0

    async def bad(ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise LookupError("inside a nursery")

    async def good(ready: Callable[[], None]) -> None:
        nonlocal beats
        ready()
        while True:
            await trio.sleep(1)
            beats += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "bad", bad)
        nursery.start_soon(supervisor.keep, "good", good)
        await trio.sleep(100.5)
        nursery.cancel_scope.cancel()
    assert 100 == beats
    assert {"bad": "LookupError: inside a nursery"} == supervisor.complaints


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (TypeError("a fault"), "error"),
        (ExceptionGroup("g", [TypeError("a fault")]), "error"),
        (UsageError("not yet"), "warning"),
        (ExceptionGroup("g", [OSError("not yet")]), "warning"),
    ],
)
async def test_a_fault_of_ours_is_logged_with_its_traceback(
    error: Exception, level: str, autojump_clock: MockClock
) -> None:
    said: list[str] = []

    async def faulty_part(ready: Callable[[], None]) -> None:
        raise error

    with trio.move_on_after(60):
        supervisor = Supervisor(EventLog(write=said.append, line_format="json"))
        await supervisor.keep("p", faulty_part)
    (told,) = map(json.loads, said)
    assert level == told["level"]
    assert (level == "error") == ("in faulty_part" in told.get("traceback", ""))


async def test_cancelling_ends_a_part_at_once(autojump_clock: MockClock) -> None:
    supervisor = Supervisor(EventLog(write=lambda _: None))

    async def part(ready: Callable[[], None]) -> None:
        ready()
        await trio.sleep_forever()

    with trio.move_on_after(1) as scope:
        await supervisor.keep("p", part)
    assert scope.cancelled_caught
    assert {} == supervisor.complaints


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_a_program_is_not_a_parts_failure(error: type[BaseException]) -> None:
    async def part(ready: Callable[[], None]) -> None:
        raise error

    with pytest.raises(error):
        await Supervisor(EventLog(write=lambda _: None)).keep("p", part)
