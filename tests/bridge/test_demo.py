"""The demo, as a stranger runs it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "bridge", "demo"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_check_probes_every_endpoint_and_passes() -> None:
    done = run("--check", "--duration", "1.5", "--json")
    assert 0 == done.returncode, done.stdout + done.stderr
    endpoints, end = map(json.loads, done.stdout.splitlines())
    assert endpoints["endpoints"]["hubble"].startswith("127.0.0.1:")
    findings = end["findings"]
    assert 7 == len(findings)
    assert all(finding["passed"] for finding in findings)


def test_check_fails_when_a_probe_fails() -> None:
    done = run("--check", "--duration", "0.3", "--rate", "1")
    assert 1 == done.returncode
    assert "FAILED hubble observe" in done.stdout


def test_taken_ports_are_replaced_and_told() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # somebody else's is as good
            other.bind(("127.0.0.1", 9965))
            other.listen()
        done = run("--duration", "1.5")
    assert 0 == done.returncode, done.stderr
    assert "port 9965 (hubble metrics) is taken here" in done.stdout


def test_without_a_terminal_it_prints_lines_and_what_to_paste() -> None:
    done = run("--duration", "2.5", "--rate", "200")
    lines = done.stdout.splitlines()
    assert "hubble observe --follow --server 127.0.0.1:" in lines[0]
    assert any(" -> " in line and "FORWARDED" in line for line in lines)
    assert "unexplained 0" in lines[-1]
    assert not any("\x1b" in line for line in lines)


def test_json_has_a_line_a_second_and_one_at_the_end() -> None:
    done = run("--duration", "2.5", "--json")
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert 4 == len(figures)
    assert {"endpoints", "moved_ports"} == set(figures.pop(0))
    assert 0 < figures[0]["flows"] < figures[-1]["flows"]
    assert {} == figures[-1]["unexplained"]


def test_the_end_of_the_recording_is_the_end_without_loop() -> None:
    done = run("--rate", "max", "--no-loop", "--json")
    assert 0 == done.returncode
    assert 20_000 == json.loads(done.stdout.splitlines()[-1])["records"]


def test_the_first_json_line_says_where_the_servers_are_and_they_are_there() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # somebody else's is as good
            other.bind(("127.0.0.1", 10094))
            other.listen()
        with subprocess.Popen([*DEMO, "--json"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            with urllib.request.urlopen(first["endpoints"]["health"] + "/readyz") as answer:
                assert 200 == answer.status
            process.terminate()
    moved = first["moved_ports"]["health"]
    assert 10094 == moved["usual"]
    assert f"http://127.0.0.1:{moved['here']}" == first["endpoints"]["health"]


@pytest.mark.parametrize("duration", ["-1", "0", "nan", "inf", "soon"])
def test_a_duration_that_is_none_is_wrong_usage(duration: str) -> None:
    done = run("--duration", duration)
    assert 2 == done.returncode
    assert f"{duration} is not a positive number of seconds" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_reader_that_leaves_ends_it_quietly(arguments: list[str]) -> None:
    command = [*DEMO, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert 0 == process.wait(10)
        assert b"" == process.stderr.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            DEMO, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert 1 == done.returncode
    assert "ciliary: cannot write to standard output: no space left on device\n" == done.stderr


def test_a_long_name_of_the_temporary_directory_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    done = run("--check", "--duration", "1.5")
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("columns", "lines"), [(60, 24), (40, 10), (80, 12), (80, 24)])
def test_hints_are_whole_lines_on_any_terminal(columns: int, lines: int) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
    with subprocess.Popen([*DEMO, "--duration", "1.5"], stdout=slave, stderr=slave) as process:
        os.close(slave)
        seen = b""
        with suppress(OSError):  # a terminal whose program is gone
            while chunk := os.read(master, 65536):
                seen += chunk
        assert 0 == process.wait(10)
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert re.search(
        r"^ *hubble status --server unix://\S+/hubble[.]sock *\r?$", text, re.MULTILINE
    )
    assert re.search(r"^ *curl -s http://127.0.0.1:\d+/debug/ledger *\r?$", text, re.MULTILINE)
    assert "kube-system" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_ends_it_with_a_summary(terminal: bool) -> None:
    master, slave = pty.openpty()
    output = slave if terminal else subprocess.PIPE
    with subprocess.Popen(DEMO, stdout=output, stderr=subprocess.STDOUT) as process:
        os.close(slave)
        seen = b""
        reader = master if terminal or process.stdout is None else process.stdout.fileno()
        while b"FORWARDED" not in seen:
            seen += os.read(reader, 65536)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # a terminal whose program is gone
            while chunk := os.read(reader, 65536):
                seen += chunk
        process.wait(15)
        assert 0 == process.returncode
    os.close(master)
    assert b"unexplained 0" in seen.splitlines()[-1]


def test_it_starts_with_two_seconds_of_work() -> None:
    """CPU time, as what passes on the wall is up to whoever else uses the machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen([*DEMO, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "endpoints" in json.loads(process.stdout.readline())
        first = json.loads(process.stdout.readline())
        process.terminate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert 0 < first["flows"]
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 + 1
