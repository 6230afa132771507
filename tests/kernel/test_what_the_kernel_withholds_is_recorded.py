from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.kernel.withheld import Record


@pytest.fixture
def own() -> Iterator[Record]:
    record = Record(os.getpid())
    if record.obstacle:
        pytest.skip(f"no trace events: {record.obstacle}")
    try:
        yield record
    finally:
        record.close()


def connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 10).close()


def test_events_of_the_process_are_counted_since_the_start(own: Record) -> None:
    connect()
    assert own.count() > 0
    own.start()
    assert own.count() == 0
    connect()
    assert own.count() > 0
