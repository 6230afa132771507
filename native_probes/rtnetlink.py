"""Messages of rtnetlink(7): asking the kernel, and taking its answers apart.

The kernel is trusted to send whole messages; attributes that nobody asks for are kept as
bytes. A socket acts in the network namespace of the thread that opened it.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator

_REQUEST, _DUMP = 0x001, 0x300
_ERROR, _DONE = 2, 3
_RECEIVE_BYTES = 1 << 16


def open_route_socket() -> socket.socket:
    """Of NETLINK_ROUTE, not bound to groups."""
    return socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message of a datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += max(16, (length + 3) & ~3)


def attributes(data: bytes) -> dict[int, bytes]:
    """Values by type; of a type that comes twice, the last."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += max(4, (length + 3) & ~3)
    return found


def ask(kind: int, body: bytes) -> tuple[int, bytes]:
    """The one answer to a question. Raises ``OSError`` with the kernel's errno."""
    with open_route_socket() as asking:
        asking.send(_request(kind, _REQUEST, body))
        answer, answered = next(messages(asking.recv(_RECEIVE_BYTES)))
    if answer == _ERROR:
        raise _failure(answered)
    return answer, answered


def dump(kind: int, body: bytes, most: float = math.inf) -> list[bytes]:
    """The bodies of all answers, or of some ``most``. Raises ``OSError`` with the errno."""
    bodies: list[bytes] = []
    with open_route_socket() as asking:
        asking.send(_request(kind, _REQUEST | _DUMP, body))
        while len(bodies) < most:
            for answer, answered in messages(asking.recv(_RECEIVE_BYTES)):
                if answer == _DONE:
                    return bodies
                if answer == _ERROR:
                    raise _failure(answered)
                bodies.append(answered)
    return bodies


def text(value: bytes) -> str:
    """Of an attribute that is a C string."""
    return value.split(b"\0")[0].decode(errors="replace")


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def _failure(body: bytes) -> OSError:
    (code,) = struct.unpack_from("=i", body)
    return OSError(-code, "the kernel refused a netlink request")
