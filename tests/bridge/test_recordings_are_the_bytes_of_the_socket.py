from __future__ import annotations

import gzip
import lzma
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from bridge.cli import root
from bridge.recording import MessageSplitter, create_recording, open_recording, read_messages
from bridge.replay import Replay
from parsers.errors import UsageError
from parsers.framing import PayloadStream
from tests import fixtures
from tests.bridge.agent_socket import definition, sample

STREAM = fixtures.stream_bytes("v1.19", "l7")
PAYLOADS = [payload.data for payload in fixtures.payloads("v1.19", "l7")]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "stream"
    path.write_bytes(STREAM)
    return path


async def received(path: Path) -> bytes:
    """All that a client that connects now is told."""
    chunks = []
    async with await trio.open_unix_socket(path) as client:
        async for chunk in client:
            chunks.append(chunk)  # noqa: PERF401 -- no: bytes(async comprehension) reads worse
    return b"".join(chunks)


def data_of(stream: bytes) -> list[bytes]:
    reader = PayloadStream()
    reader.feed(stream)
    found = []
    while (batch := reader.take()) is not None:
        found += [batch.data(row) for row in range(len(batch))]
    assert not reader.waiting
    return found


@contextmanager
def cli(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("size", [13, 4096, len(STREAM)])
def test_a_stream_is_split_the_same_however_it_arrives(size: int) -> None:
    splitter = MessageSplitter()
    parts = [splitter.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size)]
    assert 0 == splitter.torn
    assert len(PAYLOADS) == sum(len(part.ends) for part in parts)
    joined = b"".join(part.definitions for part in parts) + b"".join(p.payloads for p in parts)
    assert STREAM == joined, "this stream has its definition first"


def test_a_message_is_whole_at_its_last_byte() -> None:
    splitter = MessageSplitter()
    stream = definition() + sample(b"one")
    whole = [at for at, byte in enumerate(stream, 1) if splitter.feed(bytes([byte])).ends]
    assert [len(stream)] == whole


def test_definitions_between_payloads_are_told_apart() -> None:
    one, two = sample(b"one"), sample(b"two")
    messages = MessageSplitter().feed(definition() + one + definition() + two)
    assert 2 * definition() == messages.definitions
    assert one + two == messages.payloads
    assert [len(one), len(one + two)] == messages.ends


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_written_recording_reads_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stream{suffix}"
    with create_recording(path) as file:
        file.write(STREAM)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    stored = path.read_bytes()
    if suffix:
        stored = gzip.decompress(stored) if suffix == ".gz" else lzma.decompress(stored)
    assert STREAM == stored
    renamed = path.rename(tmp_path / "anything")
    with open_recording(renamed) as file:
        assert STREAM == file.read()


def test_a_recording_is_not_overwritten_unasked(recording: Path) -> None:
    with pytest.raises(UsageError, match="--force"), create_recording(recording):
        pass
    recording.chmod(0o644)
    with create_recording(recording, overwrite=True):
        pass
    assert b"" == recording.read_bytes()
    assert 0o600 == stat.S_IMODE(recording.stat().st_mode)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "device"])
