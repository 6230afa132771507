"""The gRPC health service: serving, for as long as there is somebody to ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import trio
from google.protobuf.descriptor_pool import DescriptorPool

from api.hubble.grpc_protos import HEALTH, message_class
from api.hubble.rpc import Chunks, RpcError, Streaming, Unary

_SERVING, _SERVICE_UNKNOWN = 1, 3


def health_methods(names: Iterable[str], pool: DescriptorPool) -> Mapping[str, Unary | Streaming]:
    """Check, List and Watch for the services ``names`` and the server itself."""
    known = frozenset(("", *names))
    asked = message_class(pool, f"{HEALTH}.HealthCheckRequest")
    answer = message_class(pool, f"{HEALTH}.HealthCheckResponse")
    all_answers = message_class(pool, f"{HEALTH}.HealthListResponse")

    def check(request: Any) -> bytes:
        if request.service not in known:
            raise RpcError("NOT_FOUND", "unknown service")
        return bytes(answer(status=_SERVING).SerializeToString())

    def list_all(_: Any) -> bytes:
        statuses = {name: answer(status=_SERVING) for name in known}
        return bytes(all_answers(statuses=statuses).SerializeToString())

    async def watch(request: Any) -> Chunks:
        state = _SERVING if request.service in known else _SERVICE_UNKNOWN
        yield [answer(status=state).SerializeToString()]
        await trio.sleep_forever()

    return {
        f"/{HEALTH}.Health/Check": Unary(asked, check),
        f"/{HEALTH}.Health/List": Unary(
            message_class(pool, f"{HEALTH}.HealthListRequest"), list_all
        ),
        f"/{HEALTH}.Health/Watch": Streaming(asked, watch),
    }
