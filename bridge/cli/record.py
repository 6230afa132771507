"""``ciliary record``: save what a monitor socket says.

The file has the bytes of one connection up to the last whole message: type ids mean
nothing across connections, so a recording never spans two.
"""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path
from typing import IO

import click
import trio

from bridge.cli.event_loop import run_until_done
from bridge.cli.seconds import Seconds
from bridge.os_errors import reason_of
from bridge.recording import MessageSplitter, cannot_write, create_recording
from bridge.signals import run_until_signal
from parsers.errors import UsageError

_READ = 256 << 10


class Recorder:
    """Copies a connection's whole messages to ``file`` and counts the payloads."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self._splitter = MessageSplitter()
        self._pending = bytearray()
        self.payloads = 0

    async def copy(self, connection: socket.socket, limit: float = math.inf) -> None:
        """Until the peer closes or ``limit`` payloads; cancellation loses no whole message.

        ``connection`` is non-blocking. ``ProtocolError``: the peer does not speak gob.
        ``UsageError``: the connection broke, or the file cannot be written.
        """
        while self.payloads < limit:
            await trio.lowlevel.wait_readable(connection)
            try:
                data = connection.recv(_READ)
            except OSError as error:
                raise UsageError(
                    f"the connection broke: {reason_of(error)}; what came before it is in "
                    f"{self._path}, record again for more"
                ) from None
            if not data:
                return
            self._pending += data
            self.payloads += len(self._splitter.feed(data).ends)
            whole = len(self._pending) - self._splitter.torn
            try:
                self._file.write(self._pending[:whole])
            except OSError as error:
                raise cannot_write(self._path, error) from None
            del self._pending[:whole]


async def _record(
    monitor_socket: Path, recording: Path, force: bool, duration: float, limit: float
) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(os.fspath(monitor_socket))
        except OSError as error:
            raise UsageError(
                f"cannot connect to {monitor_socket}: {reason_of(error)}; "
                "name the socket of a running agent that you may read"
            ) from None
        connection.setblocking(False)
        with create_recording(recording, overwrite=force) as file:
            recorder = Recorder(file, recording)

            async def copy() -> None:
                with trio.move_on_after(duration):
                    await recorder.copy(connection, limit)

            await run_until_signal(copy)
    return recorder.payloads


@click.command()
@click.argument("monitor_socket", metavar="SOCKET", type=click.Path(path_type=Path))
@click.argument("recording", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Write over an existing file.")
@click.option("--duration", type=Seconds(), help="Stop after so many seconds.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after about so many payloads.")
def record(
    monitor_socket: Path,
    recording: Path,
    force: bool,
    duration: float | None,
    count: int | None,
) -> None:
    """Save what the monitor socket SOCKET says to FILE, until Ctrl-C.

    A FILE that ends in .gz or .xz is compressed. It is readable by you alone, as it may
    hold what users consider secret.
    """
    longest, most = duration or math.inf, count or math.inf  # neither can be 0
    payloads = run_until_done(_record, monitor_socket, recording, force, longest, most)
    size = recording.stat().st_size
    click.echo(f"{payloads} payloads in {recording}, {size} bytes", err=True)
