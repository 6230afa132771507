"""The engines, and one that listens, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.hubble import grpc_engine
from api.hubble.rpc import Engine, OpenEngine, Services

ENGINES: dict[str, OpenEngine] = {"grpcio": grpc_engine.open_engine}
"""A further one is one line here: ``test_engines`` has what it must do."""


@asynccontextmanager
async def serving(
    open_engine: OpenEngine, services: Services, *targets: str
) -> AsyncIterator[Engine]:
    """An engine on all of ``targets``."""
    async with open_engine(services) as engine:
        for target in targets:
            await engine.listen(target)
        yield engine
