"""The services over grpcio: ``grpc.aio`` in a thread of its own. The only module with grpc.

    async with open_engine(services) as engine:
        address = await engine.listen("127.0.0.1:4244")  # UsageError when taken

``services`` is an ``api.hubble.rpc.Services``, as made by ``api.hubble.services.services_of``.

Services run in trio, the library in asyncio; a call lives on both sides. They exchange
whole chunks, and of each call at most ``_AHEAD`` chunks are on their way: a client that
does not read stops its own stream and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from google.protobuf.message import DecodeError

from api.hubble.asyncio_thread import AsyncioThread
from api.hubble.listening_path import ListeningPath
from api.hubble.rpc import (
    MOST_STREAMS,
    Certificates,
    Dialogue,
    GetCertificates,
    Method,
    RpcError,
    Services,
    Streaming,
    Unary,
)
from parsers.errors import UsageError

# The library has no setting for the least version of TLS. With no cipher of TLS 1.2 that a
# certificate can be used for, 1.3 is left. It reads this once, when it is first imported:
# no program of ours may do that before.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-PSK-AES128-CBC-SHA"

import grpc
import grpc.aio

_AHEAD = 2  # one chunk being written, one ready
_GRACE = 0.2  # seconds for streams to deliver their status
_FOR_EVER = 1e7  # seconds
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second server on a taken port would share it silently
    ("grpc.max_concurrent_streams", 256),  # of one connection
    ("grpc.max_receive_message_length", 1 << 20),  # requests are small
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A client that is gone without a word is found out within 80 s, and its streams end. Where
    # it owes an answer to a ping, it is the other timeout that counts, which would be a minute.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may do the same: the usual limit of 5 minutes would throw them out.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
_log = logging.getLogger(__name__)


@asynccontextmanager
async def open_engine(services: Services) -> AsyncIterator[GrpcEngine]:
    """As ``api.hubble.rpc.OpenEngine`` says."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        engine = GrpcEngine(services, nursery)
        await engine.start()
        try:
            yield engine
        except Exception as error:  # noqa: BLE001  # raised again without the nursery's group
            failure = error
        finally:
            with trio.CancelScope(shield=True):
                await engine.stop()
    if failure is not None:
        raise failure


@dataclass(frozen=True, slots=True)
class _Listener:
    address: str
    server: grpc.aio.Server
    path: ListeningPath | None


