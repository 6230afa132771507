"""What a gRPC engine has to know of the services: a table of methods, and one error.

The services know no gRPC library, and an engine knows no service: it gets a mapping from
full method names (``/observer.Observer/GetFlows``) to ``Unary`` and ``Streaming`` and has to

- parse the request with ``request.FromString`` (INTERNAL when the bytes are no message),
- call ``answer`` or ``stream`` from the trio thread and send what comes, in order,
- send ``metadata`` as initial metadata at once,
- turn ``RpcError`` into its code and text, any other exception into INTERNAL,
- close the stream (``aclose``) when the client is gone,
- answer UNIMPLEMENTED to every other method.

A stream yields lists of serialized messages; an engine takes the next list only when it
has room for it, which is all the flow control there is: the services keep no queues.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from google.protobuf.message import Message

Code: TypeAlias = Literal[
    "INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED", "UNKNOWN"
]
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
class Services:
    """Everything an engine serves."""

    methods: Mapping[str, Unary | Streaming]
    metadata: tuple[tuple[str, str], ...] = ()
