"""What an engine has to know of the services, and what a program needs of an engine.

The services know no gRPC library, and an engine knows no service: it gets a mapping from
full method names (``/observer.Observer/GetFlows``) to ``Unary``, ``Streaming`` and
``Dialogue`` and has to

- parse requests with ``request.FromString`` (INTERNAL when the bytes are no message),
- call ``answer`` or ``stream`` from the trio thread and send what comes, in order,
- send ``metadata`` as initial metadata at once,
- turn ``RpcError`` into its code and text, any other exception into INTERNAL,
- close the stream (``aclose``) when the client is gone,
- answer UNIMPLEMENTED to every other method,
- refuse a stream beyond ``MOST_STREAMS`` with RESOURCE_EXHAUSTED.

A stream yields lists of serialized messages; an engine takes the next list only when it
has room for it, which is all the flow control there is: the services keep no queues, and
an engine two lists a stream. No message is larger than ``LARGEST_MESSAGE``.

``Engine`` is the other side. tests/api/hubble/test_engines.py is the suite that any engine
must pass.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from google.protobuf.message import Message

LARGEST_MESSAGE = 4 << 20
"""Bytes of a message that clients written in Go take; a larger one would end their call."""

MOST_STREAMS = 512
"""At a time, over all connections: an unread one holds some 0.3 MB of usual flows."""

Code: TypeAlias = Literal[
    "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN",
    "RESOURCE_EXHAUSTED",
]  # fmt: skip
"""Names of gRPC status codes."""


class RpcError(Exception):
    """A request that is answered with a status."""

    def __init__(self, code: Code, text: str) -> None:
        self.code: Code = code
        super().__init__(text)


Chunks: TypeAlias = AsyncGenerator[list[bytes], None]


@dataclass(frozen=True, slots=True)
class Unary:
    """One request, one serialized answer."""

    request: type[Message]
    answer: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class Streaming:
    """One request, chunks of serialized answers; runs in trio."""

    request: type[Message]
    stream: Callable[[Any], Chunks]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A stream of requests, each with one serialized answer, in order."""

    request: type[Message]
    answer: Callable[[Any], bytes]


Method: TypeAlias = Unary | Streaming | Dialogue


@dataclass(frozen=True, slots=True)
class Services:
    """Everything an engine serves."""

    methods: Mapping[str, Method]
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM texts for a TLS listener: its certificate with those that signed it, and its key.

    With ``client_ca``, clients have to show a certificate that one of these signed.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None = None


GetCertificates: TypeAlias = Callable[[], Certificates]
"""Called from any thread, for each connection: those of now."""


class Engine(Protocol):
    """A server of ``Services``. Its methods are for trio's thread."""

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens, ports resolved."""

    @property
    def open_calls(self) -> int:
        """Streaming calls of the moment."""

    async def listen(self, target: str, certificates: GetCertificates | None = None) -> str:
        """Serve on ``unix:///PATH`` or ``HOST:PORT`` (port 0: any) too; returns the address.

        The socket file has mode 0660. A dead one at the path is replaced; whether it is, and
        whose, is the caller's to find out. With ``certificates`` by TLS, 1.3 at least; a
        change of them is for later connections. ``UsageError`` says why it cannot be had.
        """

    async def unlisten(self, address: str) -> None:
        """Take no more connections there. Streams of those that there are go on.

        A socket file is removed if it is the one that was made.
        """


OpenEngine: TypeAlias = Callable[[Services], AbstractAsyncContextManager[Engine]]
"""Makes an engine that listens nowhere yet.

Leaving the block ends streams with UNAVAILABLE (a relay then comes back; after OK it would
not) and is done within half a second.
"""
