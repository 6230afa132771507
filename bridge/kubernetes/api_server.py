"""The API server: requests with our credentials, and a watch kept going over them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeAlias

import trio

from bridge.http_client import Connection, Head, ServerAwayError
from bridge.kubernetes.credentials import Access
from bridge.kubernetes.server_time import ServerTime
from bridge.kubernetes.watch import ObjectWatch, Piece
from bridge.kubernetes.wire import refusal

_OK = 200
_UNAUTHORIZED = 401
_LARGEST_LIST: Final = 1 << 30  # bytes; a list that cannot come in pages
_LARGEST_REFUSAL: Final = 1 << 20
_LONGEST_LINE: Final = 8 << 20  # bytes; etcd holds objects of at most 1.5 MiB
_STEP_LINES: Final = 50  # lines between two checkpoints
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
            await connection.get(target, resource)
            return await connection.read_all()


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

    async def get(self, target: str, resource: str) -> None:
        """The beginning of an answer with status 200; any other is ``RefusedError``."""
        head = await self._ask(target, renew=False)
        if head.status == _UNAUTHORIZED:
            await self._connection.read_all(_LARGEST_REFUSAL)
            head = await self._ask(target, renew=True)
        if head.status != _OK:
            body = await self._connection.read_all(_LARGEST_REFUSAL)
            raise refusal(body, resource, head.status, head.headers.get("retry-after", ""))

    async def read(self) -> bytes:
        """Some of the answer; empty at its end."""
        return await self._connection.read()

    async def read_all(self) -> bytearray:
        """The whole answer."""
        return await self._connection.read_all(_LARGEST_LIST)

    async def _ask(self, target: str, *, renew: bool) -> Head:
        headers = {"Accept": "application/json", "User-Agent": self._agent}
        if authorization := await self._access.authorization(renew):
            headers["Authorization"] = authorization
        asked = self._time.steady()
        head = await self._connection.get(self._access.prefix + target, headers)
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
        listing = watch.is_listing
        await connection.get(watch.request(), watch.resource.name)
        if listing:
            for piece in watch.page(await connection.read_all()):
                deliver(watch, piece)
                await trio.lowlevel.checkpoint()
        else:
            watch.began()
            current()
            if not await _read_events(watch, connection, deliver):
                watch.went_quiet(_QUIET)
                return
            watch.ended()


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
            for piece in watch.lines(lines[start : start + _STEP_LINES]):
                deliver(watch, piece)
            await trio.lowlevel.checkpoint()
        if len(waiting) > _LONGEST_LINE:
            raise ServerAwayError(
                f"{watch.resource.name}: an event has more than {_LONGEST_LINE} bytes"
            )
