"""A small HTTP/1.1 server for scrapes, health and debug pages, on h11 and trio.

Strategy: routes are plain functions from a request to a response. A body is bytes, or
an iterator of chunks; between two chunks the server gives way to the event loop, so
that a long answer delays nobody. A client can make its own connection fail and nothing
else: what it sends is bounded in size and time, and so is how long it may take to read.

Deliberately not done: request bodies (read up to a limit and thrown away), methods other
than GET and HEAD, ranges. TLS is a matter of the listeners.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, TypeAlias

import h11
import trio

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """``method`` is GET or HEAD; header names are in lower case."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """``body`` in chunks is made while it is sent; an empty chunk only gives way."""

    body: bytes | Iterator[bytes]
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Route: TypeAlias = Callable[[Request], Response]
"""Answers at once, within a few milliseconds; what takes longer is an iterator."""

Observe: TypeAlias = Callable[[str, int, float], None]
"""Told of each answer: path (empty for no request), status, seconds until it was sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them, may take."""

    connections: int = 64
    idle: float = 90.0  # s between requests; Prometheus keeps a connection from scrape to scrape
    head: float = 10.0  # s from the first byte of a request to its last
    answer: float = 60.0  # s to take an answer
    head_bytes: int = 16 * 1024
    body_bytes: int = 64 * 1024


@dataclass(slots=True)
class ServerStatistics:
    """Connections now and at most, requests answered, connections turned away."""

    connections: int = 0
    peak: int = 0
    requests: int = 0
    refused: int = 0


async def serve_http(
    routes: Mapping[str, Route],
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    limits: Limits | None = None,
    observe: Observe | None = None,
    statistics: ServerStatistics | None = None,
    task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``routes`` (by path) until cancelled, which closes listeners and connections.

    ``task_status`` is started with the listeners. Whatever a client sends, nothing is
    raised; an exception in a route is logged and answered with 500.
    """
    server = _Server(routes, limits or Limits(), observe, statistics or ServerStatistics())
    await trio.serve_listeners(server.serve, list(listeners), task_status=task_status)


class _Server:
    def __init__(
        self,
        routes: Mapping[str, Route],
        limits: Limits,
        observe: Observe | None,
        statistics: ServerStatistics,
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.observe = observe
        self.statistics = statistics

    async def serve(self, stream: trio.abc.Stream) -> None:
        """One connection, from accept to close."""
        counts = self.statistics
        counts.connections += 1
        counts.peak = max(counts.peak, counts.connections)
        connection = _Connection(stream, self.limits)
        try:
            if counts.connections > self.limits.connections:
                counts.refused += 1
                with trio.move_on_after(1):  # under TLS it is the client that delays this
                    await connection.send(_text(503, "too many connections"))
            else:
                while await self._serve_one(connection):
                    pass
                await connection.linger()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client went away, or is too slow to be served
        except Exception:
            LOG.exception("an answer broke off")
        finally:
            counts.connections -= 1
            # Not gracefully: a client that does not read must not hold us.
            await trio.aclose_forcefully(stream)

    async def _serve_one(self, connection: _Connection) -> bool:
        """Answer one request; whether the connection may carry another."""
        path = ""
        try:
            request = await connection.receive()
            if request is None:
                return False
            path = request.path
            started = trio.current_time()
            response = self._answer(request)
        except h11.RemoteProtocolError as error:
            started = trio.current_time()
            response = _text(error.error_status_hint, "this is not a request we can read")
        reusable = await connection.send(response)
        self.statistics.requests += 1
        if self.observe is not None:
            self.observe(path, response.status, trio.current_time() - started)
        return reusable

    def _answer(self, request: Request) -> Response:
        route = self.routes.get(request.path)
        if route is None:
            return _text(404, "there is " + ", ".join(sorted(self.routes)))
        if request.method not in {"GET", "HEAD"}:
            return _text(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
        try:
            return route(request)
        except Exception:
            LOG.exception("the route %s failed", request.path)
            return _text(500, "the page could not be made; see the log")


class _Connection:
    """h11 on a stream, with limits."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._protocol = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._is_head = False

    async def receive(self) -> Request | None:
        """The next request, its body thrown away; None when the client has no more.

        Raises ``h11.RemoteProtocolError`` for what is not HTTP, ``trio.TooSlowError``.
        """
        if self._protocol.our_state is h11.DONE:
            self._protocol.start_next_cycle()
        self._is_head = False
        if not self._protocol.trailing_data[0]:
            with trio.fail_after(self._limits.idle):
                self._protocol.receive_data(await self._receive())
        with trio.fail_after(self._limits.head):
            head = await self._next_event()
            if not isinstance(head, h11.Request):
                return None
            size = 0
            while isinstance(event := await self._next_event(), h11.Data):
                size += len(event.data)
                if size > self._limits.body_bytes:
                    raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
        self._is_head = head.method == b"HEAD"
        path, _, query = head.target.decode("ascii").partition("?")
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Request(head.method.decode("ascii"), path, query, headers)

    async def send(self, response: Response) -> bool:
        """Send a whole response; whether the connection can be used again.

        Raises ``trio.TooSlowError``, ``trio.BrokenResourceError``.
        """
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", response.content_type),
            *response.headers,
        ]
        body = response.body
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
            chunks: Iterator[bytes] = iter((body,))
        else:
            chunks = body
        reusable = self._protocol.their_state is h11.DONE
        if not reusable:  # the rest of the request is not worth waiting for
            headers.append(("Connection", "close"))
        with trio.fail_after(self._limits.answer):
            reason = HTTPStatus(response.status).phrase
            await self._send(
                h11.Response(status_code=response.status, headers=headers, reason=reason)
            )
            for chunk in () if self._is_head else chunks:
                if chunk:
                    await self._send(h11.Data(data=chunk))
                await trio.lowlevel.checkpoint()
            await self._send(h11.EndOfMessage())
        return reusable and self._protocol.our_state is h11.DONE

    async def linger(self) -> None:
        """Let the client read the last answer: a close with unread input would take it away."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
            with trio.move_on_after(1):
                while await self._stream.receive_some():
                    pass

    async def _next_event(self) -> object:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            if self._protocol.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._protocol.receive_data(await self._receive())
        return event

    async def _receive(self) -> bytes:
        # In pieces: h11 minds the length of a head only while it is incomplete.
        return bytes(await self._stream.receive_some(4096))

    async def _send(self, event: h11.Event) -> None:
        data = self._protocol.send(event)
        if data:
            await self._stream.send_all(data)


def _text(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return Response(f"{text}\n".encode(), status=status, headers=headers)
