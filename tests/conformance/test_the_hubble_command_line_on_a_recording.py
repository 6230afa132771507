"""``ciliary serve`` against Hubble's own server over the same stream, by Hubble's command line.

Hubble cannot show its newest event, so its stream has one more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.recording import read_messages
from tests.conformance.conftest import ROOT, serving_hubble, wait_until

COMMANDS = [
    "observe agent-events --all",
    "observe agent-events --all -o json",
    "observe agent-events --all -o dict",
    "observe agent-events --all -o table",
    "observe agent-events --since 2026-01-01T00:00:03.650Z --until 2026-01-01T00:00:03.670Z",
    "observe debug-events --all",
    "observe debug-events --all -o json",
    "observe debug-events --since 2026-01-01T00:00:02.700Z",
    "list namespaces",
    "list namespaces -o wide",
    "list namespaces -o json",
]


class Servers(NamedTuple):
    """gRPC targets over one stream."""

    ours: str
    hubbles: str


@pytest.fixture(scope="module")
def servers(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("recording")
    stream, longer = directory / "stream", directory / "longer"
    subprocess.run(
        [
            oracle, "gen", "--seed", "7", "--mix", "all", "--stream", stream,
            "--flows", directory / "flows.jsonl", "--world", directory / "world.json",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    first = next(part for part in read_messages(stream) if part.ends)
    longer.write_bytes(stream.read_bytes() + first.payloads[: first.ends[0]])
    ours = directory / "ours.sock"
    command: list[str | Path] = [
        sys.executable, "-m", "bridge", "serve", stream, "--world", directory / "world.json",
        "--listen", f"unix://{ours}",
    ]  # fmt: skip
    with serving_hubble(oracle, longer, directory / "world.json", "--max-flows", "65535") as target:
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(ours.exists)
                yield Servers(f"unix://{ours}", target)
            finally:
                process.terminate()


def run(hubble: Path, server: str, command: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [hubble, "--server", server, *command.split()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def comparable(text: str, command: str) -> list[object]:
    """Its lines, of debug events without the message: ours has the words of 1.20.

    tests/parsers compares those.
    """
    if "events" in command and command.endswith("json"):  # whose blanks are random
        events = [json.loads(line) for line in text.splitlines()]
        for event in events:
            event.get("debug_event", {}).pop("message", None)
        return events
    if "debug-events" in command:
        return [line.partition(" (")[0] for line in text.replace(" (ID", "").splitlines()]
    return list(text.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_prints_the_same(command: str, hubble: Path, servers: Servers) -> None:
    code, wanted, errors = run(hubble, servers.hubbles, command)
    assert (code, bool(wanted)) == (0, True)
    got = run(hubble, servers.ours, command)
    assert (got[0], got[2]) == (code, errors)
    for ours, hubbles in zip(comparable(got[1], command), comparable(wanted, command), strict=True):
        assert ours == hubbles


def test_status_counts_what_was_seen(hubble: Path, servers: Servers) -> None:
    _, flows, _ = run(hubble, servers.ours, "observe --all")
    shown = sum("EVENTS LOST" not in line for line in flows.splitlines())
    assert shown > 2800
    code, text, _ = run(hubble, servers.ours, "status")
    assert code == 0
    assert text.startswith(f"Healthcheck (via {servers.ours}): Ok\n")
    assert f"Current/Max Flows: {shown:,}/" in text


def test_the_node_is_listed_by_itself(hubble: Path, servers: Servers) -> None:
    code, text, _ = run(hubble, servers.ours, "list nodes -o wide")
    assert code == 0
    head, node = text.splitlines()
    assert head.split() == [
        "NAME", "STATUS", "AGE", "FLOWS/S", "CURRENT/MAX-FLOWS", "VERSION", "ADDRESS", "TLS",
    ]  # fmt: skip
    assert node.split()[:2] == ["oracle/node-a", "Connected"]
    assert node.split()[-2:] == [servers.ours, "Disabled"]


def test_peers_are_watched(hubble: Path, servers: Servers) -> None:
    with subprocess.Popen(
        [hubble, "--server", servers.ours, "watch", "peers"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            process.kill()
    assert line.split() == ["PEER_ADDED", servers.ours, "oracle/node-a"]


def test_reflection_names_the_same_services(hubble: Path, servers: Servers) -> None:
    ours, hubbles = (
        {
            f"{file.get('package')}.{service['name']}"
            for file in map(json.loads, run_reflect(hubble, server))
            for service in file.get("service", ())
        }
        for server in (servers.ours, servers.hubbles)
    )
    assert ours == hubbles


def run_reflect(hubble: Path, server: str) -> list[str]:
    code, text, errors = run(hubble, server, "reflect")
    assert code == 0, errors
    return text.splitlines()
