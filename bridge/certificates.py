"""The certificate files of a listener: read, checked, and read again when they change.

What is wrong with them is found here, where it can be said, and not in a handshake. While
they are wrong, those from before stay in use. A change is seen by looking: secrets are
mounted through symbolic links, which file notifications do not see through.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import trio

from api.hubble.rpc import Certificates
from bridge.config import Tls
from bridge.os_errors import reason_of
from parsers.errors import UsageError

_LOOK = 2.0  # seconds between looks at the files


class CertificateFiles:
    """PEM files: a certificate, its key, and the authorities of clients (none: any client).

    ``section`` is what the configuration calls them.
    """

    def __init__(self, tls: Tls, section: str) -> None:
        assert tls.cert_file is not None and tls.key_file is not None  # noqa: PT018, S101
        self._chain, self._key, self._authorities = tls.cert_file, tls.key_file, tls.client_ca_files
        self._section = section
        self._current = Certificates(b"", b"")
        self._context = _server_context()
        self._loaded = trio.Event()

    @classmethod
    def of(cls, tls: Tls, section: str) -> CertificateFiles | None:
        """None where TLS is not configured."""
        return None if tls.cert_file is None else cls(tls, section)

    async def wait(self) -> None:
        """Until there are some."""
        await self._loaded.wait()

    def current(self) -> Certificates:
        """The newest that were good. From any thread, once ``wait`` has returned."""
        return self._current

    @property
    def context(self) -> ssl.SSLContext:
        """The same for a server of our own; another object whenever they change."""
        return self._context

    async def keep(self, ready: Callable[[], None]) -> None:
        """A part that never returns; ``UsageError`` says what is wrong with the files."""
        while True:
            state = self._state()
            self._current = self._load()
            self._loaded.set()
            ready()
            while self._state() == state:  # noqa: ASYNC110 -- files can only be looked at
                await trio.sleep(_LOOK)

    def _state(self) -> list[tuple[int, ...]]:
        """Something else when a file is another."""
        found: list[tuple[int, ...]] = []
        for path in (self._chain, self._key, *self._authorities):
            try:
                stat = path.stat()
            except OSError:
                found.append((0,))
            else:
                found.append((stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found

    def _load(self) -> Certificates:
        chain = self._read(self._chain, "cert_file")
        key = self._read(self._key, "key_file")
        context = _server_context()
        self._take_pair(context)
        authorities = [self._read(path, "client_ca_files") for path in self._authorities]
        for path, text in zip(self._authorities, authorities, strict=True):
            self._take_authority(context, path, text)
        self._context = context
        return Certificates(chain, key, b"\n".join(authorities) or None)

    def _take_pair(self, context: ssl.SSLContext) -> None:
        def password() -> str:
            raise UsageError(
                f"{self._key} is encrypted; give the key without a password "
                f"({self._section}.key_file)"
            )

        try:
            context.load_cert_chain(self._chain, self._key, password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise UsageError(
                    f"{self._key} is not the key of the certificate in {self._chain}; "
                    f"give the two that belong together ({self._section})"
                ) from None
            raise UsageError(
                f"{self._chain} and {self._key} are no certificate and key; "
                f"give both as PEM ({self._section})"
            ) from None

    def _read(self, path: Path, key: str) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {reason_of(error)}; name a file that can be read "
                f"({self._section}.{key})"
            ) from None

    def _take_authority(self, context: ssl.SSLContext, path: Path, text: bytes) -> None:
        try:
            context.load_verify_locations(cadata=text.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise UsageError(
                f"{path} has no certificate; give one or more as PEM "
                f"({self._section}.client_ca_files)"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
