"""Unix sockets that never take a living server's name away.

A path that accepts connections belongs to somebody and is refused. One that refuses
connections is a leftover of a process that is gone; it is removed if it is ours (same
user) and not below Cilium's directory, where nothing is ever created or removed.
When we stop, the path is removed only while it is still the socket we made.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bridge.os_errors import reason_of
from parsers.errors import UsageError

_FOREIGN = (Path("/run/cilium"), Path("/var/run/cilium"))
_ELSEWHERE = "choose a path in a directory where you may write"


def make_room_for_socket(path: Path) -> None:
    """Make sure that a socket can be bound at ``path``; ``UsageError`` says why not."""
    if any(path.absolute().is_relative_to(foreign) for foreign in _FOREIGN):
        raise UsageError(f"{path} is in Cilium's own directory; choose one of your own")
    try:
        found = path.lstat()
    except FileNotFoundError:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make {path.parent}: {reason_of(error)}; {_ELSEWHERE}"
            ) from None
        return
    except OSError as error:
        raise UsageError(f"cannot look at {path}: {reason_of(error)}; {_ELSEWHERE}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise UsageError(f"{path} exists and is not a socket; choose another path")
    if accepts_connections(path):
        raise UsageError(f"another server is listening on {path}; stop it or choose another path")
    if found.st_uid != os.geteuid():
        raise UsageError(f"{path} is a dead socket of user {found.st_uid}; remove it")
    try:
        path.unlink()
    except OSError as error:
        raise UsageError(
            f"cannot remove the dead socket {path}: {reason_of(error)}; {_ELSEWHERE}"
        ) from None


def accepts_connections(path: Path) -> bool:
    """Whether somebody listens there; an open that is not allowed counts as somebody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            return error.errno not in {errno.ECONNREFUSED, errno.ENOENT}
        return True


@contextmanager
def listening_socket(path: Path, mode: int = 0o660, backlog: int = 64) -> Iterator[socket.socket]:
    """A non-blocking listener at ``path``, removed afterwards."""
    make_room_for_socket(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        try:
            listener.bind(os.fspath(path))
            path.chmod(mode)
            listener.listen(backlog)
        except OSError as error:
            raise UsageError(f"cannot listen on {path}: {reason_of(error)}; {_ELSEWHERE}") from None
        made = path.stat().st_ino
        try:
            yield listener
        finally:
            with suppress(OSError):
                if path.lstat().st_ino == made:
                    path.unlink()
