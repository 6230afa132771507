"""Invariant: any bytes on the monitor socket give payloads, then at most a ``ProtocolError``.

In pieces as whole; each payload has one result, the books balance (``Parser.parse``), and
what waits is never more than what came.
"""

from __future__ import annotations

from collections.abc import Iterator

from parsers.errors import ProtocolError
from parsers.framing import PayloadBatch, PayloadStream
from parsers.world import directory_of
from tests.fixtures import Payload, release_number, stream_bytes, streams, world
from tests.parsers.recorded import Parser

RELEASE = "v1.19"
DIRECTORY = directory_of(world(RELEASE))


def seeds() -> Iterator[bytes]:
    """The first bytes of each recorded stream, whose definitions are all in them."""
    for release, mix in streams():
        yield stream_bytes(release, mix)[:2_000]


def check(data: bytes) -> None:
    """Feed it whole, and in pieces of a size that its first byte says."""
    whole, error = _read(data, len(data) or 1)
    pieces, same = _read(data, 1 + data[0] % 50 if data else 1)
    assert [p for batch in pieces for p in _contents(batch)] == [
        p for batch in whole for p in _contents(batch)
    ]
    # The excerpt ends with what has come.
    assert str(error).partition(" (bytes")[0] == str(same).partition(" (bytes")[0]
    parser = Parser(world(RELEASE), release_number(RELEASE), directory=DIRECTORY)
    for batch in whole:
        parser.parse(batch)


def _read(data: bytes, size: int) -> tuple[list[PayloadBatch], ProtocolError | None]:
    stream = PayloadStream()
    found: list[PayloadBatch] = []
    try:
        for at in range(0, len(data), size):
            stream.feed(data[at : at + size])
            while (batch := stream.take()) is not None:
                found.append(batch)
            assert stream.waiting <= at + size
    except ProtocolError as error:
        return found, error
    return found, None


def _contents(batch: PayloadBatch) -> list[Payload]:
    return [
        Payload(batch.data(row), int(batch.cpu[row]), int(batch.lost[row]), int(batch.kind[row]))
        for row in range(len(batch))
    ]
