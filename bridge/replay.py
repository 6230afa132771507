"""Serves a recording on a unix socket the way Cilium's agent serves its monitor socket.

Every client gets the stream's type definitions first, once, and then each payload that
is played while it is connected, in order. There is one clock for all clients. At a given
rate a client that does not keep up misses payloads silently, as it would in front of the
agent; at ``max`` the replay waits for the slowest. While nobody is connected it pauses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import trio

from bridge.recording import Messages, read_messages
from bridge.unix_socket import listening_socket
from parsers.errors import UsageError

_TICK = 0.010
_CHUNK = 256  # payloads a write at full speed
_FLUSH = 5.0  # seconds for the clients to take what is left at the end
_QUEUE = 256  # writes a client may lag behind: at a given rate some 2.5 s


@dataclass(slots=True, eq=False)
class _Client:
    send: trio.MemorySendChannel[bytes]
    receive: trio.MemoryReceiveChannel[bytes]


@dataclass(slots=True)
class ReplayStatistics:
    """``missed`` counts payloads that a slow client did not get."""

    payloads: int = 0
    clients: int = 0
    missed: int = 0


@dataclass(slots=True)
class Replay:
    """``rate``: payloads a second, ``inf`` for as fast as the clients take them."""

    recording: Path
    socket: Path
    rate: float = inf
    loop: bool = False
    statistics: ReplayStatistics = field(default_factory=ReplayStatistics)
    _clients: set[_Client] = field(default_factory=set)
    _definitions: bytes = b""
    _arrival: trio.Event = field(default_factory=trio.Event)

    async def run(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> ReplayStatistics:
        """Play to the end, or for ever with ``loop``; started once the socket listens."""
        with listening_socket(self.socket) as listener:
            listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
            async with trio.open_nursery() as clients, trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, listeners, clients)
                task_status.started()
                await self._play()
                nursery.cancel_scope.cancel()
                for client in self._clients:
                    client.send.close()
                clients.cancel_scope.deadline = trio.current_time() + _FLUSH
        return self.statistics

    async def _accept(self, listeners: list[trio.SocketListener], clients: trio.Nursery) -> None:
        await trio.serve_listeners(self._serve, listeners, handler_nursery=clients)

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One client, until it leaves or the recording ends."""
        client = _Client(*trio.open_memory_channel[bytes](_QUEUE))
        prelude = self._definitions  # what is defined later comes through the channel
        self.statistics.clients += 1
        self._clients.add(client)
        self._arrival.set()
        try:
            async with stream, client.receive:
                await stream.send_all(prelude)
                async for chunk in client.receive:
                    await stream.send_all(chunk)
        except trio.BrokenResourceError:
            pass  # it left
        finally:
            self._clients.discard(client)

    async def _play(self) -> None:
        again = True
        first_pass = True
        while again:
            again, before = self.loop, self.statistics.payloads
            chunks = read_messages(self.recording)
            while (messages := await trio.to_thread.run_sync(next, chunks, None)) is not None:
                if first_pass and messages.definitions:
                    self._definitions += messages.definitions
                    await self._publish(messages.definitions, 0)
                await self._play_payloads(messages)
            first_pass = False
            if again and self.statistics.payloads == before:
                raise UsageError(f"{self.recording} has no payloads to repeat; record it again")

    async def _play_payloads(self, messages: Messages) -> None:
        done = 0
        start = trio.current_time()
        while done < len(messages.ends):
            if not self._clients:
                self._arrival = trio.Event()
                await self._arrival.wait()
                start = trio.current_time() - done / self.rate
            if self.rate == inf:
                due = done + _CHUNK
            else:
                await trio.sleep(_TICK)
                due = int((trio.current_time() - start) * self.rate)
            due = min(due, len(messages.ends))
            if due > done:
                begin = messages.ends[done - 1] if done else 0
                await self._publish(messages.payloads[begin : messages.ends[due - 1]], due - done)
                self.statistics.payloads += due - done
                done = due

    async def _publish(self, chunk: bytes, payloads: int) -> None:
        for client in list(self._clients):
            try:
                if self.rate == inf:
                    await client.send.send(chunk)
                else:
                    client.send.send_nowait(chunk)
            except trio.WouldBlock:
                self.statistics.missed += payloads
                if not payloads:  # without a definition the stream is worth nothing
                    client.send.close()
            except trio.BrokenResourceError:
                self._clients.discard(client)