class GrpcEngine:
    """Made by ``open_engine``; see ``api.hubble.rpc.Engine``."""

    def __init__(self, services: Services, nursery: trio.Nursery) -> None:
        self._services = services
        self._calls = nursery
        self._thread = AsyncioThread("grpc")
        self._loop = self._thread.loop
        self._listeners: list[_Listener] = []
        self._leaving: set[grpc.aio.Server] = set()  # no more connections, but streams
        self.open_calls = 0
        """Streaming calls of the moment."""

    @property
    def addresses(self) -> list[str]:
        """Where it listens, ports resolved."""
        return [listener.address for listener in self._listeners]

    async def start(self) -> None:
        """Start the thread."""
        await self._thread.start()

    async def listen(self, target: str, certificates: GetCertificates | None = None) -> str:
        """As ``api.hubble.rpc.Engine`` says."""
        if target.startswith("unix:"):
            path = ListeningPath(Path(target.removeprefix("unix:").removeprefix("//")))
            server, _ = await self._open(f"unix:{path.bound}", target, certificates)
            try:
                path.publish()
            except OSError as error:
                await self._thread.run(lambda: server.stop(None))
                raise _cannot_listen(target, error) from None
            self._listeners.append(_Listener(target, server, path))
            return target
        await trio.to_thread.run_sync(_try_port, target)
        server, port = await self._open(target, target, certificates)
        address = f"{target.rpartition(':')[0]}:{port}"
        self._listeners.append(_Listener(address, server, None))
        return address

    async def unlisten(self, address: str) -> None:
        """As ``api.hubble.rpc.Engine`` says."""
        for listener in self._listeners:
            if listener.address == address:
                self._listeners.remove(listener)
                if listener.path is not None:
                    listener.path.remove()
                self._leaving.add(listener.server)
                self._loop.call_soon_threadsafe(self._thread.begin, self._leave(listener.server))
                return

    async def stop(self) -> None:
        """End all streams with UNAVAILABLE, then the servers, then the thread."""
        self._calls.cancel_scope.cancel()
        for listener in self._listeners:
            if listener.path is not None:
                listener.path.remove()
        await self._thread.run(self._close)
        await self._thread.stop()

    async def _open(
        self, bound: str, target: str, certificates: GetCertificates | None
    ) -> tuple[grpc.aio.Server, int]:
        credentials = None if certificates is None else _credentials(certificates)

        async def start() -> tuple[grpc.aio.Server, int]:
            server = grpc.aio.server(options=_OPTIONS)
            server.add_generic_rpc_handlers((_Handlers(self._services, self),))
            try:
                if credentials is None:
                    port = server.add_insecure_port(bound)
                else:
                    port = server.add_secure_port(bound, credentials)
            except RuntimeError:
                port = 0
            if not port:
                await server.stop(None)
                raise UsageError(f"cannot listen on {target}; choose another address or path")
            await server.start()
            return server, port

        # A server that is started over there must not be forgotten here.
        with trio.CancelScope(shield=True):
            server, port = await self._thread.run(start)
        return server, port

    async def _leave(self, server: grpc.aio.Server) -> None:
        await server.stop(_FOR_EVER)
        self._leaving.discard(server)

    async def _close(self) -> None:
        servers = [listener.server for listener in self._listeners] + list(self._leaving)
        await asyncio.gather(*(server.stop(_GRACE) for server in servers))

    def answer(self, method: Unary | Dialogue, request: Any) -> asyncio.Future[bytes]:
        """From asyncio: the answer to one request."""
        future: asyncio.Future[bytes] = self._loop.create_future()

        def settle(result: bytes | None, error: Exception | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            elif result is not None:
                future.set_result(result)

        def run() -> None:
            result: bytes | None = None
            error: Exception | None = None
            try:
                result = method.answer(request)
            except RpcError as refused:
                error = refused
            except Exception:  # noqa: BLE001  # no fault of a service ends the engine
                _log.exception("a unary call failed")
                error = RpcError("INTERNAL", "internal error")
            self._loop.call_soon_threadsafe(settle, result, error)

        self._thread.to_trio(run)
        return future

    def open_call(self, method: Streaming, request: Any) -> _Call:
        """From asyncio: start a streaming method in trio."""
        call = _Call(self._thread)
        self._thread.to_trio(lambda: self._calls.start_soon(self._run_call, call, method, request))
        return call

    async def _run_call(self, call: _Call, method: Streaming, request: Any) -> None:
        if self.open_calls >= MOST_STREAMS:
            text = f"{MOST_STREAMS} streams are open, more are not served; end some"
            call.post(RpcError("RESOURCE_EXHAUSTED", text))
            return
        self.open_calls += 1
        try:
            with call.scope:
                async with aclosing(method.stream(request)) as chunks:
                    await call.room.acquire()
                    async for chunk in chunks:
                        call.post(chunk)
                        await call.room.acquire()  # before the next is made
                call.post(None)
        except RpcError as refused:
            call.post(refused)
        except trio.Cancelled:
            call.post(RpcError("UNAVAILABLE", "the server is shutting down"))
            raise
        except Exception:  # noqa: BLE001  # as above
            _log.exception("a stream failed")
            call.post(RpcError("INTERNAL", "internal error"))
        finally:
            self.open_calls -= 1


class _Call:
    """A streaming call: chunks come from trio, room for more comes from asyncio."""

    __slots__ = ("_queue", "_thread", "room", "scope")

    def __init__(self, thread: AsyncioThread) -> None:
        self._thread = thread
        self._queue: asyncio.Queue[list[bytes] | RpcError | None] = asyncio.Queue()
        self.room = trio.Semaphore(_AHEAD)
        self.scope = trio.CancelScope()

    def post(self, item: list[bytes] | RpcError | None) -> None:
        """From trio: a chunk, the error that ends the call, or None for its good end."""
        with suppress(RuntimeError):  # the loop is closed: so is the call
            self._thread.loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def next(self) -> list[bytes] | None:
        """From asyncio: the next chunk; None at the end; raises ``RpcError``."""
        item = await self._queue.get()
        if isinstance(item, RpcError):
            raise item
        return item

    def more(self) -> None:
        """From asyncio: a chunk was written."""
        self._thread.to_trio(self.room.release)

    def cancel(self) -> None:
        """From asyncio: nobody reads any more."""
        self._thread.to_trio(self.scope.cancel)


class _Handlers(grpc.GenericRpcHandler):
    """The table of methods as grpc wants to see it."""

    def __init__(self, services: Services, engine: GrpcEngine) -> None:
        self._services = services
        self._engine = engine

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, or None: UNIMPLEMENTED."""
        method = self._services.methods.get(handler_call_details.method)
        if isinstance(method, Unary):
            return grpc.unary_unary_rpc_method_handler(self._unary(method))
        if isinstance(method, Streaming):
            return grpc.unary_stream_rpc_method_handler(self._streaming(method))
        if isinstance(method, Dialogue):
            return grpc.stream_stream_rpc_method_handler(self._dialogue(method))
        return None

    def _unary(self, method: Unary) -> Any:
        async def handle(data: bytes, context: Any) -> bytes:
            async with self._statuses(context):
                return await self._engine.answer(method, _parse(method, data))
            raise AssertionError  # an aborted context does not come here

        return handle

    def _streaming(self, method: Streaming) -> Any:
        async def handle(data: bytes, context: Any) -> None:
            async with self._statuses(context):
                call = self._engine.open_call(method, _parse(method, data))
                try:
                    while (chunk := await call.next()) is not None:
                        for message in chunk:
                            await context.write(message)
                        call.more()
                except grpc.aio.InternalError:
                    pass  # the client is gone
                finally:
                    call.cancel()

        return handle

    def _dialogue(self, method: Dialogue) -> Any:
        async def handle(requests: AsyncIterator[bytes], context: Any) -> None:
            async with self._statuses(context):
                async for data in requests:
                    await context.write(await self._engine.answer(method, _parse(method, data)))

        return handle

    @asynccontextmanager
    async def _statuses(self, context: Any) -> AsyncIterator[None]:
        await context.send_initial_metadata(self._services.metadata)
        try:
            yield
        except RpcError as refused:
            await context.abort(grpc.StatusCode[refused.code], str(refused))


def _try_port(target: str) -> None:
    """Say why a port cannot be had; the library only writes to standard error."""
    host, _, port = target.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise _cannot_listen(target, error) from None


def _cannot_listen(target: str, error: OSError) -> UsageError:
    reason = (error.strerror or str(error)).lower()
    return UsageError(
        f"cannot listen on {target}: {reason}; choose another address or free this one"
    )


def _credentials(certificates: GetCertificates) -> grpc.ServerCredentials:
    """Those of now for each handshake; what is wrong with them then leaves the old ones."""
    used = certificates()

    def newer() -> Any:
        nonlocal used
        now = certificates()
        if now == used:
            return None
        used = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), newer, require_client_authentication=used.client_ca is not None
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], certificates.client_ca
    )


def _parse(method: Method, data: bytes) -> Any:
    try:
        return method.request.FromString(data)
    except DecodeError:
        name = method.request.DESCRIPTOR.full_name
        raise RpcError("INTERNAL", f"request is no message of type {name}") from None
