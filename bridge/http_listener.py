"""A part that serves HTTP pages on one configured address."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from api.metrics.http import Observe, Route, serve_http
from bridge.addresses import split_address
from bridge.certificates import CertificateFiles
from bridge.os_errors import reason_of
from bridge.supervision import Part
from parsers.errors import UsageError


def http_part(
    key: str,
    address: str,
    routes: Mapping[str, Route],
    observe: Observe | None = None,
    certificates: CertificateFiles | None = None,
) -> Part:
    """Serve ``routes`` on ``address``, which the configuration calls ``key``."""

    async def serve(ready: Callable[[], None]) -> None:
        if certificates is not None:
            await certificates.wait()
        listeners = await open_listeners(key, address)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_listeners, listeners)
            ready()

    async def serve_listeners(
        listeners: Sequence[trio.abc.Listener[Any]], *, task_status: trio.TaskStatus[object]
    ) -> None:
        if certificates is not None:
            listeners = [_TlsListener(listener, certificates) for listener in listeners]
        await serve_http(routes, listeners, observe=observe, task_status=task_status)

    return serve


class _TlsListener(trio.abc.Listener["trio.SSLStream[trio.SocketStream]"]):
    """Each connection with the certificates of its time."""

    def __init__(self, listener: trio.abc.Listener[Any], certificates: CertificateFiles) -> None:
        self._listener = listener
        self._certificates = certificates

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        stream = await self._listener.accept()
        return trio.SSLStream(
            stream, self._certificates.context, server_side=True, https_compatible=True
        )

    async def aclose(self) -> None:
        await self._listener.aclose()


async def open_listeners(key: str, address: str) -> list[trio.SocketListener]:
    """Bind; ``UsageError`` says what to do about an address that cannot be had."""
    host, port = split_address(address)
    try:
        return await trio.open_tcp_listeners(port, host=host or None)
    except OSError as error:
        raise UsageError(refusal(key, address, error)) from None


def refusal(key: str, address: str, error: OSError) -> str:
    """Why ``address`` cannot be listened on, and the remedy."""
    if error.errno == errno.EADDRINUSE:
        return f"{address} is taken by another process; stop that, or set {key} to another port"
    if error.errno == errno.EACCES:
        return f"no permission to listen on {address}; set {key} to a port above 1023"
    return (
        f"cannot listen on {address}: {reason_of(error)}; set {key} to an address of this machine"
    )
