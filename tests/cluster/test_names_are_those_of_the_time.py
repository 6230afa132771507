"""5,000 pods, 200 changes a second for a minute: every flow has the names of its time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import trio

from bridge.agent import Agent
from bridge.config import parse_config
from bridge.event_log import EventLog
from bridge.kubernetes.objects import Pod
from parsers.directory import KNOWN, REASONS
from parsers.pipeline import ParsedBatch
from tests.cluster.churn import Churn
from tests.cluster.conftest import Account
from tests.cluster.control_plane import ControlPlane
from tests.cluster.cutting_proxy import CuttingProxy
from tests.cluster.pods import PODS, fill
from tests.cluster.traffic import payloads
from tests.telling import Tell

_PODS, _NODES = 5000, 50
_SECONDS, _EVENTS = 60.0, 210  # of which the first and the last seconds have fewer
_LEAST_EVENTS = 200  # a second
_BATCH, _PAUSE = 100, 0.05
_SETTLES = 3.0  # s after the last change, in which names that are late come


@dataclass(slots=True, repr=False)
class Compared:
    """Sides of flows, by what came of their names."""

    right: int = 0
    wrong: list[tuple[str, str, float]] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    oldest_unknown: float = 0.0

    def compare(self, found: str, wanted: str, reason: str, age: float) -> None:
        if found == wanted:
            self.right += 1
        elif found:
            self.wrong.append((found, wanted, age))
        else:
            self.unknown[reason] += 1
            self.oldest_unknown = max(self.oldest_unknown, age)

    def __repr__(self) -> str:
        unknown = f"{dict(self.unknown)} unknown ({self.share():.3%})"
        age = f"at most {self.oldest_unknown:.2f} s after the API server knew"
        return f"{self.right} right, {len(self.wrong)} wrong, {unknown}, {age}"

    def share(self) -> float:
        return self.unknown.total() / (self.right + self.unknown.total())


class Judge:
    """Sends traffic through an agent's path and compares names, at once and in the end."""

    def __init__(self, agent: Agent, churn: Churn) -> None:
        self._agent = agent
        self._churn = churn
        self._wanted: list[tuple[str, str]] = []
        self._ages: list[float] = []
        self.at_once, self.later, self.in_the_end = Compared(), Compared(), Compared()
        agent.path.followers.append(self._look)

    def send(self, count: int) -> None:
        pairs = []
        for _ in range(count):
            addresses, names, age = self._churn.pair()
            pairs.append(addresses)
            self._wanted.append(names)
            self._ages.append(age)
        self._agent.path.deliver(payloads(pairs))

    def _look(self, parsed: ParsedBatch) -> None:
        start = len(self._wanted) - len(parsed.flows.time)
        self._judge(parsed.flows.conversation, start, self.at_once)

    def look_again(self) -> None:
        """At what the history has of them."""
        flows = self._agent.history.flows
        assert len(self._wanted) == flows.end - flows.oldest
        for position, piece in flows.pieces(flows.oldest, flows.end, 1 << 14):
            self._judge(piece.conversation, position - flows.oldest, self.later)

    def _judge(
        self, rows: np.ndarray[tuple[int], np.dtype[np.uint32]], start: int, into: Compared
    ) -> None:
        conversations = self._agent.history.tables.conversations
        for i, row in enumerate(rows, start):
            unknown = int(conversations.unknown[row])
            for column, wanted, code in (
                ("source_entity", self._wanted[i][0], unknown & 15),
                ("destination_entity", self._wanted[i][1], unknown >> 4),
            ):
                entity = conversations.entities[getattr(conversations, column)[row]]
                into.compare(entity.pod_name, wanted, REASONS[code], self._ages[i])


