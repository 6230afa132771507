"""The demo, as a stranger runs it."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest

DEMO = [sys.executable, "-m", "bridge", "demo"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_check_probes_every_endpoint_and_passes() -> None:
    done = run("--check", "--duration", "1.5", "--json")
    assert 0 == done.returncode, done.stdout + done.stderr
    findings = json.loads(done.stdout)["findings"]
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
    assert 3 == len(figures)
    assert 0 < figures[0]["flows"] < figures[-1]["flows"]
    assert {} == figures[-1]["unexplained"]


def test_the_end_of_the_recording_is_the_end_without_loop() -> None:
    done = run("--rate", "max", "--no-loop", "--json")
    assert 0 == done.returncode
    assert 20_000 == json.loads(done.stdout.splitlines()[-1])["records"]


@pytest.mark.parametrize("terminal", [False, True])
def test_ctrl_c_ends_within_a_second_with_a_summary(terminal: bool) -> None:
    master, slave = pty.openpty()
    output = slave if terminal else subprocess.PIPE
    with subprocess.Popen(DEMO, stdout=output, stderr=subprocess.STDOUT) as process:
        os.close(slave)
        seen = b""
        reader = master if terminal or process.stdout is None else process.stdout.fileno()
        while b"FORWARDED" not in seen:
            seen += os.read(reader, 65536)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        with suppress(OSError):  # a terminal whose program is gone
            while chunk := os.read(reader, 65536):
                seen += chunk
        process.wait(5)
        assert time.monotonic() - asked < 1
        assert 0 == process.returncode
    os.close(master)
    assert b"unexplained 0" in seen.splitlines()[-1]


def test_it_starts_within_two_seconds() -> None:
    began = time.monotonic()
    with subprocess.Popen([*DEMO, "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.terminate()
    assert 0 < first["flows"]
    assert time.monotonic() - began < 2 + 1, "the first line comes a second after the start"
