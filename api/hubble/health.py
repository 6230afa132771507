"""The gRPC health service: serving, for as long as there is somebody to ask.

Its messages are a string and an enumeration numbered 1, hence on the wire the same as
``StringValue`` and ``Int32Value``; that saves another set of stubs, whose names would
clash with those of grpcio-health-checking in one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import trio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from api.hubble.rpc import Chunks, RpcError, Streaming, Unary

_SERVING, _SERVICE_UNKNOWN = 1, 3


def health_methods(names: Iterable[str]) -> Mapping[str, Unary | Streaming]:
    """Check and Watch for the services ``names`` and the server itself."""
    known = frozenset(("", *names))

    def check(request: StringValue) -> bytes:
        if request.value not in known:
            raise RpcError("NOT_FOUND", "unknown service")
        return Int32Value(value=_SERVING).SerializeToString()

    async def watch(request: StringValue) -> Chunks:
        state = _SERVING if request.value in known else _SERVICE_UNKNOWN
        yield [Int32Value(value=state).SerializeToString()]
        await trio.sleep_forever()

    return {
        "/grpc.health.v1.Health/Check": Unary(StringValue, check),
        "/grpc.health.v1.Health/Watch": Streaming(StringValue, watch),
    }
