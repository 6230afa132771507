"""The law of the ledger, over many events and whatever a socket can do to the agent.

The agent runs as users run it. How many records went out whole is counted by who sent
them (``sender``); what the agent says of each stage must add up to that, at each look on the
way and at the end, and its memory must not grow.

``CILIARY_SOAK_EVENTS`` is the number of events: 100,000,000 in CI, some minutes.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc

from api.v1.observer import observer_pb2, observer_pb2_grpc
from tests.soak.sender import ENDS

EVENTS = int(os.environ.get("CILIARY_SOAK_EVENTS") or (10**8 if os.environ.get("CI") else 10**6))
ROOT = Path(__file__).parents[2]
FLOWS = 100_000
MOST_GROWTH = 64 << 20  # bytes, after the first tenth
PATIENCE = 60 + EVENTS / 50_000  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE,
    ) as running:  # fmt: skip
        try:
            yield running
        finally:
            running.terminate()


@dataclass
class Agent:
    """The agent's process, and what its pages say."""

    pid: int
    port: int

    def ledger(self) -> dict[str, Any]:
        with urlopen(f"http://127.0.0.1:{self.port}/debug/ledger", timeout=60) as answer:
            page: dict[str, Any] = json.load(answer)
        return page

    def records(self) -> int:
        """That came in; at each look the law must hold."""
        page = self.ledger()
        assert page["balanced"], page
        return int(page["stages"]["socket"]["in"])

    def resident(self) -> int:
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.2)


def read_slowly(hubble: Path, stop: threading.Event) -> None:
    """A client that follows and cannot keep up."""
    with grpc.insecure_channel(f"unix://{hubble}") as channel:
        request = observer_pb2.GetFlowsRequest(follow=True)
        for _ in observer_pb2_grpc.ObserverStub(channel).GetFlows(request):
            if stop.wait(0.05):
                return


def test_every_event_is_accounted_for(tmp_path: Path) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201
    monitor, hubble, port = tmp_path / "monitor.sock", tmp_path / "hubble.sock", free_port()
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
source: cilium
cilium: {{socket: {monitor}}}
hubble: {{unix_socket: {hubble}}}
metrics: {{hubble: {{listen: null}}, agent: {{listen: null}}}}
health: {{listen: "127.0.0.1:{port}"}}
history: {{flows: {FLOWS}}}
"""
    )
    stop = threading.Event()
    with process("bridge", "agent", "--config", str(config)) as running:
        agent = Agent(running.pid, port)
        until(hubble.exists)
        follower = threading.Thread(target=read_slowly, args=(hubble, stop))
        follower.start()
        with process("tests.soak.sender", str(monitor), str(EVENTS), str(seed)) as sender:
            until(lambda: agent.records() > EVENTS // 10 or sender.poll() is not None)
            early = agent.resident()
            until(lambda: agent.records() >= 0 and sender.poll() is not None)
            assert sender.stdout
            told = json.load(sender.stdout)
        until(lambda: agent.records() == told["sent"])
        grown = agent.resident() - early
        stop.set()
        follower.join(60)
        stages = agent.ledger()["stages"]
    print(told, stages, grown)  # noqa: T201
    assert set(told["ends"]) == set(ENDS)
    assert stages["parser"]["in"] == told["sent"]
    assert stages["parser"]["out"] + sum(stages["parser"]["lost"].values()) == told["sent"]
    assert stages["history"]["waiting"] == FLOWS
    assert stages["follower"]["lost"], "the slow client lost nothing"
    assert grown < MOST_GROWTH
