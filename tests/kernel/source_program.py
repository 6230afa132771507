"""A process of its own that runs the probes where it is started.

``python -m tests.kernel.source_program [--clsact]``: says "covered" for each
line on its input once nothing waits to be covered; at the end of its input it stops and
prints a JSON object of what it has seen.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import trio

from native_probes import drops, tcp
from native_probes.family import StartFamily
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.source import ProbeSource, SourceSettings
from native_probes.tc import TcHooks
from parsers.probe_batch import ProbeBatch
from parsers.probe_records import FLOW_REPORT
from tests.kernel.running import Quiet


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def source_until_end_of_input(source: ProbeSource) -> tuple[Finding, ...]:
    """What it found while it ran."""

    async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await source.run(task_status.started)

    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            while not is_settled(source):
                await trio.sleep(0.01)
            say("covered")
        findings = source.findings()
        nursery.cancel_scope.cancel()
    return findings


def is_settled(source: ProbeSource) -> bool:
    """Nothing waits to be covered, or it could not be."""
    at = source.statistics().interfaces
    return at is None or (not at.waiting and bool(at.covered or at.failed))


async def main(arguments: list[str]) -> None:
    batches: list[ProbeBatch] = []
    hooks = TcHooks(tcx=False if "--clsact" in arguments else None)
    families: dict[str, StartFamily] = {
        drops.NAME: lambda place: drops.DropProbe(place, drops.DropSettings()),
        tcp.NAME: lambda place: tcp.tcp_probe(place, tcp.TcpSettings()),
    }
    source = ProbeSource(SourceSettings(families=families), batches.append, Quiet(), hooks=hooks)

    try:
        found = await source_until_end_of_input(source)
    except* ProbeUnavailableError:
        found = source.findings()
    findings = [(f.probe, f.state, f.why) for f in found]
    parts = [batch.traffic for batch in batches if len(batch.traffic)]
    reports = np.concatenate([np.empty(0, FLOW_REPORT), *parts])
    by_port = {
        int(port): int(reports[reports["destination_port"] == port]["skbs"].sum())
        for port in np.unique(reports["destination_port"])
    }
    say(json.dumps({"findings": findings, "skbs_by_port": by_port}))


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
