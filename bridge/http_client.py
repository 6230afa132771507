"""GET over HTTP/1.1 on trio and h11: what lists and watches need of HTTP.

Strategy: a ``Connection`` asks one thing at a time, and may be used again once an answer
was read to its end. It runs in the event loop, not in a thread: a watch is then cancelled
like anything else, and at most ``_READ`` bytes are looked at between two checkpoints. A
server that is gone without a word is found out by TCP keepalive within half a minute.

Whatever goes wrong with a connection is a ``ServerAwayError`` with one sentence.

An answer that is read as a whole may be compressed. The API server makes a chunk of each 2 KB,
and its lists compress to a tenth or less: that takes less of its time and of ours than the chunks.

A proxy is asked to CONNECT, whatever goes on behind it.

Deliberately not done: other methods, redirects, compressed answers that are read as they come.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import ssl
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import h11
import trio

from bridge.os_errors import reason_of

_READ = 32 * 1024  # bytes; the API server makes a chunk of each object, at 20 µs each
_UNPACKED = 1 << 20  # bytes; zeros would make a thousand of one
_SUCCESS = 2  # hundreds
_GZIP = 31  # zlib's number for the largest window in gzip's format
_CONNECT = 10.0  # s
_SILENCE = 60.0  # s until an answer begins, and between two pieces of one that is not a watch
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 15),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 30_000),  # ms
)


class ServerAwayError(OSError):
    """The server cannot be reached, or the connection to it broke; the text says how."""


@dataclass(frozen=True, slots=True)
class Head:
    """Header names are in lower case."""

    status: int
    headers: Mapping[str, str]


class Connection:
    """One connection, one answer at a time."""

    __slots__ = ("_encoding", "_h11", "_host", "_stream")

    def __init__(self, stream: trio.abc.Stream, host: str) -> None:
        self._stream = stream
        self._host = host  # as the Host header has it
        self._h11 = h11.Connection(h11.CLIENT)
        self._encoding = ""  # of the answer that is being read

    async def get(self, target: str, headers: Mapping[str, str]) -> Head:
        """Ask for ``target``; returns when the answer begins."""
        if self._h11.our_state is not h11.IDLE:
            self._h11.start_next_cycle()
        request = h11.Request(
            method="GET", target=target, headers=[("Host", self._host), *headers.items()]
        )
        with _told(), trio.fail_after(_SILENCE):
            sent = (self._h11.send(event) or b"" for event in (request, h11.EndOfMessage()))
            await self._stream.send_all(b"".join(sent))
        while True:
            event = await self._next(_SILENCE)
            if isinstance(event, h11.Response):
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                self._encoding = headers.get("content-encoding", "")
                return Head(event.status_code, headers)
            if not isinstance(event, h11.InformationalResponse):
                raise ServerAwayError("the server closed the connection without an answer")

    async def read(self, patience: float = math.inf) -> bytes:
        """Some of the answer's body, as it comes; empty at its end."""
        event = await self._next(patience)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read_all(self, limit: int) -> bytearray:
        """The rest of the body, unpacked if it is gzip, of at most ``limit`` bytes."""
        body = bytearray()
        unpacked = zlib.decompressobj(_GZIP) if self._encoding == "gzip" else None
        while piece := await self.read(_SILENCE):
            if unpacked is None:
                body += piece
            else:
                await _unpack(unpacked, piece, body, limit)
            if len(body) > limit:
                raise ServerAwayError(f"the answer has more than {limit} bytes")
        if unpacked is not None and (not unpacked.eof or unpacked.unused_data):
            raise ServerAwayError("the answer does not end where its gzip stream does")
        return body

    async def _next(self, patience: float) -> object:
        while True:
            with _told():
                event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            with _told(), trio.fail_after(patience):
                self._h11.receive_data(bytes(await self._stream.receive_some(_READ)))


async def _unpack(stream: zlib._Decompress, packed: bytes, onto: bytearray, limit: int) -> None:
    """A bounded piece between two checkpoints, until ``onto`` has more than ``limit`` bytes."""
    if stream.eof:
        raise ServerAwayError("the answer does not end where its gzip stream does")
    while len(onto) <= limit:
        try:
            piece = stream.decompress(packed, _UNPACKED)
        except zlib.error as error:
            raise ServerAwayError(f"the answer is not gzip, as it says: {error}") from None
        onto += piece
        if len(piece) < _UNPACKED:
            return
        packed = stream.unconsumed_tail
        await trio.lowlevel.checkpoint()


def authority(host: str, port: int) -> str:
    """As a Host header has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked to connect; ``authorization``: a header's value, or empty."""

    host: str
    port: int
    authorization: str = ""


async def open_stream(
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    server_name: str,
    proxy: Proxy | None = None,
) -> trio.abc.Stream:
    """TCP, with TLS where a context is given. ``ServerAwayError`` when there is none to be had."""
    with _told(), trio.fail_after(_CONNECT):
        first = (host, port) if proxy is None else (proxy.host, proxy.port)
        tcp = await trio.open_tcp_stream(*first)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                tcp.setsockopt(socket.IPPROTO_TCP, option, value)
            if proxy is not None:
                await _connect_by(proxy, tcp, authority(host, port))
            if tls is None:
                return tcp
            stream = trio.SSLStream(tcp, tls, server_hostname=server_name, https_compatible=True)
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(tcp)
            raise
        return stream


async def _connect_by(proxy: Proxy, stream: trio.abc.Stream, to: str) -> None:
    """RFC 9110, section 9.3.6."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", to)]
    if proxy.authorization:
        headers.append(("Proxy-Authorization", proxy.authorization))
    request = h11.Request(method="CONNECT", target=to, headers=headers)
    sent = (connection.send(event) or b"" for event in (request, h11.EndOfMessage()))
    await stream.send_all(b"".join(sent))
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(bytes(await stream.receive_some(_READ)))
    if not isinstance(event, h11.Response) or event.status_code // 100 != _SUCCESS:
        said = event.status_code if isinstance(event, h11.Response) else "nothing"
        raise ServerAwayError(f"the proxy {proxy.host}:{proxy.port} answered {said} to CONNECT")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Faults of sockets, TLS and HTTP as a ``ServerAwayError`` of one sentence."""
    try:
        yield
    except ServerAwayError:
        raise
    except trio.TooSlowError:
        raise ServerAwayError("the server did not answer in time") from None
    except h11.RemoteProtocolError as error:
        raise ServerAwayError(f"the answer is not HTTP as it should be: {error}") from None
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ServerAwayError(_sentence(error)) from None


def _sentence(error: BaseException) -> str:
    """The first cause's words: trio wraps what the socket or TLS said."""
    while error.__cause__ is not None:
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno).lower()  # trio's text has the address
    if isinstance(error, OSError):
        return reason_of(error)
    return str(error) or type(error).__name__
