"""A unix socket for a library that binds and removes paths without looking.

The library is given a private name, which is then renamed: so the path is there at once
with its mode, and nobody else's socket is removed from it, neither now nor at the end.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from parsers.errors import UsageError

_LONGEST = 107  # bytes of a socket's path
_MODE = 0o660


class ListeningPath:
    """``bound`` is the path to bind, ``publish`` makes it ``path``."""

    def __init__(self, path: Path) -> None:
        if len(os.fsencode(path)) > _LONGEST:
            raise UsageError(
                f"{path} is longer than the {_LONGEST} bytes of a socket's path; "
                "choose a shorter one"
            )
        self.path = path
        self.bound = path.with_name(f".{secrets.token_hex(2)}")
        self._made = 0

    def publish(self) -> None:
        """To be called once it is bound; ``OSError`` when it cannot be."""
        self.bound.chmod(_MODE)
        self._made = self.bound.lstat().st_ino
        self.bound.rename(self.path)

    def remove(self) -> None:
        """Remove the socket, if it is the one that was published.

        To be called while it is open: then nobody else's can have its inode.
        """
        with suppress(OSError):
            if self.path.lstat().st_ino == self._made:
                self.path.unlink()
