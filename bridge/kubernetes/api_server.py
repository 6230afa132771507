"""The API server: requests with our credentials, and a watch kept going over them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final, TypeAlias

import trio

from bridge.http_client import Connection, Head, ServerAwayError
from bridge.kubernetes.credentials import Access
from bridge.kubernetes.server_time import ServerTime
from bridge.kubernetes.watch import ObjectWatch, Piece
from bridge.kubernetes.wire import RefusedError, refusal
from parsers.errors import UsageError

_OK = 200
_UNAUTHORIZED = 401
_LARGEST_LIST: Final = 1 << 30  # bytes; a list that cannot come in pages
_LARGEST_REFUSAL: Final = 1 << 20
_LONGEST_LINE: Final = 8 << 20  # bytes; etcd holds objects of at most 1.5 MiB
_STEP_LINES: Final = 50  # lines looked at together
_QUIET: Final = 150.0  # s; an API server sends a bookmark each minute

Deliver: TypeAlias = Callable[[ObjectWatch, Piece], None]


class ApiServer:
    """One API server; a connection for each user, so that none waits for another."""

    __slots__ = ("_access", "_agent", "_time")

    def __init__(self, access: Access, agent: str, time: ServerTime) -> None:
        self._access = access
        self._agent = agent
        self._time = time

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[ServerConnection]:
        """A connection of its own. ``ServerAwayError`` when there is none to be had."""
        stream = await self._access.dial()
        try:
            connection = Connection(stream, self._access.address)
            yield ServerConnection(connection, self._access, self._agent, self._time)
        finally:
            await trio.aclose_forcefully(stream)

    async def read(self, target: str, resource: str) -> bytearray:
        """One answer on a connection of its own; ``RefusedError`` when it is not 200."""
        async with self.connect() as connection:
            return await connection.read_all(target, resource)


class ServerConnection:
    """Requests one after another on one connection."""

    __slots__ = ("_access", "_agent", "_connection", "_time")

    def __init__(
        self, connection: Connection, access: Access, agent: str, time: ServerTime
    ) -> None:
        self._connection = connection
        self._access = access
        self._agent = agent
        self._time = time

    async def begin(self, target: str, resource: str) -> None:
        """Ask for what is read as it comes; an answer other than 200 is ``RefusedError``."""
        await self._ask(target, resource, {})

    async def read(self) -> bytes:
        """Some of the answer; empty at its end."""
        return await self._connection.read()

    async def read_all(self, target: str, resource: str) -> bytearray:
        """A whole answer; one other than 200 is ``RefusedError``."""
        await self._ask(target, resource, {"Accept-Encoding": "gzip"})
        return await self._connection.read_all(_LARGEST_LIST)

    async def _ask(self, target: str, resource: str, headers: Mapping[str, str]) -> None:
        head = await self._ask_once(target, headers, renew=False)
        if head.status == _UNAUTHORIZED:
            await self._connection.read_all(_LARGEST_REFUSAL)
            head = await self._ask_once(target, headers, renew=True)
        if head.status != _OK:
            body = await self._connection.read_all(_LARGEST_REFUSAL)
            raise refusal(body, resource, head.status, head.headers.get("retry-after", ""))

    async def _ask_once(self, target: str, headers: Mapping[str, str], *, renew: bool) -> Head:
        sent = {"Accept": "application/json", "User-Agent": self._agent, **headers}
        if authorization := await self._access.authorization(renew):
            sent["Authorization"] = authorization
        asked = self._time.steady()
        head = await self._connection.get(self._access.prefix + target, sent)
        self._time.observe(head.headers.get("date", ""), asked)
        return head


async def follow(
    watch: ObjectWatch,
    connection: ServerConnection,
    deliver: Deliver,
    current: Callable[[], None],
) -> None:
    """Lists and watches on one connection, until it fails: ``ServerAwayError``, ``RefusedError``.

    ``current`` is called when all that the server has was delivered, and is now watched. Returns
    when a watch brought nothing for ``_QUIET``: whether the server is still there another
    connection tells, as a process that hangs keeps its connections.
    """
    while True:
        if watch.is_listing:
            await _read_list(watch, connection, deliver)
        await connection.begin(watch.request(), watch.resource.name)
        watch.began()
        current()
        if not await _read_events(watch, connection, deliver):
            watch.went_quiet(_QUIET)
            return
        watch.ended()


async def _read_list(watch: ObjectWatch, connection: ServerConnection, deliver: Deliver) -> None:
    """To the end of a list. While a page is delivered the server makes the next one."""
    pieces: Iterator[Piece] = iter(())
    while True:
        body, failure = bytearray(), None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_deliver_all, watch, pieces, deliver)
            try:
                body = await connection.read_all(watch.request(), watch.resource.name)
            except (ServerAwayError, RefusedError, UsageError) as error:
                failure = error  # to be raised when all that came before is delivered
        if failure is not None:
            raise failure
        pieces = watch.page(body)
        if not watch.list_goes_on:
            break
    await _deliver_all(watch, pieces, deliver)


async def _deliver_all(watch: ObjectWatch, pieces: Iterator[Piece], deliver: Deliver) -> None:
    for piece in pieces:
        deliver(watch, piece)
        await trio.lowlevel.checkpoint()


async def _read_events(watch: ObjectWatch, connection: ServerConnection, deliver: Deliver) -> bool:
    """To the end of a watch; false when nothing came any more."""
    waiting = b""
    while True:
        with trio.move_on_after(_QUIET) as quiet:
            data = await connection.read()
        if quiet.cancelled_caught or not data:
            return not quiet.cancelled_caught
        *lines, waiting = (waiting + data).split(b"\n")
        for start in range(0, len(lines), _STEP_LINES):
            await _deliver_all(watch, watch.lines(lines[start : start + _STEP_LINES]), deliver)
        if len(waiting) > _LONGEST_LINE:
            raise ServerAwayError(
                f"{watch.resource.name}: an event has more than {_LONGEST_LINE} bytes"
            )