def test_what_is_no_regular_file_is_refused_and_left_as_it_is(
    recording: Path, tmp_path: Path, kind: str
) -> None:
    path = Path("/dev/full") if kind == "device" else tmp_path / "other"
    recording.chmod(0o644)
    if kind == "link":
        path.symlink_to(recording)
    elif kind == "pipe":
        os.mkfifo(path, 0o644)
    elif kind == "directory":
        path.mkdir()
    before = path.stat().st_mode
    with pytest.raises(UsageError, match="not a regular file; choose"):
        with create_recording(path, overwrite=True):
            pass
    assert before == path.stat().st_mode
    assert STREAM == recording.read_bytes()


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_recording_that_was_cut_off_is_read_as_far_as_it_goes(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"stream{suffix}"
    with create_recording(path) as file:
        file.write(STREAM)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *parts, last = read_messages(path)
    found = b"".join(part.definitions + part.payloads for part in parts)
    assert STREAM.startswith(found)
    assert len(STREAM) // 4 < len(found) < len(STREAM)
    assert last.cut_off
    assert not any(part.cut_off for part in parts)
    decoded = CliRunner().invoke(root, ["decode", str(path)])
    assert decoded.exit_code == 0
    assert "is cut off: a record at its end is not whole" in decoded.stderr


def test_a_whole_recording_says_nothing_of_an_end(recording: Path) -> None:
    assert not any(part.cut_off for part in read_messages(recording))
    assert CliRunner().invoke(root, ["decode", str(recording)]).stderr == ""


@pytest.mark.parametrize("content", [b"#!/bin/sh\necho hello\n" * 9, sample(b"x"), b"\0" * 99])
def test_what_is_no_recording_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not a recording"):
        list(read_messages(path))


async def test_a_replay_gives_every_client_definitions_and_payloads(
    recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "monitor.sock"
    results: list[bytes] = []
    replay = Replay(recording, path, rate=3000)
    async with trio.open_nursery() as nursery:
        await nursery.start(replay.run)

        async def client() -> None:
            results.append(await received(path))

        nursery.start_soon(client)
        await trio.sleep(0.1)
        nursery.start_soon(client)  # comes in the middle
    late, whole = sorted((data_of(result) for result in results), key=len)
    assert PAYLOADS == whole
    assert 0 < len(late) < len(whole)
    assert PAYLOADS[-len(late) :] == late
    assert not path.exists()
    assert 0 == replay.statistics.missed


async def test_a_replay_at_full_speed_loses_nothing_to_a_slow_client(
    recording: Path, tmp_path: Path
) -> None:
    path = tmp_path / "monitor.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(Replay(recording, path).run)
        async with await trio.open_unix_socket(path) as client:
            await trio.sleep(0.1)
            assert STREAM == b"".join([chunk async for chunk in client])


async def test_a_loop_defines_its_types_once(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(Replay(recording, path, inf, True).run)
        got = b""
        async with await trio.open_unix_socket(path) as client:
            while len(got) < 3 * len(STREAM):
                got += await client.receive_some()
        nursery.cancel_scope.cancel()
    body = STREAM[1 + STREAM[0] :]  # behind the one definition, a short message
    assert (STREAM + 3 * body).startswith(got)


async def test_a_replay_never_takes_a_living_socket(recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(Replay(recording, path, inf, True).run)
        with pytest.raises(UsageError, match="another server is listening"):
            await Replay(recording, path).run()
        async with await trio.open_unix_socket(path) as client:
            assert STREAM.startswith(await client.receive_some(10))
        nursery.cancel_scope.cancel()


def test_record_ends_with_a_whole_message_on_ctrl_c(recording: Path, tmp_path: Path) -> None:
    path, copy = tmp_path / "monitor.sock", tmp_path / "copy.gz"
    with cli("replay", str(recording), str(path), "--rate", "500", "--loop"):
        while not path.exists():
            pass
        with cli("record", str(path), str(copy)) as recorder:
            while not copy.exists():
                pass
            try:
                recorder.wait(0.5)
            except subprocess.TimeoutExpired:
                recorder.send_signal(2)
            _, said = recorder.communicate(timeout=30)
            assert 0 == recorder.returncode
    found = gzip.decompress(copy.read_bytes())
    assert STREAM.startswith(found)
    assert f"{len(data_of(found))} payloads" in said


def test_recording_a_socket_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    done = CliRunner().invoke(root, ["record", str(tmp_path / "no.sock"), str(tmp_path / "f")])
    assert isinstance(done.exception, UsageError)
    assert "no such file" in str(done.exception)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_takes_no_more_is_one_sentence(
    recording: Path, tmp_path: Path, suffix: str
) -> None:
    path, copy = tmp_path / "monitor.sock", tmp_path / f"copy{suffix}"
    with cli("replay", str(recording), str(path), "--rate", "max", "--loop"):
        while not path.exists():
            pass
        with subprocess.Popen(
            ["bash", "-c", 'ulimit -f 64; exec "$@"', "-",
             sys.executable, "-m", "bridge", "record", str(path), str(copy)],
            stderr=subprocess.PIPE, text=True,
        ) as recorder:  # fmt: skip
            _, said = recorder.communicate(timeout=20)
    assert 1 == recorder.returncode
    assert 1 == len(said.splitlines())
    assert f"cannot write {copy}: file too large; choose" in said


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--duration", "-1"], "-1 is not a positive number of seconds"),
        (["--duration", "0"], "0 is not a positive number of seconds"),
        (["--duration", "nan"], "nan is not a positive number of seconds"),
        (["--count", "0"], "0 is not in the range"),
        (["--count", "-5"], "-5 is not in the range"),
    ],
)
def test_a_limit_of_a_recording_is_positive(tmp_path: Path, option: list[str], told: str) -> None:
    done = CliRunner().invoke(root, ["record", "s", str(tmp_path / "f"), *option])
    assert 2 == done.exit_code
    assert told in done.output


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan"])
def test_a_rate_is_positive_or_max(rate: str) -> None:
    done = CliRunner().invoke(root, ["replay", "f", "s", "--rate", rate])
    assert 2 == done.exit_code
    assert "neither a positive number nor 'max'" in done.output


def test_a_recording_without_payloads_cannot_be_repeated(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    done = CliRunner().invoke(root, ["replay", str(empty), str(tmp_path / "s"), "--loop"])
    assert 1 == done.exit_code
    assert "has no payloads to repeat" in str(done.output) + str(done.exception)
