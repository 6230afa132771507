"""What the conformance tier runs against: Hubble's own parser, server, command line, relay.

Built from tests/conformance/oracle into ``.cache/oracle``; ``CILIARY_ORACLE``,
``CILIARY_HUBBLE`` and ``CILIARY_HUBBLE_RELAY`` name other places.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.relay_cluster import Cluster
from tests.programs import built

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def oracle() -> Path:
    """The program around Hubble's own packages."""
    return built("oracle", "CILIARY_ORACLE")


@pytest.fixture(scope="session")
def hubble() -> Path:
    """Hubble's command line."""
    return built("hubble", "CILIARY_HUBBLE")


@pytest.fixture(scope="session")
def relay() -> Path:
    """Hubble's relay."""
    return built("hubble-relay", "CILIARY_HUBBLE_RELAY")


@pytest.fixture
async def cluster(relay: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path, relay)
    async with made.running():
        yield made


@pytest.fixture(scope="session")
def small_stream(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``stream``, ``world.json`` and ``flows.jsonl`` of some hundred events."""
    directory = tmp_path_factory.mktemp("stream")
    subprocess.run(
        [
            oracle, "gen", "--seed", "7", "--mix", "steady", "--count", "500",
            "--stream", directory / "stream", "--flows", directory / "flows.jsonl",
            "--world", directory / "world.json",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    return directory


@pytest.fixture(scope="session")
def hubble_server(oracle: Path, small_stream: Path) -> Iterator[str]:
    """Hubble's own server over ``small_stream``: a gRPC target."""
    with serving_hubble(oracle, small_stream / "stream", small_stream / "world.json") as target:
        yield target


@contextmanager
def serving_hubble(oracle: Path, stream: Path, world: Path, *options: str) -> Iterator[str]:
    """Hubble's own server over a stream: a gRPC target."""
    socket = stream.with_name("hubble.sock")
    command: list[str | Path] = [
        oracle, "hubble", "--stream", stream, "--world", world, "--socket", socket, *options,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(socket.exists)
            yield f"unix://{socket}"
        finally:
            process.terminate()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Poll until the condition holds; fails the test when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {condition}")
        time.sleep(0.02)
