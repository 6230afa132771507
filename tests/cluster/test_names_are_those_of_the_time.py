"""5,000 pods, 200 changes a second for a minute: every flow has the names of its time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import trio

from bridge.agent import Agent
from bridge.config import parse_config
from bridge.event_log import EventLog
from parsers.directory import KNOWN, REASONS
from parsers.pipeline import ParsedBatch
from tests.cluster.churn import Churn
from tests.cluster.conftest import Account
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import PODS, fill
from tests.cluster.traffic import payloads
from tests.telling import Tell

_PODS, _NODES = 5000, 50
_SECONDS, _EVENTS = 60.0, 200
_BATCH, _PAUSE = 100, 0.05


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
        self.at_once = Compared()
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

    def in_the_end(self) -> Compared:
        """What the history has of them."""
        compared = Compared()
        flows = self._agent.history.flows
        assert len(self._wanted) == flows.end - flows.oldest
        for position, piece in flows.pieces(flows.oldest, flows.end, 1 << 14):
            self._judge(piece.conversation, position - flows.oldest, compared)
        return compared

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


def agent_of(account: Account, monkeypatch: pytest.MonkeyPatch, port: int, folder: Path) -> Agent:
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
    return Agent(parse_config(values, {}), EventLog(write=lambda _: None))


async def test_no_flow_has_a_wrong_name_and_few_have_none(
    control_plane: ControlPlane,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tell: Tell,
) -> None:
    with control_plane.client() as client:
        client.do("DELETE", f"{PODS}?gracePeriodSeconds=0")
    await trio.to_thread.run_sync(fill, control_plane, _NODES, _PODS)
    churn = Churn(control_plane, _PODS, _NODES)
    agent = agent_of(account, monkeypatch, control_plane.port, tmp_path)
    judge = Judge(agent, churn)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.run)
        assert agent.kubernetes is not None
        with trio.fail_after(60):
            while "kubernetes" in agent.complaints():
                await trio.sleep(0.01)
        began = time.monotonic()
        ends = trio.Event()

        async def change() -> None:
            await trio.to_thread.run_sync(churn.run, _SECONDS, _EVENTS)
            ends.set()

        nursery.start_soon(change)
        while not ends.is_set():
            judge.send(_BATCH)
            await trio.sleep(_PAUSE)
        took = time.monotonic() - began
        await trio.sleep(3)
        finally_ = judge.in_the_end()
        nursery.cancel_scope.cancel()
    assert not churn.failures
    at_once = judge.at_once
    tell(f"{churn.events / took:.0f} changes/s; names at once: {at_once}, later: {finally_}")
    assert not at_once.wrong
    assert not finally_.wrong
    # At once it depends on the machine how soon the API server is told, and tells us; every
    # name that is missing then has a reason, and a second later it is there.
    assert REASONS[KNOWN] not in at_once.unknown
    assert finally_.share() <= 0.01
    assert finally_.oldest_unknown <= 1.0
