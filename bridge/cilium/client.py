"""The client of Cilium's monitor socket: connect by path, drain quickly, process calmly.

Strategy: two clocks. The agent writes one small message a system call, a socket buffer
holds about 280 of them, and what its queue cannot hold is discarded without a word. So a
*drain* task empties the socket at intervals that follow how full it finds it, and only
appends bytes. A *process* task takes batches from what was drained, at most 20 ms old
when somebody watches and 100 ms otherwise, because an event in a batch of 1,000 costs a
tenth of one in a batch of 20. Between batches it yields, and the size of a batch follows
from the time the last one took, so that nobody on the loop waits for more than some 5 ms.

When what was drained and not processed reaches ``MAX_WAITING`` bytes, the drain stops
and the loss moves to where it cannot be seen: the agent's queue. That is booked as not
observable, once an occasion. The drain goes on when half of it is taken, or when nothing
whole is left to take: the rest of a long message comes only to who goes on reading.

A torn or broken stream is thrown away with its connection and never repaired: type ids
belong to one connection. The connection is made again by path, for ever. A *watch* task
compares the path's inode with the one connected to, because a new agent makes a new
socket, and the old connection may stay open and silent.

Cancellation: ``run`` ends at once; what was drained and not processed is dropped.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import trio

from bridge.backoff import Backoff
from bridge.event_log import EventLog
from bridge.os_errors import reason_of
from parsers.errors import ProtocolError
from parsers.framing import MAX_MESSAGE, PayloadBatch, PayloadStream
from parsers.ledger import Ledger

MAX_WAITING = 2 * MAX_MESSAGE
"""Bytes drained and not processed, at most: some 160,000 events, or the longest message
and as much behind it."""

BATCH = 5000
"""Payloads a batch, at most; what a batch takes of the loop decides, see ``next_batch``."""

_STEP = 0.004  # seconds a batch should take; ``take`` gives up to half as many more
_SMALLEST_BATCH = 200  # a storm of new conversations; below it the fixed cost rules

_READ = 256 << 10
_FULL = 32 << 10  # about 150 messages, half a socket buffer: drain on without a nap
_SHORTEST_NAP, _LONGEST_NAP = 0.001, 0.010  # the agent's smallest queue holds 10 ms of a storm
_AGE_WATCHED, _AGE_UNWATCHED = 0.020, 0.100
_WATCH_INTERVAL = 0.5
_CALM = 10.0  # seconds without a stall that end an overload
_STEADY = 5.0  # seconds after which a connection counts as one, payloads or not


@dataclass(frozen=True, slots=True)
class MonitorStatistics:
    """``state`` is what a person is told; the numbers count since the start."""

    state: str
    connected: bool
    connections: int
    bytes_read: int
    payloads: int
    waiting: int  # bytes drained and not processed
    waiting_peak: int
    stalls: int  # occasions at which the drain had to stop


class MonitorClient:
    """Reads the socket at ``path`` and hands batches of payloads to ``deliver``.

    ``deliver`` is called on the loop; ``watched`` says whether somebody waits for flows;
    ``on_connect`` is told of each connection made, ``on_end`` of its end.
    """

    def __init__(
        self,
        path: Path,
        deliver: Callable[[PayloadBatch], None],
        *,
        ledger: Ledger,
        log: EventLog,
        watched: Callable[[], bool] = lambda: True,
        on_connect: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        self._path = path
        self._deliver = deliver
        self._ledger = ledger
        self._log = log
        self._watched = watched
        self._on_connect = on_connect
        self._on_end = on_end
        self._backoff = backoff or Backoff()
        self._state = self._told = "not tried yet"
        self._fruitful = True  # whether the last connection brought payloads
        self._connected = False
        self._connections = self._bytes_read = self._payloads = 0
        self._waiting_peak = self._stalls = 0
        self._batch = _SMALLEST_BATCH
        self._begin()

    def _begin(self) -> None:
        """State of one connection."""
        self._stream = PayloadStream()
        self._drained = trio.Event()
        self._room = trio.Event()
        self._over = ""  # why nothing more will be drained
        self._overload = 0  # stalls since the drain last kept up
        self._stalled_at = math.inf

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connected

    def statistics(self) -> MonitorStatistics:
        """Where it stands."""
        return MonitorStatistics(
            self._state,
            self._connected,
            self._connections,
            self._bytes_read,
            self._payloads,
            self._stream.waiting,
            self._waiting_peak,
            self._stalls,
        )

    async def run(self) -> NoReturn:
        """Connect, read and connect again, until cancelled."""
        while True:
            inode = _inode(self._path)
            try:
                connection = _connect(self._path)
            except OSError as error:
                self._say(_remedy(self._path, error))
            else:
                with connection:
                    await self._use(connection, inode)
            await self._pause(inode)

    async def _use(self, connection: socket.socket, inode: int) -> None:
        """One connection from its first byte to its last."""
        self._begin()
        self._connected = True
        self._connections += 1
        self._on_connect()
        self._say("connected", tell=self._fruitful)
        payloads = self._payloads
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain, connection)
                nursery.start_soon(self._watch, inode)
                try:
                    await self._process()
                except ProtocolError as error:
                    self._over = str(error)
                except Exception:  # a fault of ours: whoever runs us will start us again
                    self._ledger.book_unobservable("socket", "gap")
                    raise
                nursery.cancel_scope.cancel()
        finally:
            self._connected = False
            self._on_end()
            self._tell_overload()
        torn = f" inside a message, {self._stream.waiting} bytes dropped"
        self._say(f"connection lost: {self._over}{torn if self._stream.waiting else ''}")
        self._ledger.book_unobservable("socket", "gap")
        self._fruitful = self._payloads > payloads
        if self._fruitful:
            self._backoff.reset()

    async def _pause(self, inode: int) -> None:
        """Wait out the backoff; a socket that is new at the path ends it early."""
        until = trio.current_time() + self._backoff.next_delay()
        while (left := until - trio.current_time()) > 0:
            await trio.sleep(min(left, _WATCH_INTERVAL))
            if _inode(self._path) not in {0, inode}:
                self._backoff.reset()
                return

    async def _drain(self, connection: socket.socket) -> None:
        buffer = memoryview(bytearray(_READ))
        nap = _SHORTEST_NAP
        while not self._over:
            await trio.lowlevel.wait_readable(connection)
            try:
                count = connection.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError as error:
                self._end(reason_of(error))
                return
            if not count:
                self._end("closed by the agent")
                return
            self._bytes_read += count
            self._stream.feed(buffer[:count])
            self._waiting_peak = max(self._waiting_peak, self._stream.waiting)
            self._drained.set()
            if self._stream.waiting >= MAX_WAITING:
                await self._stall()
            elif count < _FULL:
                nap = min(2 * nap, _LONGEST_NAP) if count < _FULL // 4 else _SHORTEST_NAP
                await trio.sleep(nap)

    async def _stall(self) -> None:
        self._stalls += 1
        self._ledger.book_unobservable("socket", "agent_queue")
        if not self._overload:
            self._log.warning("monitor.stalled", waiting_bytes=self._stream.waiting)
        self._overload += 1
        self._stalled_at = math.inf
        self._room = trio.Event()  # what was fed just now gives ``_process`` a turn to set it
        await self._room.wait()
        self._stalled_at = trio.current_time()

    def _tell_overload(self) -> None:
        if self._overload:
            self._log.warning("monitor.stalls_over", stalls=self._overload)
            self._overload = 0

    async def _watch(self, inode: int) -> None:
        steady = trio.current_time() + _STEADY
        while True:
            await trio.sleep(_WATCH_INTERVAL)
            now = trio.current_time()
            if now >= steady:
                self._tell()
            if now - self._stalled_at >= _CALM:
                self._tell_overload()
            found = _inode(self._path)
            if not found:
                self._say("connected, but the socket's path is gone")
            elif found != inode:
                self._end("the socket was replaced by a new one")
                return

    async def _process(self) -> None:
        """Returns when all that can be had of this connection is delivered."""
        while True:
            await self._drained.wait()
            if not self._over:
                await trio.sleep(_AGE_WATCHED if self._watched() else _AGE_UNWATCHED)
            self._drained = trio.Event()
            over = self._over  # as of now: what is drained meanwhile has a turn of its own
            while (batch := self._stream.take(self._batch)) is not None:
                self._payloads += len(batch)
                began = time.perf_counter()
                self._deliver(batch)
                self._batch = next_batch(len(batch), time.perf_counter() - began)
                self._tell()
                if self._stream.waiting <= MAX_WAITING // 2:
                    self._room.set()
                await trio.lowlevel.checkpoint()
            self._room.set()  # a message that is not whole needs more, however much waits
            if over:
                return
            if self._over:
                self._drained.set()

    def _end(self, reason: str) -> None:
        self._over = self._over or reason
        self._drained.set()

    def _say(self, state: str, *, tell: bool = True) -> None:
        self._state = state
        if tell:
            self._tell()

    def _tell(self) -> None:
        """Log a change of state, and only a change.

        Behind a connection that brought nothing, the next one is told once it proves
        better, so a peer that talks garbage costs a line and not two a connection.
        """
        if self._state != self._told:
            self._told = self._state
            tell = self._log.info if self._state == "connected" else self._log.warning
            tell("monitor.state", path=str(self._path), state=self._state)


def next_batch(payloads: int, seconds: float) -> int:
    """How many payloads to take next, after a batch that took so long."""
    return max(_SMALLEST_BATCH, min(BATCH, int(payloads * _STEP / max(seconds, 1e-6))))


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(os.fspath(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _inode(path: Path) -> int:
    """0 when there is nothing."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _remedy(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "waiting: there is no socket; is Cilium's agent running, and its directory mounted?"
    if isinstance(error, PermissionError):
        return (
            "waiting: no permission to connect; run in the group of the socket "
            f"(cilium, where it exists) or as root: ls -l {path}"
        )
    if isinstance(error, ConnectionRefusedError):
        return "waiting: nobody listens on the socket; is Cilium's agent starting?"
    return f"waiting: cannot connect: {reason_of(error)}"
