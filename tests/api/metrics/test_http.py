"""The HTTP server answers well, and no client can harm more than its own connection."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from api.metrics.http import Limits, Request, Response, Route, ServerStatistics, serve_http

LIMITS = Limits(connections=3, idle=90, head=10, answer=60, head_bytes=2048, body_bytes=4096)


class MemoryListener(trio.abc.Listener[trio.testing.MemoryReceiveStream]):
    """Connections without sockets, so that time can be virtual."""

    def __init__(self) -> None:
        self._dial, self._accepted = trio.open_memory_channel[Any](100)

    async def dial(self) -> Any:
        ours, theirs = trio.testing.memory_stream_pair()
        await self._dial.send(theirs)
        return ours

    async def accept(self) -> Any:
        return await self._accepted.receive()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def hello(_: Request) -> Response:
    return Response(b"hello\n")


def numbers(_: Request) -> Response:
    return Response(b"%d\n" % n if n % 2 else b"" for n in range(100))


def broken(_: Request) -> Response:
    raise ValueError("no page today")


def breaks_off(_: Request) -> Response:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise ValueError("no more today")

    return Response(chunks())


def echo(request: Request) -> Response:
    return Response(json.dumps([request.method, request.path, request.query]).encode())


ROUTES: dict[str, Route] = {
    "/": hello, "/numbers": numbers, "/broken": broken, "/breaks": breaks_off, "/echo": echo,
}  # fmt: skip


@contextlib.asynccontextmanager
async def serving(limits: Limits = LIMITS, **options: Any) -> AsyncIterator[Callable[[], Any]]:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[Any]) -> None:
            await serve_http(ROUTES, [listener], limits=limits, task_status=task_status, **options)

        await nursery.start(serve)
        yield listener.dial
        nursery.cancel_scope.cancel()


async def read_all(stream: Any) -> bytes:
    data = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while chunk := await stream.receive_some():
            data += chunk
    return data


def parse(method: str, data: bytes) -> tuple[h11.Response, bytes]:
    """One answer, as h11's client reads it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head, body


async def ask(dial: Callable[[], Any], raw: bytes) -> tuple[h11.Response, bytes]:
    stream = await dial()
    await stream.send_all(raw)
    await stream.send_eof()
    return parse("HEAD" if raw.startswith(b"HEAD") else "GET", await read_all(stream))


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def test_a_known_path_is_answered_with_its_page() -> None:
    async with serving() as dial:
        head, body = await ask(dial, get("/"))
    assert (head.status_code, body) == (200, b"hello\n")
    assert dict(head.headers)[b"content-type"] == b"text/plain; charset=utf-8"


async def test_a_query_is_no_part_of_the_path() -> None:
    async with serving() as dial:
        _, body = await ask(dial, get("/echo?a=b"))
    assert json.loads(body) == ["GET", "/echo", "a=b"]


async def test_head_has_the_length_and_no_body() -> None:
    async with serving() as dial:
        head, body = await ask(dial, get("/", method="HEAD"))
    assert dict(head.headers)[b"content-length"] == b"6"
    assert body == b""


async def test_head_of_a_page_in_chunks_has_no_body() -> None:
    async with serving() as dial:
        head, body = await ask(dial, get("/numbers", method="HEAD"))
    assert (head.status_code, body) == (200, b"")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_page_in_chunks_arrives_whole(version: str) -> None:
    async with serving() as dial:
        _, body = await ask(dial, get("/numbers").replace(b"HTTP/1.1", b"HTTP/" + version.encode()))
    assert body.split() == [b"%d" % n for n in range(1, 100, 2)]


