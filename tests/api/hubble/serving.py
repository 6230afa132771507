"""An engine that listens, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.hubble.rpc import Engine, OpenEngine, Services


@asynccontextmanager
async def serving(
    open_engine: OpenEngine, services: Services, *targets: str
) -> AsyncIterator[Engine]:
    """An engine on all of ``targets``."""
    async with open_engine(services) as engine:
        for target in targets:
            await engine.listen(target)
        yield engine
