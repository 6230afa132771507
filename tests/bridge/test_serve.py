"""``ciliary serve`` as a process: its answers, its refusals, its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest

from api.v1.observer import observer_pb2, observer_pb2_grpc
from api.v1.peer import peer_pb2, peer_pb2_grpc
from bridge.hubble_client import HubbleClient
from tests import fixtures

COMMAND = [sys.executable, "-m", "bridge", "serve"]


class Place:
    """A recording and its world."""

    def __init__(self, directory: Path) -> None:
        self.recording = directory / "stream.xz"
        source = fixtures.FIXTURES / "v1.20"
        self.recording.write_bytes((source / "steady.stream.xz").read_bytes())
        self.world = directory / "world.json.xz"
        self.world.write_bytes((source / "world.json.xz").read_bytes())
        self.socket = directory / "hubble.sock"

    @contextmanager
    def serving(self, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """The process and the sentence by which it says that it serves."""
        command = [*COMMAND, str(self.recording), "--world", str(self.world), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                yield process, process.stderr.readline()
            finally:
                process.kill()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_history_is_the_recording_with_its_names_times_and_uuids(place: Place) -> None:
    wanted = [
        line["event"] for line in fixtures.expected("v1.20", "steady") if line["kind"] == "flow"
    ]
    with place.serving("--listen", f"unix://{place.socket}") as (process, sentence):
        assert f"{len(wanted):,} flows of " in sentence
        with HubbleClient(f"unix://{place.socket}") as client:
            flows = client.last_flows(1 << 20)
            status = client.server_status()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert not place.socket.exists()
    assert status.seen_flows == len(wanted)
    got = [(f.uuid, f.time.ToJsonString(), f.node_name, f.source.pod_name) for f in flows]
    assert got == [
        (f["uuid"], f["time"], f["node_name"], f.get("source", {}).get("pod_name", ""))
        for f in wanted
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", ""])
def test_a_relay_is_told_where_it_can_dial(host: str, place: Place) -> None:
    unix = f"unix://{place.socket}"
    options = ("--listen", unix, "--listen", f"{host}:0", "--insecure")
    with place.serving(*options) as (_, sentence):
        port = sentence.rpartition(";")[0].rpartition(":")[2]
        with grpc.insecure_channel(unix) as channel:
            told = next(peer_pb2_grpc.PeerStub(channel).Notify(peer_pb2.NotifyRequest()))
            ask = observer_pb2_grpc.ObserverStub(channel).GetNodes
            (node,) = ask(observer_pb2.GetNodesRequest()).nodes
        with HubbleClient(told.address) as client:
            assert client.server_status().seen_flows > 0
    assert told.address == node.address
    told_host, _, told_port = told.address.rpartition(":")
    assert told_port == port
    is_loopback, is_any = told_host == "127.0.0.1", ip_address(told_host.strip("[]")).is_unspecified
    has_route = "\t00000000\t" in Path("/proc/net/route").read_text()
    assert is_loopback == (host == "127.0.0.1")
    assert not (is_any and has_route)


def test_metrics_are_those_of_the_recording(place: Place) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with place.serving("--listen", "127.0.0.1:0", "--metrics-listen", f"127.0.0.1:{port}") as (
        _,
        sentence,
    ):
        assert "Ctrl-C ends" in sentence
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    dropped = sum(
        line["event"].get("verdict") == "DROPPED"
        for line in fixtures.expected("v1.20", "steady")
        if line["kind"] == "flow"
    )
    series = [line for line in text.splitlines() if line.startswith("hubble_drop_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in series) == dropped > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Missing option '--listen'"),
        (["--listen", "0.0.0.0:0"], "listen on 127.0.0.1, or say --insecure"),
        (["--listen", ":4244"], "plain TCP that other machines can reach"),
        (["--listen", "nowhere"], "'nowhere' is not host:port"),
        (["--listen", "unix:relative.sock"], "such as unix:///tmp/hubble.sock"),
        (["--listen", "127.0.0.1:0", "--metrics-listen", "x"], "'x' is not host:port"),
        (["--listen", "127.0.0.1:0", "--metrics", "flow"], "say with --metrics-listen where"),
        (["--listen", "127.0.0.1:0", "--release", "new"], "'new' is not a release"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(
    options: list[str], sentence: str, place: Place
) -> None:
    done = subprocess.run(
        [*COMMAND, str(place.recording), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())


@pytest.mark.parametrize("wrong", ["recording", "content", "world", "port", "metrics", "socket"])
def test_what_cannot_be_had_is_one_sentence_and_ends_with_1(wrong: str, place: Place) -> None:
    arguments, options = [str(place.recording)], ["--listen", "127.0.0.1:0"]
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as alive:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if wrong == "recording":
            arguments, sentence = [str(place.socket)], "no such file or directory"
        elif wrong == "content":
            place.recording.write_text("nothing of the kind")
            sentence = "has no records; record it again"
        elif wrong == "world":
            options += ["--world", str(place.socket)]
            sentence = "no such file or directory"
        elif wrong == "port":
            options, sentence = ["--listen", address], "address already in use"
        elif wrong == "metrics":
            options += ["--metrics-listen", address]
            sentence = "set --metrics-listen to another port"
        else:
            alive.bind(str(place.socket))
            alive.listen()
            options = ["--listen", f"unix://{place.socket}"]
            sentence = "another server is listening"
        done = subprocess.run(
            [*COMMAND, *arguments, *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("ciliary: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_world_is_not_needed(place: Place) -> None:
    command = [*COMMAND, str(place.recording), "--listen", f"unix://{place.socket}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "Ctrl-C ends" in process.stderr.readline()
            with HubbleClient(f"unix://{place.socket}") as client:
                assert [f.uuid for f in client.last_flows(1)] != [""]
        finally:
            process.kill()
