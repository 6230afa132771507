"""The command's lines equal Hubble's own, apart from who says so.

Field by field equality over everything is the golden tests' business; here the command is,
on the release whose API is ours, and without policy verdicts, on which Hubble errs there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import fixtures


def decode(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bridge", "decode", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def comparable(line: dict[str, Any]) -> dict[str, Any]:
    """Without the emitter, which is us, and without the words of errors."""
    event = {k: v for k, v in line.get("event", {}).items() if k != "emitter"}
    return {"i": line["i"], "kind": line["kind"], "class": line.get("class"), "event": event}


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_every_record_is_a_line_and_equals_hubbles(tmp_path: Path, suffix: str) -> None:
    source = fixtures.FIXTURES / "v1.20" / "steady.stream.xz"
    recording = tmp_path / f"stream{suffix}"
    recording.write_bytes(
        source.read_bytes() if suffix else fixtures.stream_bytes("v1.20", "steady")
    )
    world = tmp_path / "world.json"
    world.write_text(json.dumps(fixtures.world("v1.20")))
    done = decode(str(recording), "--world", str(world))
    assert "" == done.stderr
    ours = [json.loads(line) for line in done.stdout.splitlines()]
    sent = fixtures.payloads("v1.20", "steady")
    hubbles = [
        line for line in fixtures.expected("v1.20", "steady") if sent[line["i"]].data[:1] != b"\x05"
    ]
    assert len(sent) == len(ours)
    assert len(hubbles) > 1500
    by_number = {line["i"]: line for line in ours}
    assert [comparable(line) for line in hubbles] == [
        comparable(by_number[line["i"]]) for line in hubbles
    ]


def test_every_kind_is_told(tmp_path: Path) -> None:
    recording = tmp_path / "stream"
    recording.write_bytes(fixtures.stream_bytes("v1.19", "all"))
    done = decode(str(recording), "--release", "1.19")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert list(range(len(fixtures.payloads("v1.19", "all")))) == [line["i"] for line in lines]
    assert {"flow", "agent", "debug", "lost", "error"} == {line["kind"] for line in lines}


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    recording = tmp_path / "stream"
    recording.write_bytes(fixtures.stream_bytes("v1.19", "steady"))
    script = f"{sys.executable} -m bridge decode {recording} | head -1"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "" == done.stderr
    assert 0 == json.loads(done.stdout)["i"]


def test_what_is_no_recording_is_one_sentence(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello world, this is not gob\n" * 10)
    done = decode(str(text))
    assert 1 == done.returncode
    assert f"ciliary: {text} is not a recording" in done.stderr
    assert 1 == len(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("world", "told"),
    [
        ('{"base_time": "yesterday"}', "base_time 'yesterday' is not a time, such as"),
        ('{"ips": [{"cidr": "x"}]}', "cidr 'x' is not a prefix, such as"),
        (None, "no such file or directory; name a file"),
    ],
)
def test_a_world_that_is_wrong_is_one_sentence(
    tmp_path: Path, world: str | None, told: str
) -> None:
    recording, file = tmp_path / "stream", tmp_path / "world.json"
    recording.write_bytes(fixtures.stream_bytes("v1.19", "all"))
    if world is not None:
        file.write_text(world)
    done = decode(str(recording), "--world", str(file))
    assert 1 == done.returncode
    assert told in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_recording_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = decode(str(tmp_path / "none"))
    assert 1 == done.returncode
    assert f"ciliary: cannot read {tmp_path / 'none'}: no such file" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_release_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    done = decode(str(tmp_path / "none"), "--release", "bogus")
    assert 2 == done.returncode
    assert "Error: Invalid value for --release: 'bogus' is not a release, such as 1.18" in (
        done.stderr.splitlines()
    )


def test_a_full_device_is_one_sentence(tmp_path: Path) -> None:
    recording = tmp_path / "stream"
    recording.write_bytes(fixtures.stream_bytes("v1.19", "all"))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bridge", "decode", str(recording)],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert 1 == done.returncode
    assert "ciliary: cannot write the lines: no space left on device; send" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_ctrl_c_ends_without_a_word(tmp_path: Path) -> None:
    recording = tmp_path / "stream"
    recording.write_bytes(fixtures.stream_bytes("v1.19", "steady"))
    # Who runs tests in the background of a shell has it ignored, and so would the command.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "bridge", "decode"]
    with subprocess.Popen(
        [*command, str(recording)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()  # and from now on it waits for somebody to read more
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert 130 == process.returncode
    assert "" == said
