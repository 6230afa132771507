from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.withheld import NoTraceEventsError, Record, _open_instances


@pytest.fixture
def own() -> Iterator[Record]:
    try:
        record = Record(os.getpid())
    except NoTraceEventsError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no trace events: {error}")
    try:
        yield record
    finally:
        record.close()


_RECORDING = """
import time
from tests.kernel.withheld import Record
record = Record(1)
print(record._name, flush=True)
time.sleep(60)
"""


def buffers() -> list[str]:
    folder = _open_instances()
    try:
        return os.listdir(folder)  # noqa: PTH208 - an fd
    finally:
        os.close(folder)


def connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 10).close()


def test_events_of_the_process_are_counted_since_the_start(own: Record) -> None:
    for _ in range(20):
        connect()
    before = own.count()
    assert before >= 20
    own.start()
    connect()
    # what others do in interrupts of ours may come along
    assert 0 < own.count() < before


def test_nothing_is_left_of_a_process_that_was_killed(own: Record) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", _RECORDING], stdout=subprocess.PIPE, env={"PYTHONPATH": "."}
    )
    with killed:
        assert killed.stdout is not None
        name = killed.stdout.readline().decode().strip()
        assert name in buffers()
        killed.kill()
    Record(os.getpid()).close()
    assert name not in buffers()
    assert "ciliary" not in Path("/proc/mounts").read_text()
