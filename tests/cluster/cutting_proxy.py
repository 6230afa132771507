"""A TCP proxy whose connections can be cut, in the middle of whatever they carry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio


class CuttingProxy:
    """Forwards to ``port``. While ``open`` is false connections are closed at once."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._streams: set[trio.SocketStream] = set()
        self.open = True
        self.port = 0
        self.allowance: int | None = None
        """Bytes that the server may still send; the connection is then cut, and it is None."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def cut(self) -> None:
        """All connections."""
        for stream in list(self._streams):
            await trio.aclose_forcefully(stream)

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client:
            if not self.open:
                return
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._target)
            except OSError:
                return
            async with server, trio.open_nursery() as nursery:
                self._streams |= {client, server}
                nursery.start_soon(self._forward, client, server, nursery.cancel_scope)
                nursery.start_soon(self._forward_measured, server, client, nursery.cancel_scope)
            self._streams -= {client, server}

    async def _forward(
        self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some():
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _forward_measured(
        self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some():
                if self.allowance is not None:
                    data = data[: self.allowance]
                    self.allowance -= len(data)
                await target.send_all(data)
                if self.allowance == 0:
                    self.allowance = None
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@contextlib.asynccontextmanager
async def proxy_of(port: int) -> AsyncIterator[CuttingProxy]:
    """One that runs."""
    proxy = CuttingProxy(port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()
