"""Followers of both servers while flows come: history joined to what is new.

Each request names where it begins, so that nothing depends on when it was asked.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import ge
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.json_format import ParseDict

from api.history import History
from api.hubble.grpc_engine import open_engine
from api.hubble.observer import Observer
from api.hubble.peers import Peers
from api.hubble.services import services_of
from api.v1.observer import observer_pb2, observer_pb2_grpc
from bridge.identity.file import load_identity_file
from bridge.recorded import Recorded
from parsers.ledger import Ledger
from tests.api.hubble.serving import serving
from tests.api.hubble.test_engines import until
from tests.conformance.conftest import serving_hubble, wait_until

COUNT, RATE = 2000, 300  # a second
BEGIN = "2026-01-01T00:00:00.3Z"
ALL: dict[str, Any] = {"number": 1 << 30}
REQUESTS: list[dict[str, Any]] = [
    ALL,
    {"since": BEGIN},
    {"since": BEGIN, "until": "2026-01-01T00:00:01.5Z"},
    {"until": "2026-01-01T00:00:01.7Z", **ALL},
    {"whitelist": [{"verdict": ["DROPPED"]}], **ALL},
    {"whitelist": [{"source_pod": ["shop/"]}, {"destination_port": ["53"]}], "since": BEGIN},
    {"blacklist": [{"protocol": ["tcp"]}], **ALL},
    {"whitelist": [{"destination_label": ["app=kafka"]}], "field_mask": "time,uuid", **ALL},
]


@pytest.fixture(scope="module")
def stream(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("live")
    command: list[str | Path] = [
        oracle, "gen", "--seed", "7", "--mix", "steady", "--count", str(COUNT),
        "--stream", directory / "stream", "--flows", directory / "flows.jsonl",
        "--world", directory / "world.json",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return directory / "stream"


class Followers:
    """One of each request at a server, each in a thread of its own."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self._stub = observer_pb2_grpc.ObserverStub(self._channel)
        self._threads = ThreadPoolExecutor(len(REQUESTS))
        self.got: list[list[str]] = [[] for _ in REQUESTS]
        """What each was sent so far."""
        # A socket is there before somebody listens at it.
        self._calls: list[Any] = [
            self._stub.GetFlows(parsed({"follow": True, **request}), wait_for_ready=True)
            for request in REQUESTS
        ]
        self._readers = [
            self._threads.submit(self._read, call, into)
            for call, into in zip(self._calls, self.got, strict=True)
        ]

    def _read(self, call: Any, into: list[str]) -> None:
        try:
            into.extend(map(shown, call))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                raise

    def seen(self) -> int:
        """Flows that the server has seen."""
        return int(self._stub.ServerStatus(observer_pb2.ServerStatusRequest()).seen_flows)

    def history(self) -> list[list[str]]:
        """What the same requests get that do not follow."""
        return [list(map(shown, self._stub.GetFlows(parsed(request)))) for request in REQUESTS]

    def have_ended(self) -> bool:
        """Whether those have that shall, and no others."""
        return [reader.done() for reader in self._readers] == ["until" in r for r in REQUESTS]

    def stop(self) -> None:
        """End all calls."""
        for call in self._calls:
            call.cancel()
        self._threads.shutdown()
        self._channel.close()
        for reader in self._readers:
            reader.result()


def parsed(request: dict[str, Any]) -> observer_pb2.GetFlowsRequest:
    return ParseDict(request, observer_pb2.GetFlowsRequest())


def shown(answer: observer_pb2.GetFlowsResponse) -> str:
    return answer.flow.uuid or str(answer.lost_events)


def hubbles(oracle: Path, stream: Path, count: int) -> list[list[str]]:
    """What Hubble's followers got of a stream that came while they followed.

    It ends with what its requests for history get, which may miss the newest flow.
    """
    world = stream.with_name("world.json")
    with serving_hubble(oracle, stream, world, "--rate", str(RATE)) as target:
        followers = Followers(target)
        try:
            wait_until(lambda: all(followers.got))
            assert followers.seen() < count, "all flows came before somebody followed"
            wait_until(lambda: followers.seen() == count, 60)
            wanted = followers.history()
            wait_until(lambda: all(map(ge, map(len, followers.got), map(len, wanted))))
            wait_until(followers.have_ended)
        finally:
            followers.stop()
    assert [got[: len(all_)] for got, all_ in zip(followers.got, wanted, strict=True)] == wanted
    return followers.got


async def test_followers_get_the_same(
    oracle: Path, stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.recorded.BATCH", 37)
    recorded = Recorded(stream, load_identity_file(stream.with_name("world.json")))
    observer = Observer(History(recorded.tables, Ledger(), 65535), recorded.node, Ledger())
    batches = recorded.batches()
    for batch in islice(batches, 15):
        observer.publish(batch)
    services = services_of(observer, Peers(), version="0.1.0")
    async with serving(open_engine, services, "127.0.0.1:0") as engine:
        followers = await trio.to_thread.run_sync(Followers, engine.addresses[0])
        try:
            await until(lambda: all(followers.got))
            for batch in batches:
                observer.publish(batch)
                await trio.sleep(0.01)
            count = observer.history.flows.end
            wanted = await trio.to_thread.run_sync(hubbles, oracle, stream, count)
            await until(lambda: all(map(ge, map(len, followers.got), map(len, wanted))))
            await until(followers.have_ended)
        finally:
            await trio.to_thread.run_sync(followers.stop)
    for request, got, expected in zip(REQUESTS, followers.got, wanted, strict=True):
        assert got[: len(expected)] == expected, request
        assert len(got) <= len(expected) + 1, request