async def test_a_connection_carries_many_requests_pipelined_or_not() -> None:
    statistics = ServerStatistics()
    async with serving(statistics=statistics) as dial:
        stream = await dial()
        await stream.send_all(get("/") + get("/"))
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(get("/", "Connection: close"))
        data = await read_all(stream)
    assert data.count(b"hello\n") == 3
    assert (statistics.requests, statistics.connections, statistics.peak) == (3, 0, 1)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (get("/nowhere"), 404),
        (get("/", method="POST"), 405),
        (get("/", "Content-Length: 4", method="PUT") + b"body", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00 GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (get("/", "Content-Length: x"), 400),
        (get("/", "X: " + "y" * 8000), 431),
        (get("/", "Content-Length: 9999") + b"z" * 9999, 413),
        (get("/broken"), 500),
    ],
)
async def test_what_cannot_be_served_gets_the_right_status(
    raw: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as dial:
        head, _ = await ask(dial, raw)
        again, _ = await ask(dial, get("/"))
    assert (head.status_code, again.status_code) == (status, 200)
    assert ("no page today" in caplog.text) == (status == 500)


async def test_a_refused_method_names_the_allowed_ones() -> None:
    async with serving() as dial:
        head, _ = await ask(dial, get("/", method="DELETE"))
    assert dict(head.headers)[b"allow"] == b"GET, HEAD"


async def test_a_client_that_asks_before_it_sends_a_body_is_told_to_go_on() -> None:
    async with serving() as dial:
        stream = await dial()
        await stream.send_all(get("/", "Content-Length: 4", "Expect: 100-continue"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"body")
        assert b"200" in await stream.receive_some()


async def test_a_page_that_breaks_off_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as dial:
        stream = await dial()
        await stream.send_all(get("/breaks"))
        data = await read_all(stream)
        _, body = await ask(dial, get("/"))
    assert b"some" in data
    assert not data.endswith(b"0\r\n\r\n")
    assert body == b"hello\n"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_connections_past_the_limit_are_turned_away() -> None:
    statistics = ServerStatistics()
    async with serving(statistics=statistics) as dial:
        held = [await dial() for _ in range(LIMITS.connections)]
        await trio.testing.wait_all_tasks_blocked()
        head, _ = parse("GET", await read_all(await dial()))
        await held[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        after, _ = await ask(dial, get("/"))
    assert (head.status_code, after.status_code) == (503, 200)
    assert statistics.refused == 1


async def test_one_past_the_limit_that_shakes_no_hands_is_let_go_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class TlsListener(MemoryListener):
        async def accept(self) -> Any:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            return trio.SSLStream(await super().accept(), context, server_side=True)

    listener = TlsListener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_http(ROUTES, [listener], limits=LIMITS))
        held = [await listener.dial() for _ in range(LIMITS.connections)]
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        assert await read_all(await listener.dial()) == b""
        assert trio.current_time() - started == pytest.approx(1)
        assert await read_all(held[0]) == b""
        assert trio.current_time() - started == pytest.approx(LIMITS.idle)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [(b"", LIMITS.idle), (b"GET / HT", LIMITS.head), (get("/", "Content-Length: 9"), LIMITS.head)],
)
async def test_a_client_that_stalls_is_let_go(
    sent: bytes, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving() as dial:
        stream = await dial()
        if sent:
            await stream.send_all(sent)
        started = trio.current_time()
        assert await read_all(stream) == b""
        assert trio.current_time() - started == pytest.approx(seconds)


async def test_a_client_that_does_not_read_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def endless(_: Request) -> Response:
        return Response(iter(lambda: b"x" * 65536, b""))

    statistics = ServerStatistics()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: _serve_on_loopback(endless, statistics, task_status)
        )
        stream = await trio.testing.open_stream_to_socket_listener(listeners[0])
        await stream.send_all(get("/"))
        started = trio.current_time()
        while not statistics.connections:
            await trio.lowlevel.checkpoint()
        while statistics.connections:
            await trio.sleep(1)
        assert trio.current_time() - started >= LIMITS.answer - 1
        await stream.aclose()
        nursery.cancel_scope.cancel()


async def _serve_on_loopback(
    route: Route, statistics: ServerStatistics, task_status: trio.TaskStatus[Any]
) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await serve_http(
        {"/": route}, listeners, limits=LIMITS, statistics=statistics, task_status=task_status
    )


async def test_others_are_served_while_a_long_page_is_made() -> None:
    def endless(_: Request) -> Response:
        return Response(iter(lambda: b"", b"never"))

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_http, {"/": hello, "/endless": endless}, [listener])
        stream = await listener.dial()
        await stream.send_all(get("/endless"))
        _, body = await ask(listener.dial, get("/"))
        nursery.cancel_scope.cancel()
    assert body == b"hello\n"


async def test_every_answer_is_observed() -> None:
    seen: list[tuple[str, int]] = []
    async with serving(observe=lambda path, status, seconds: seen.append((path, status))) as dial:
        await ask(dial, get("/"))
        await ask(dial, get("/nowhere"))
        await ask(dial, b"nonsense\r\n\r\n")
    assert seen == [("/", 200), ("/nowhere", 404), ("", 400)]


async def test_a_real_client_reads_a_page_over_tcp() -> None:
    def zipped(_: Request) -> Response:
        return Response(gzip.compress(b"hello"), headers=(("Content-Encoding", "gzip"),))

    def fetch(port: int) -> tuple[int, bytes]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return answer.status, answer.read()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: _serve_on_loopback(zipped, ServerStatistics(), task_status)
        )
        port = listeners[0].socket.getsockname()[1]
        status, body = await trio.to_thread.run_sync(fetch, port)
        nursery.cancel_scope.cancel()
    assert (status, gzip.decompress(body)) == (200, b"hello")


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.lists(
            st.sampled_from(
                [b"GET ", b"/", b" HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", b"Content-Length: 5\r\n",
                 b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"HEAD ",
                 b"CONNECT ", b"Upgrade: h2c\r\n", b"\x00", b"/numbers",
                 b"Expect: 100-continue\r\n"]
            ),
            max_size=12,
        ).map(b"".join),
    ),
    st.integers(1, 50),
)  # fmt: skip
async def test_no_bytes_harm_the_server(data: bytes, piece: int) -> None:
    async with serving() as dial:
        stream = await dial()
        with contextlib.suppress(trio.BrokenResourceError):
            for start in range(0, len(data), piece):
                await stream.send_all(data[start : start + piece])
        await stream.send_eof()
        await read_all(stream)
        _, body = await ask(dial, get("/"))
    assert body == b"hello\n"
