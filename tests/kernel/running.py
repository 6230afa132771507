"""A source of probes that runs in a lab's node, and what it delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trio

from native_probes.engine import Engine
from native_probes.interfaces import Coverage
from native_probes.source import ProbeSource, SourceSettings
from native_probes.tc import TcHooks
from parsers.node_network import NodeNetwork
from parsers.probe_batch import ProbeBatch
from parsers.probe_records import FLOW_REPORT
from parsers.probe_traffic import _seen_first
from parsers.windows import Columns
from tests.kernel.lab import Lab, inside

_PATIENCE = 30.0


class Quiet:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = info


@dataclass(slots=True)
class Running:
    source: ProbeSource
    log: Quiet
    batches: list[ProbeBatch] = field(default_factory=list)
    networks: list[NodeNetwork] = field(default_factory=list)

    def traffic(self, *, first: bool = False, **wanted: int) -> Columns:
        """All reports so far with these values; with ``first``, those that give flows."""
        parts = [
            batch.traffic[_seen_first(batch.traffic, batch.covered, batch.far_ends)]
            if first
            else batch.traffic
            for batch in self.batches
            if len(batch.traffic)
        ]
        reports = np.concatenate(parts) if parts else np.empty(0, FLOW_REPORT)
        for name, value in wanted.items():
            reports = reports[reports[name] == value]
        return reports

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for what must become true."""
        with trio.fail_after(_PATIENCE):
            while not condition():
                await trio.sleep(0.01)

    async def covers(self, *ifindexes: int) -> None:
        """Wait until interfaces are covered; the traffic probe may still be starting."""
        await self.until(lambda: self.source._coverage)
        await self.until(lambda: set(ifindexes) <= set(self.coverage.covered()))

    @property
    def coverage(self) -> Coverage:
        assert self.source._coverage is not None
        return self.source._coverage

    def lost(self) -> dict[tuple[str, str], int]:
        return dict(self.source.statistics().lost)


@asynccontextmanager
async def running(
    lab: Lab,
    settings: SourceSettings | None = None,
    hooks: TcHooks | None = None,
    engine: Engine | None = None,
) -> AsyncIterator[Running]:
    """Starts in the node, where the loop stays meanwhile.

    At the end everything is detached, and ``batches`` is complete.
    """
    log = Quiet()
    batches: list[ProbeBatch] = []
    networks: list[NodeNetwork] = []
    source = ProbeSource(
        settings or SourceSettings(),
        batches.append,
        log,
        engine=engine,
        hooks=hooks,
        tell=networks.append,
    )

    async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await source.run(task_status.started)

    with inside(lab.node):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            yield Running(source, log, batches, networks)
            nursery.cancel_scope.cancel()
