"""The Hubble API's listeners: one engine, and a supervised part for each address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from api.hubble.grpc_engine import open_engine
from api.hubble.rpc import Engine, Services
from bridge.addresses import split_address
from bridge.certificates import CertificateFiles
from bridge.config import Hubble
from bridge.http_listener import open_listeners
from bridge.supervision import Part, Supervisor
from bridge.unix_socket import make_room_for_socket
from parsers.errors import UsageError

_LOOK = 2.0  # seconds between looks at whether the socket is still at its path


def hubble_part(services: Services, config: Hubble, supervisor: Supervisor) -> Part:
    """Serve on the configured addresses; each may come later than the others."""

    async def serve(ready: Callable[[], None]) -> None:
        async with open_engine(services) as engine, trio.open_nursery() as nursery:
            if config.unix_socket is not None:
                part = _on_unix_socket(engine, config.unix_socket)
                nursery.start_soon(supervisor.keep, "hubble unix socket", part)
            if config.listen is not None:
                certificates = CertificateFiles.of(config.tls, "hubble.tls")
                if certificates is not None:
                    part = certificates.keep
                    nursery.start_soon(supervisor.keep, "hubble certificates", part)
                part = _on_tcp(engine, config.listen, certificates)
                nursery.start_soon(supervisor.keep, "hubble tcp", part)
            ready()

    return serve


def _on_unix_socket(engine: Engine, path: Path) -> Part:
    target = f"unix://{path.absolute()}"

    async def listen(ready: Callable[[], None]) -> None:
        try:
            make_room_for_socket(path)
        except UsageError as error:
            raise UsageError(f"{error} (hubble.unix_socket)") from None
        await engine.listen(target)
        made = _inode(path)
        ready()
        while _inode(path) == made:  # noqa: ASYNC110 -- a path can only be looked at
            await trio.sleep(_LOOK)
        await engine.unlisten(target)  # who is connected stays so; nobody else would find us
        raise UsageError(
            f"{path} was removed or replaced; listening there again, find out who did it "
            "(hubble.unix_socket)"
        )

    return listen


def _inode(path: Path) -> int:
    """0 when there is nothing."""
    try:
        return path.lstat().st_ino
    except OSError:
        return 0


def _on_tcp(engine: Engine, address: str, certificates: CertificateFiles | None) -> Part:
    host, port = split_address(address)
    shown = f"[{host}]" if ":" in host else host or "[::]"

    async def listen(ready: Callable[[], None]) -> None:
        if certificates is not None:
            await certificates.wait()
        # Had for a moment only, for a sentence that knows the reason.
        for listener in await open_listeners("hubble.listen", address):
            await listener.aclose()
        try:
            await engine.listen(
                f"{shown}:{port}", None if certificates is None else certificates.current
            )
        except UsageError as error:
            raise UsageError(f"{error} (hubble.listen)") from None
        ready()
        await trio.sleep_forever()

    return listen
