"""Cilium's socket where its agent speaks, own probes elsewhere; nothing counts twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import patch

import pytest
import trio
from trio.testing import MockClock

from api.history import History
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.metrics.hubble import HubbleMetrics
from bridge.event_log import EventLog
from bridge.flow_path import FlowPath
from bridge.source_switch import PATIENCE, Choice, SourceSwitch
from parsers.framing import PayloadStream
from parsers.ledger import OTHER_SOURCE, Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from tests import storm
from tests.parsers.test_probe_traffic import CLIENT, WORLD, report

BATCH = 10
DETACHING = 0.5  # s


class Place:
    """A switch between payloads, whenever the test says so, and probes with a flow a second."""

    def __init__(self, choice: Choice) -> None:
        tables, self.ledger = new_tables(), Ledger()
        pipeline = MonitorPipeline(tables, storm.directory(1000), self.ledger)
        observer = Observer(History(tables, self.ledger, 1000), LocalNode("node"), self.ledger)
        self.path = FlowPath(pipeline, HubbleMetrics(), observer.publish, watch=lambda _n, _s: None)
        self.said: list[str] = []
        self.switch = SourceSwitch(choice, self.path, EventLog(write=self.said.append))
        self.attached = self.left = 0
        self.ready = 0

    async def leave(self) -> None:
        self.left += 1

    async def run(self, ready: Callable[[], None]) -> None:
        """As ``ProbeSource.run``: what is left is delivered when it is ended."""
        self.attached += 1
        ready()
        batch = ProbeBatch(0, traffic=report(CLIENT, WORLD), seen={"traffic": 1})
        try:
            while True:
                await trio.sleep(1)
                self.path.deliver_probes(batch)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(DETACHING)
            self.path.deliver_probes(batch)

    def speak(self) -> None:
        self.switch.deliver(storm.payloads(0, BATCH))

    def flows(self) -> dict[str, int]:
        probes = self.ledger.stages["probes"].outgoing
        return {"probes": probes, "cilium": self.ledger.stages["history"].incoming - probes}

    def note_ready(self) -> None:
        self.ready += 1


@asynccontextmanager
async def running(choice: Choice) -> AsyncIterator[Place]:
    place = Place(choice)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.switch.keep_probes, place, place.note_ready)
        yield place
        nursery.cancel_scope.cancel()
    assert place.ledger.imbalance() == {}


async def test_without_a_socket_probes_run_at_once(autojump_clock: MockClock) -> None:
    async with running("auto") as place:
        await trio.sleep(2.5)
        assert place.switch.source == "probes"
        assert place.flows() == {"probes": 2, "cilium": 0}


async def test_an_agent_that_answers_is_the_source_and_nothing_is_attached(
    autojump_clock: MockClock,
) -> None:
    async with running("auto") as place:
        place.switch.connected()
        await trio.sleep(PATIENCE / 2)
        place.speak()
        await trio.sleep(100)
        place.speak()
        assert place.switch.source == "cilium"
        assert (place.attached, place.left, place.ready) == (0, 1, 1)
        assert place.flows() == {"probes": 0, "cilium": 2 * BATCH}


async def test_a_socket_that_accepts_and_says_nothing_is_not_waited_for_long(
    autojump_clock: MockClock,
) -> None:
    async with running("auto") as place:
        for _ in range(10):
            place.switch.connected()
            await trio.sleep(PATIENCE / 5)
            place.switch.disconnected()
        assert place.switch.source == "probes"


async def test_a_socket_that_talks_nonsense_is_no_source(autojump_clock: MockClock) -> None:
    stream = PayloadStream()
    stream.feed(b"\x01\x01")  # framed as a message, and nothing else
    nonsense = stream.take()
    assert nonsense is not None
    assert (0, 1) == (len(nonsense), nonsense.malformed)
    async with running("auto") as place:
        for _ in range(10):
            await trio.sleep(1)
            place.switch.connected()
            place.switch.deliver(nonsense)
            await trio.sleep(0.1)
            place.switch.disconnected()
        assert (place.switch.source, place.attached) == ("probes", 1)


async def test_an_agent_that_comes_and_goes_is_followed_and_nothing_counts_twice(
    autojump_clock: MockClock,
) -> None:
    async with running("auto") as place:
        await trio.sleep(3)
        place.switch.connected()
        await trio.sleep(1)
        assert place.switch.source == "probes"
        before = place.flows()["probes"]
        place.speak()  # the same traffic, as probes are still attached
        await trio.sleep(DETACHING / 2)
        place.speak()
        await trio.sleep(DETACHING)
        assert place.switch.source == "cilium"
        place.speak()  # it waited in the agent
        assert place.left == 1
        assert place.flows() == {"probes": before + 1, "cilium": 0}
        assert place.ledger.stages["parser"].lost == {OTHER_SOURCE: 3 * BATCH}
        await trio.sleep(1)
        place.speak()
        assert place.flows()["cilium"] == BATCH
        assert place.ledger.unobservable == {("probes", "gap"): 1}

        place.switch.disconnected()
        await trio.sleep(PATIENCE / 2)
        assert (place.switch.source, place.attached) == ("", 1)
        await trio.sleep(PATIENCE)
        assert (place.switch.source, place.attached) == ("probes", 2)
    changes = [line.split("source=")[1].strip() for line in place.said]
    assert changes == ['"probes"', '"cilium"', '"probes"']


async def test_an_agent_that_restarts_in_time_attaches_nothing(autojump_clock: MockClock) -> None:
    async with running("auto") as place:
        place.switch.connected()
        place.speak()
        for _ in range(3):
            place.switch.disconnected()
            await trio.sleep(PATIENCE / 2)
            place.switch.connected()
            place.speak()
        await trio.sleep(PATIENCE * 2)
        assert place.attached == 0
        assert place.flows() == {"probes": 0, "cilium": 4 * BATCH}


async def test_probes_that_cannot_run_take_nothing_from_cilium() -> None:
    place = Place("auto")

    fault = OSError("no BPF here")
    with patch.object(place, "run", side_effect=fault), pytest.raises(ExceptionGroup):
        await place.switch.keep_probes(place, place.note_ready)
    place.speak()
    assert place.flows()["cilium"] == BATCH
    assert place.ledger.unobservable == {}


async def test_probes_alone_run_whoever_speaks(autojump_clock: MockClock) -> None:
    async with running("probes") as place:
        assert not place.switch.reads_cilium
        await trio.sleep(100.5)
        assert place.flows() == {"probes": 100, "cilium": 0}
