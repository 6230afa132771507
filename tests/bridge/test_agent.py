"""The whole agent on real sockets: what a user sees when things are there, or are not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from api.v1.peer import peer_pb2
from bridge import hubble_listener
from bridge.agent import Agent
from bridge.cli.agent import build
from bridge.config import parse_config
from bridge.event_log import EventLog
from bridge.hubble_client import HubbleClient
from bridge.replay import Replay
from tests import fixtures

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class Place:
    """A directory with a recording, a world and a configuration for an agent."""

    def __init__(self, directory: Path) -> None:
        self.recording = directory / "stream"
        self.recording.write_bytes(fixtures.stream_bytes("v1.18", "steady"))
        self.world = directory / "world.json"
        self.world.write_text(json.dumps(fixtures.world("v1.18")))
        self.monitor = directory / "monitor.sock"
        self.hubble = directory / "hubble.sock"
        self.metrics, self.own, self.health, self.tcp = (free_port() for _ in range(4))
        self.said: list[str] = []

    def sections(self) -> dict[str, Any]:
        return {
            "source": "cilium",
            "cilium": {"socket": str(self.monitor), "release": "1.18"},
            "identity": {"file": str(self.world)},
            "hubble": {"unix_socket": str(self.hubble), "listen": f"{LOOPBACK}:{self.tcp}"},
            "metrics": {
                "hubble": {"listen": f"{LOOPBACK}:{self.metrics}"},
                "agent": {"listen": f"{LOOPBACK}:{self.own}"},
            },
            "health": {"listen": f"{LOOPBACK}:{self.health}"},
            "history": {"flows": 10_000},
        }

    def agent(self, **changes: Any) -> Agent:
        config = parse_config({**self.sections(), **changes}, {})
        return build(config, EventLog(write=self.said.append))

    def page(self, port: int, path: str) -> tuple[int, str]:
        with contextlib.suppress(urllib.error.HTTPError):
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=30)
        with refused.value as answer:
            return answer.code, answer.read().decode()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run)
        yield nursery
        nursery.cancel_scope.cancel()


async def until(condition: Any) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.02)


async def test_a_stream_becomes_flows_metrics_and_a_balanced_ledger(place: Place) -> None:
    agent = place.agent()
    expected = [e for e in fixtures.expected("v1.18", "steady") if e["kind"] == "flow"]
    async with running(agent) as nursery:
        nursery.start_soon(Replay(place.recording, place.monitor).run)
        await until(lambda: len(agent.history.flows) == len(expected))
        for target in (f"unix://{place.hubble}", f"{LOOPBACK}:{place.tcp}"):
            with HubbleClient(target) as client:
                flows = await trio.to_thread.run_sync(client.last_flows, 10_000)
                status = await trio.to_thread.run_sync(client.server_status)
            assert [e["event"]["source"].get("pod_name", "") for e in expected] == [
                flow.source.pod_name for flow in flows
            ]
            assert len(expected) == status.seen_flows
        _, text = await trio.to_thread.run_sync(place.page, place.metrics, "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        counted = sum(s.value for s in families["hubble_flows_processed"].samples)
        assert len(expected) == counted
        _, own = await trio.to_thread.run_sync(place.page, place.own, "/metrics")
        assert 'ciliary_source_connects_total{source="cilium"}' in own
        _, ledger = await trio.to_thread.run_sync(place.page, place.health, "/debug/ledger")
        stages = json.loads(ledger)["stages"]
        assert json.loads(ledger)["balanced"]
        records = len(fixtures.payloads("v1.18", "steady"))
        assert records == stages["socket"]["in"] == stages["parser"]["in"]


async def test_an_agent_without_cilium_serves_and_says_what_it_waits_for(place: Place) -> None:
    async with running(place.agent()):
        await until(place.hubble.exists)
        status, text = await trio.to_thread.run_sync(place.page, place.health, "/readyz")
        assert 503 == status
        assert "cilium: waiting: there is no socket" in text
        assert (200, "ok\n") == await trio.to_thread.run_sync(place.page, place.health, "/healthz")


@pytest.mark.parametrize(
    ("taken", "key"),
    [
        ("metrics", "metrics.hubble.listen"),
        ("own", "metrics.agent.listen"),
        ("tcp", "hubble.listen"),
    ],
)
async def test_a_taken_port_degrades_its_part_and_is_taken_when_it_is_free(
    place: Place, taken: str, key: str
) -> None:
    agent = place.agent()
    port = getattr(place, taken)
    with socket.socket() as other:
        other.bind((LOOPBACK, port))
        other.listen()
        async with running(agent):
            await until(lambda: any(str(port) in c for c in agent.complaints().values()))
            await until(place.hubble.exists)
            (complaint,) = (line for line in place.said if str(port) in line)
            assert key in complaint
            assert "another process" in complaint
            other.close()
            await until(lambda: not any(str(port) in c for c in agent.complaints().values()))


async def test_an_address_of_another_machine_is_told_as_that(place: Place) -> None:
    hubble = {"listen": "192.0.2.1:4244", "insecure": True, "unix_socket": None}
    agent = place.agent(hubble=hubble)
    async with running(agent):
        await until(lambda: "192.0.2.1" in agent.complaints().get("hubble tcp", ""))
    told = agent.complaints()["hubble tcp"]
    assert told.startswith("cannot listen on 192.0.2.1:4244: ")
    assert told.endswith("; set hubble.listen to an address of this machine")


async def test_a_socket_that_was_removed_is_made_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubble_listener, "_LOOK", 0.1)
    agent = place.agent()
    async with running(agent):
        await until(place.hubble.exists)
        place.hubble.unlink()
        await until(lambda: "was removed" in agent.complaints().get("hubble unix socket", ""))
        await until(lambda: agent.complaints().keys() == {"cilium"})
        with HubbleClient(f"unix://{place.hubble}") as client:
            status = await trio.to_thread.run_sync(client.server_status)
        assert 10_000 <= status.max_flows
    assert not place.hubble.exists()


async def test_a_path_that_cannot_be_written_degrades_its_part(
    place: Place, tmp_path: Path
) -> None:
    obstacle = tmp_path / "file"
    obstacle.write_text("")
    agent = place.agent(hubble={"unix_socket": str(obstacle / "hubble.sock")})
    async with running(agent):
        await until(lambda: "hubble unix socket" in agent.complaints())
        await until(lambda: "hubble.unix_socket" in agent.complaints()["hubble unix socket"])
        assert 200 == (await trio.to_thread.run_sync(place.page, place.health, "/healthz"))[0]


async def test_a_living_hubble_server_keeps_its_socket(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(os.fspath(place.hubble))
        theirs.listen()
        agent = place.agent()
        async with running(agent):
            await until(
                lambda: (
                    "another server is listening"
                    in agent.complaints().get("hubble unix socket", "")
                )
            )
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(place.hubble))


async def test_what_keeps_an_agent_from_the_api_server_is_told(place: Place) -> None:
    missing = place.hubble.with_name("kubeconfig")
    agent = place.agent(identity={"kubernetes": {"kubeconfig": str(missing)}})
    async with running(agent):
        await until(lambda: str(missing) in agent.complaints().get("kubernetes", ""))
    assert agent.complaints()["kubernetes"].startswith("no names yet")


@pytest.mark.parametrize("content", [None, "{", '{"ips": [{"cidr": "no prefix"}]}', '{"x": 1}'])
async def test_names_appear_when_the_identity_file_does(place: Place, content: str | None) -> None:
    world = place.world.read_text()
    place.world.unlink()
    if content is not None:
        place.world.write_text(content)
    expected = [e for e in fixtures.expected("v1.18", "steady") if e["kind"] == "flow"]
    names = [e["event"]["source"].get("pod_name", "") for e in expected]
    node = expected[0]["event"]["node_name"]

    agent = place.agent()
    async with running(agent):
        await until(lambda: str(place.world) in agent.complaints().get("identity", ""))
        await Replay(place.recording, place.monitor).run()
        sent = len(fixtures.payloads("v1.18", "steady"))
        await until(lambda: agent.client.statistics().payloads == sent)
        nameless = len(agent.history.flows)
        place.world.write_text(world)
        await until(lambda: "identity" not in agent.complaints())
        await until(lambda: agent.node.name == node)
        await Replay(place.recording, place.monitor).run()
        await until(lambda: len(agent.history.flows) == nameless + len(names))
        with HubbleClient(f"unix://{place.hubble}") as client:
            flows = await trio.to_thread.run_sync(client.last_flows, nameless + len(names))
        async with aclosing(agent.peers.notify()) as peers:
            (peer,) = await anext(peers)
        told = peer_pb2.ChangeNotification.FromString(peer)
        assert (told.name, told.address) == (node, f"{LOOPBACK}:{place.tcp}")
    assert names == [flow.source.pod_name for flow in flows[nameless:]]
    before = [flow.source.pod_name for flow in flows[:nameless]]
    assert len(list(filter(None, before))) < len(list(filter(None, names))) // 2
    assert {node} == {flow.node_name for flow in flows}
    assert 1 == sum("part.degraded" in line and "identity" in line for line in place.said)


def test_a_changed_configuration_says_what_needs_a_restart(place: Place) -> None:
    agent = place.agent()
    changed = {**place.sections(), "log": {"level": "debug"}, "node": {"name": "other"}}
    assert ["node.name"] == agent.reload(parse_config(changed, {}))


def test_a_changed_list_of_metrics_is_in_force_and_a_file_wants_a_restart(place: Place) -> None:
    agent = place.agent()

    def reloaded(hubble: dict[str, object]) -> tuple[list[str], list[str]]:
        sections = place.sections()
        metrics = {**sections["metrics"], "hubble": {**sections["metrics"]["hubble"], **hubble}}
        told = agent.reload(parse_config({**sections, "metrics": metrics}, {}))
        return told, [spec.name for spec in agent.metrics.specs]

    assert ([], ["drop", "tcp"]) == reloaded({"enabled": ["tcp", "drop"]})
    told, counted = reloaded({"dynamic": str(place.recording)})
    assert "metrics.hubble.dynamic" in told
    assert ["drop", "tcp"] == counted


@contextmanager
def agent_process(place: Place, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**place.sections(), "log": {"format": "json"}}))
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "agent", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while not place.hubble.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_agent(place: Place, tmp_path: Path, number: signal.Signals) -> None:
    with agent_process(place, tmp_path) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=15)
    assert 0 == process.returncode
    assert ["agent.started", "agent.ending"] == [
        event
        for line in said.splitlines()
        if (event := json.loads(line)["event"]).startswith("agent.")
    ]
    assert not place.hubble.exists()


def test_a_hangup_reads_the_configuration_again(place: Place, tmp_path: Path) -> None:
    with agent_process(place, tmp_path) as process:
        config = tmp_path / "config.yaml"
        config.write_text("nonsense: 1")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        events = (json.loads(line) for line in process.stderr)
        refused = next(event for event in events if event["event"].startswith("config."))
        assert "nonsense" in refused["problems"][0]
        config.write_text("node: {name: other}")
        process.send_signal(signal.SIGHUP)
        taken = next(event for event in events if event["event"].startswith("config."))
        assert "node.name" in taken["restart_needed_for"]