def agent_of(
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    port: int,
    folder: Path,
    clock: Callable[[], int] = time.time_ns,
) -> Agent:
    """An agent in a pod of node n00000, without listeners and without a source."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    values = {
        "source": "cilium",
        "node": {"name": "n00000"},
        "cilium": {"socket": str(folder / "none.sock")},
        "identity": {"kubernetes": {"enabled": True, "service_account": str(account.folder)}},
        "hubble": {"unix_socket": None},
        "metrics": {"hubble": {"listen": None}, "agent": {"listen": None}},
        "health": {"listen": None},
        "history": {"flows": 400_000},
    }
    return Agent(parse_config(values, {}), EventLog(write=lambda _: None), clock=clock)


Meddle: TypeAlias = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Play:
    """Pods that come and go, an agent, and its traffic."""

    plane: ControlPlane
    account: Account
    agent: Agent
    pods: int
    nodes: int

    async def run(self, seconds: float, events: int, meddle: Meddle) -> tuple[Judge, float]:
        """What became of the names, and how many changes there were a second."""
        with self.plane.client() as client:
            client.do("DELETE", f"{PODS}?gracePeriodSeconds=0")
        await trio.to_thread.run_sync(fill, self.plane, self.nodes, self.pods)
        churn = Churn(self.plane, self.pods, self.nodes)
        judge = Judge(self.agent, churn)
        ends, rate = trio.Event(), 0.0

        async def change() -> None:
            nonlocal rate
            rate = await trio.to_thread.run_sync(churn.run, seconds, events)
            ends.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.agent.run)
            await self.current()
            nursery.start_soon(change)
            nursery.start_soon(meddle)
            while not ends.is_set():
                judge.send(_BATCH)
                await trio.sleep(_PAUSE)
            await self.current()
            await trio.sleep(_SETTLES)
            judge.look_again()
            judge.at_once, during = Compared(), judge.at_once
            judge.send(2000)
            judge.in_the_end, judge.at_once = judge.at_once, during
            nursery.cancel_scope.cancel()
        assert not churn.failures
        return judge, rate

    async def current(self) -> None:
        with trio.fail_after(60):
            while "kubernetes" in self.agent.complaints():
                await trio.sleep(0.01)


async def test_no_flow_has_a_wrong_name_and_few_have_none(
    control_plane: ControlPlane,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tell: Tell,
) -> None:
    agent = agent_of(account, monkeypatch, control_plane.port, tmp_path)
    play = Play(control_plane, account, agent, _PODS, _NODES)
    judge, rate = await play.run(_SECONDS, _EVENTS, trio.lowlevel.checkpoint)
    tell(f"{rate:.0f} changes/s; names at once: {judge.at_once}, later: {judge.later}")
    assert rate >= _LEAST_EVENTS
    assert not judge.at_once.wrong
    assert not judge.later.wrong
    # At once it depends on the machine how soon the API server is told, and tells us; every
    # name that is missing then has a reason, and a second later it is there.
    assert REASONS[KNOWN] not in judge.at_once.unknown
    assert judge.later.share() <= 0.01
    assert judge.later.oldest_unknown <= 1.0


async def test_faults_make_names_late_but_not_wrong(
    control_plane: ControlPlane,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tell: Tell,
) -> None:
    """Cut inside objects, away, 410 by compaction, other credentials, a server that dies."""

    async def meddle() -> None:
        for allowance in (10, 333, 4444):
            await trio.sleep(2)
            proxy.allowance = allowance
        await trio.sleep(2)
        secret = account.secret
        account.rotate()
        with control_plane.client() as client:
            client.do("DELETE", f"/api/v1/namespaces/kube-system/secrets/{secret}")
        await proxy.cut()
        await trio.sleep(2)
        proxy.open = False
        await proxy.cut()
        await trio.sleep(2)
        control_plane.compact()
        control_plane.kill_server()
        await trio.to_thread.run_sync(control_plane.start_server)
        await trio.sleep(2)
        proxy.open = True

    proxy = CuttingProxy(control_plane.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        agent = agent_of(account, monkeypatch, proxy.port, tmp_path)
        play = Play(control_plane, account, agent, 1000, 10)
        judge, _ = await play.run(25.0, 30, meddle)
        nursery.cancel_scope.cancel()
    tell(f"with faults: names at once: {judge.at_once}, later: {judge.later}")
    assert agent.kubernetes is not None
    (pods,) = [watch for watch in agent.kubernetes.watches if watch.resource.kind is Pod]
    assert 1 <= pods.counts.lists["expired"]
    assert REASONS[KNOWN] not in judge.at_once.unknown
    # Who was there last when the server was, and had gone when it came back, has ended some
    # time between: flows of that time have no names, as those could be wrong.
    assert not judge.later.wrong
    assert {"expired"} >= judge.later.unknown.keys()
    assert not judge.in_the_end.wrong
    assert not judge.in_the_end.unknown


@pytest.mark.parametrize("hours", [-1, 1], ids=["back", "forward"])
async def test_a_clock_that_is_set_makes_no_name_wrong(
    control_plane: ControlPlane,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tell: Tell,
    hours: int,
) -> None:
    step = 0

    async def meddle() -> None:
        nonlocal step
        await trio.sleep(4)
        step = hours * 3600 * 10**9

    agent = agent_of(
        account, monkeypatch, control_plane.port, tmp_path, lambda: time.time_ns() + step
    )
    play = Play(control_plane, account, agent, 500, 10)
    judge, _ = await play.run(12.0, 30, meddle)
    tell(f"clock set by {hours} h: names at once: {judge.at_once}, later: {judge.later}")
    assert not judge.later.wrong
    assert judge.later.share() <= 0.01
    assert not judge.in_the_end.wrong
    assert not judge.in_the_end.unknown
