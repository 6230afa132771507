"""A stand-in for Cilium's agent: a unix socket whose every byte the test decides."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio


def definition() -> bytes:
    """The payload's type definition, from the worked example of the monitor reference."""
    return bytes.fromhex(
        "37 7f 03 01 01 07 5061796c6f6164 01 ff80 00 01 04"
        "01 04 44617461 01 0a 00  01 03 435055 01 04 00"
        "01 04 4c6f7374 01 06 00  01 04 54797065 01 04 00  00 00"
    )


def sample(data: bytes, cpu: int = 0) -> bytes:
    """One event sample: Data, CPU if it is not 0, Type 9."""
    assert len(data) < 100
    body = b"\xff\x80\x01" + bytes([len(data)]) + data
    body += (b"\x01" + bytes([2 * cpu]) + b"\x02" if cpu else b"\x03") + b"\x12\x00"
    return bytes([len(body)]) + body


def long_sample(data: bytes) -> bytes:
    """A sample of up to 16 MiB, with every length in gob's four-byte form."""
    body = b"\xff\x80\x01\xfc" + len(data).to_bytes(4, "big") + data + b"\x03\x12\x00"
    return b"\xfc" + len(body).to_bytes(4, "big") + body


class AgentSocket:
    """Listens at ``path``; ``accept`` gives the connections one by one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(os.fspath(path))
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._streams: list[trio.SocketStream] = []

    async def accept(self) -> trio.SocketStream:
        """The next client."""
        await trio.lowlevel.wait_readable(self._listener)
        connection, _ = self._listener.accept()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        """Stop listening and hang up; the path stays, as after a crash."""
        self._listener.close()
        for stream in self._streams:
            stream.socket.close()


@asynccontextmanager
async def agent_socket(path: Path) -> AsyncIterator[AgentSocket]:
    """An agent that is gone when the block ends."""
    agent = AgentSocket(path)
    try:
        yield agent
    finally:
        agent.close()
        path.unlink(missing_ok=True)
