"""The services over grpcio: ``grpc.aio`` in a thread of its own. The only module with grpc.

    async with serve(services, ["unix:///run/ciliary/hubble.sock", "127.0.0.1:4244"]) as engine:
        print(engine.addresses)

or, where a listener that cannot be opened shall be tried again later while others serve::

    async with open_engine(services) as engine:
        address = await engine.listen("127.0.0.1:4244")  # UsageError when taken

``services`` is an ``api.hubble.rpc.Services``: the union of the methods of whatever is
served, as made by ``api.hubble.services.services_of``. Leaving the block ends
streams with UNAVAILABLE (a relay then comes back; after OK it would not) and is done
within half a second.

Services run in trio, the library in asyncio; a call lives on both sides. They exchange
whole chunks, and of each call at most ``_AHEAD`` chunks are on their way: a client that
does not read stops its own stream and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import trio
from google.protobuf.message import DecodeError

from api.hubble.rpc import RpcError, Services, Streaming, Unary
from parsers.errors import UsageError

_AHEAD = 2  # one chunk being written, one ready
_GRACE = 0.2  # seconds for streams to deliver their status
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else a second server on a taken port would share it silently
    ("grpc.max_concurrent_streams", 256),  # of one connection
    ("grpc.max_receive_message_length", 1 << 20),  # requests are small
)
_SOCKET_MODE = 0o660
_log = logging.getLogger(__name__)


@asynccontextmanager
async def serve(services: Services, listeners: Sequence[str]) -> AsyncIterator[GrpcEngine]:
    """Serve on all of ``listeners`` inside the block; ``UsageError`` when one cannot be had."""
    async with open_engine(services) as engine:
        for target in listeners:
            await engine.listen(target)
        yield engine


@asynccontextmanager
async def open_engine(services: Services) -> AsyncIterator[GrpcEngine]:
    """An engine that listens nowhere yet; it stops when the block is left."""
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


class GrpcEngine:
    """Made by ``open_engine``. ``addresses`` are those it listens on, ports resolved."""

    def __init__(self, services: Services, nursery: trio.Nursery) -> None:
        self.addresses: list[str] = []
        self._services = services
        self._calls = nursery
        self._token = trio.lowlevel.current_trio_token()
        self._loop = asyncio.new_event_loop()
        self._servers: list[grpc.aio.Server] = []
        self._thread = threading.Thread(target=self._run_loop, name="grpc", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = trio.Event()
        self.open_calls = 0
        """Streaming calls of the moment."""

    async def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        await self._in_asyncio(lambda: asyncio.sleep(0))

    async def listen(self, target: str) -> str:
        """Serve on ``unix:///PATH`` or ``HOST:PORT`` (port 0: any) too; returns the address.

        A dead socket file at the path is the caller's to remove, a living one to respect.
        ``UsageError`` says why it cannot be had.
        """
        if not target.startswith("unix:"):
            await trio.to_thread.run_sync(_try_port, target)
        port = await self._in_asyncio(lambda: self._open(target))
        if target.startswith("unix:"):
            address = target
            path = target.removeprefix("unix:").removeprefix("//")
            await trio.Path(path).chmod(_SOCKET_MODE)
        else:
            address = f"{target.rpartition(':')[0]}:{port}"
        self.addresses.append(address)
        return address

    async def stop(self) -> None:
        """End all streams with UNAVAILABLE, then the servers, then the thread."""
        self._calls.cancel_scope.cancel()
        await self._in_asyncio(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        await self._ended.wait()

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
        self._to_trio(self._ended.set)

    async def _open(self, target: str) -> int:
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(self._services, self),))
        try:
            port = server.add_insecure_port(target)
        except RuntimeError:
            port = 0
        if not port:
            await server.stop(None)
            raise UsageError(f"cannot listen on {target}; choose another address or path")
        await server.start()
        self._servers.append(server)
        return port

    async def _close(self) -> None:
        await asyncio.gather(*(server.stop(_GRACE) for server in self._servers))

    async def _in_asyncio(self, make: Callable[[], Any]) -> Any:
        """Await a coroutine over there; its result or exception comes here."""
        done = trio.Event()
        outcome: list[Any] = []

        async def run() -> None:
            try:
                outcome.extend((await make(), None))
            except Exception as error:  # noqa: BLE001  # it goes on over there
                outcome.extend((None, error))
            self._to_trio(done.set)

        self._loop.call_soon_threadsafe(lambda: self._keep(self._loop.create_task(run())))
        await done.wait()
        result, error = outcome
        if error is not None:
            raise error
        return result

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    def _to_trio(self, function: Callable[[], object]) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def answer(self, method: Unary, request: Any) -> asyncio.Future[bytes]:
        """From asyncio: the answer of a unary method."""
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

        self._to_trio(run)
        return future

    def open_call(self, method: Streaming, request: Any) -> _Call:
        """From asyncio: start a streaming method in trio."""
        call = _Call(self._loop, self._to_trio)
        self._to_trio(lambda: self._calls.start_soon(self._run_call, call, method, request))
        return call

    async def _run_call(self, call: _Call, method: Streaming, request: Any) -> None:
        self.open_calls += 1
        try:
            with call.scope:
                async with aclosing(method.stream(request)) as chunks:
                    async for chunk in chunks:
                        await call.room.acquire()
                        call.post(chunk)
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

    __slots__ = ("_loop", "_queue", "_to_trio", "room", "scope")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, to_trio: Callable[[Callable[[], object]], None]
    ) -> None:
        self._loop = loop
        self._to_trio = to_trio
        self._queue: asyncio.Queue[list[bytes] | RpcError | None] = asyncio.Queue()
        self.room = trio.Semaphore(_AHEAD)
        self.scope = trio.CancelScope()

    def post(self, item: list[bytes] | RpcError | None) -> None:
        """From trio: a chunk, the error that ends the call, or None for its good end."""
        with suppress(RuntimeError):  # the loop is closed: so is the call
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def next(self) -> list[bytes] | None:
        """From asyncio: the next chunk; None at the end; raises ``RpcError``."""
        item = await self._queue.get()
        if isinstance(item, RpcError):
            raise item
        return item

    def more(self) -> None:
        """From asyncio: a chunk was written."""
        self._to_trio(self.room.release)

    def cancel(self) -> None:
        """From asyncio: nobody reads any more."""
        self._to_trio(self.scope.cancel)


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
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"cannot listen on {target}: {reason}; choose another address or free this one"
        ) from None


def _parse(method: Unary | Streaming, data: bytes) -> Any:
    try:
        return method.request.FromString(data)
    except DecodeError:
        name = method.request.DESCRIPTOR.full_name
        raise RpcError("INTERNAL", f"request is no message of type {name}") from None
