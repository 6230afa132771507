"""Recordings: exactly the bytes of one connection to a monitor socket, maybe compressed.

Compression is told from the file's first bytes when reading and from its suffix when
writing (``.gz``, ``.xz``). A recording ends with a whole message; one that was cut off
later may not, and readers leave out the torn end and say so.

A recording can hold what users consider secret, so it is made with mode 0600, and never
over an existing file unless that is asked for, nor ever over what is no regular file.
"""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, cast

from bridge.os_errors import reason_of
from parsers.errors import ProtocolError, UsageError
from parsers.framing import MAX_MESSAGE
from parsers.gob_wire import TypeTable, read_int

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Messages:
    """Whole gob messages in order.

    ``definitions`` and ``payloads`` are the messages joined, apart from each other;
    ``ends`` are the offsets in ``payloads`` at which a message ends. ``cut_off``: there was
    more behind them, which is not whole.
    """

    definitions: bytes
    payloads: bytes
    ends: list[int]
    cut_off: bool = False


class MessageSplitter:
    """Sans-I/O: cuts a monitor stream into whole messages and keeps the rest."""

    __slots__ = ("_began", "_buffer")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._began = False

    @property
    def torn(self) -> int:
        """Bytes of a message that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> Messages:
        """What is whole now. ``ProtocolError``: these bytes are no monitor stream."""
        self._buffer += data
        buffer = self._buffer
        definitions: list[bytes] = []
        payloads: list[bytes] = []
        ends: list[int] = []
        position = run = size = 0  # ``run``: where a run of payloads began; ``size``: all before
        while (bounds := _message_at(buffer, position)) is not None:
            content, end = bounds
            if _is_definition(buffer, content):
                payloads.append(bytes(buffer[run:position]))
                size += position - run
                definitions.append(bytes(buffer[position:end]))
                run = end
                if not self._began:
                    _check_definition(bytes(buffer[content:end]))
                    self._began = True
            elif not self._began:
                raise ProtocolError("not a monitor stream: it begins without a type definition")
            else:
                ends.append(size + end - run)
            position = end
        payloads.append(bytes(buffer[run:position]))
        del buffer[:position]
        return Messages(b"".join(definitions), b"".join(payloads), ends)


def _message_at(buffer: bytearray, position: int) -> tuple[int, int] | None:
    """Where the content of the message begins and ends; None when it is not whole."""
    if position >= len(buffer):
        return None
    first = buffer[position]
    content = position + 1
    if first >= 0x80:
        content += 256 - first
        length = int.from_bytes(buffer[position + 1 : content], "big")
    else:
        length = first
    if not first or 0x80 <= first < 0xF8 or length > MAX_MESSAGE:
        raise ProtocolError("not a monitor stream: bad message length", offset=position)
    end = content + length
    return None if content >= len(buffer) or end > len(buffer) else (content, end)


def _is_definition(buffer: bytearray, content: int) -> bool:
    """A negative type id: gob puts the sign in the lowest bit."""
    first = buffer[content]
    last = content + (256 - first if first >= 0x80 else 0)
    return bool(buffer[last] & 1)


def _check_definition(content: bytes) -> None:
    """Any text can look like a message; hardly one looks like a definition inside."""
    try:
        type_id, position = read_int(content, 0)
        TypeTable().define(-type_id, content, position)
    except ProtocolError as error:
        raise ProtocolError(f"not a monitor stream: {error}") from None


def open_recording(path: Path) -> IO[bytes]:
    """A recording's plain bytes, whatever the compression; ``UsageError`` says why not."""
    try:
        return open_decompressed(path)
    except OSError as error:
        raise cannot_read(path, reason_of(error)) from None


def open_decompressed(path: Path) -> IO[bytes]:
    """A file that may be compressed with gzip or xz, told by its first bytes."""
    with path.open("rb") as plain:
        magic = plain.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path))
    if magic == b"\xfd7zXZ\x00":
        return lzma.open(path)
    return path.open("rb")


def cannot_read(path: Path, reason: str) -> UsageError:
    """What to do about a recording that cannot be read."""
    return UsageError(f"cannot read {path}: {reason}; name a recording that you may read")


def read_messages(path: Path) -> Iterator[Messages]:
    """A recording about a megabyte at a time. ``UsageError``: it is not one."""
    splitter = MessageSplitter()
    with open_recording(path) as file:
        while True:
            try:
                # Not ``read``, which loses what came before a compressed file's torn end.
                data = cast("BufferedIOBase", file).read1(_CHUNK)
            except EOFError:  # a compressed file that was cut off
                yield Messages(b"", b"", [], cut_off=True)
                return
            except (OSError, lzma.LZMAError, zlib.error) as error:
                raise cannot_read(path, str(error).lower()) from None
            if not data:
                if splitter.torn:
                    yield Messages(b"", b"", [], cut_off=True)
                return
            try:
                yield splitter.feed(data)
            except ProtocolError as error:
                raise UsageError(f"{path} is not a recording: {error}") from None


@contextmanager
def create_recording(path: Path, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """A new file to write plain bytes to, compressed as its suffix says.

    ``UsageError``: it cannot be made, or what is left to write does not fit at the end.
    """
    try:
        with os.fdopen(_new_file(path, overwrite), "wb") as plain, _packed(plain, path) as file:
            yield file
    except FileExistsError:
        raise UsageError(f"{path} exists; choose another name or say --force") from None
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> UsageError:
    """What to do about a file that cannot be made or written."""
    return UsageError(
        f"cannot write {path}: {reason_of(error)}; "
        "choose a place where you may write and that has room"
    )


def _new_file(path: Path, overwrite: bool) -> int:
    """A descriptor of an empty file with mode 0600; devices, links and pipes are left alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if not overwrite:
        return os.open(path, flags | os.O_EXCL, 0o600)
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise UsageError(f"{path} is not a regular file; choose another name")
    descriptor = os.open(path, flags, 0o600)
    try:
        # Looked at again: another may have come to the name meanwhile.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(f"{path} is not a regular file; choose another name")
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _packed(plain: IO[bytes], path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(path.stem, "wb", fileobj=plain))
    if path.suffix == ".xz":
        return cast("IO[bytes]", lzma.LZMAFile(plain, "wb", preset=1))
    return plain
