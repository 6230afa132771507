"""Invariant: whatever a client of the pages sends, it is answered or turned away.

Each answer is one that a client understands, none is a server's error (500), and the
server has nothing to log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import h11
import trio
import trio.testing
from prometheus_client import CollectorRegistry, Counter

from api.metrics.http import serve_http
from api.metrics.routes import health_route, ledger_route, metrics_route
from parsers.ledger import Ledger


def seeds() -> Iterator[bytes]:
    """Requests as Prometheus, curl and scanners send them."""
    yield b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=0.0.4;q=0.5\r\n\r\n"
    yield b"HEAD /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    yield b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n"
    yield b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"


class _Logged(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage())


logging.getLogger("api.metrics.http").addHandler(_Logged())
REGISTRY = CollectorRegistry()
Counter("fuzzed", "Something to show.", registry=REGISTRY)
ROUTES = {
    "/metrics": metrics_route(tuple, (REGISTRY,)),
    "/healthz": health_route(dict),
    "/debug/ledger": ledger_route(Ledger()),
}


class _OneClient(trio.abc.Listener[trio.abc.Stream]):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._streams = [stream]

    async def accept(self) -> trio.abc.Stream:
        if not self._streams:
            await trio.sleep_forever()
        return self._streams.pop()

    async def aclose(self) -> None:
        pass


def check(data: bytes) -> None:
    """Be a client that sends this and then reads to the end."""
    answers = trio.run(_ask, data)
    client = h11.Connection(h11.CLIENT)
    client.receive_data(answers)
    while client.their_state is h11.SEND_RESPONSE or client.their_state is h11.SEND_BODY:
        event = client.next_event()
        if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
            break
        assert not isinstance(event, h11.Response) or event.status_code != 500


async def _ask(data: bytes) -> bytes:
    client, server = trio.testing.memory_stream_pair()
    answers = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, ROUTES, [_OneClient(server)])
        await client.send_all(data)
        await client.send_eof()
        async for piece in client:
            answers += piece
        nursery.cancel_scope.cancel()
    return bytes(answers)
