"""How long the loop is held: ``python -m tests.bench.bench_steps [--json] [options]``.

What the agent does, without its sockets: batches of the size that the client would take go
through the flow path into a history and ten metric handlers; between two of them one step of a
scrape of at least 50,000 series runs, scrape after scrape. A step is what happens between
two checkpoints of the loop. ``cpu`` counts the time this thread ran; ``wall`` also what a busy
machine took away. The first second of the process, when readers are compiled, is not counted.

``--stream FILE --world FILE``: a recording (``oracle gen``), else the packaged one; it is
repeated for ``--records``. ``--storm``: a stream in which every record is a new conversation.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import numpy as np

from api.history import History
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.metrics.exposition import Format, render
from api.metrics.family import Counters
from api.metrics.hubble import HubbleMetrics
from bridge.cilium.client import next_batch
from bridge.cli.bench import HANDLERS
from bridge.flow_path import FlowPath
from bridge.process_tuning import tune_process
from parsers.directory import Directory
from parsers.framing import PayloadBatch, PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.world import directory_of
from tests import storm
from tests.fixtures import FIXTURES, stream_bytes

SERIES = 50_000
READ = 256 << 10
WARM_UP = 1.0  # seconds

Source = Iterator[Callable[[int], PayloadBatch | None]]
"""Ways to take payloads; each is used until it gives none."""


def recorded(stream: bytes, records: int) -> Source:
    """A recording again and again, one connection each time, as drained in reads."""
    taken = 0

    def take(limit: int) -> PayloadBatch | None:
        nonlocal taken
        batch = framing.take(limit)
        taken += len(batch or ())
        return batch

    while taken < records:
        framing = PayloadStream()
        for at in range(0, len(stream), READ):
            framing.feed(stream[at : at + READ])
            if taken < records and framing.waiting >= 4 * READ:
                yield take
        yield take


def stormy(records: int) -> Source:
    """Every record another one."""
    start = 0

    def take(limit: int) -> PayloadBatch | None:
        nonlocal start
        begin, start = start, min(start + limit, records)
        return storm.payloads(begin, start) if begin < start else None

    yield take


def scrapes(metrics: HubbleMetrics) -> Iterator[bytes]:
    """The steps of scrapes without an end."""
    family = Counters("a_total", "A", ("destination", "pod", "port", "source"))
    for n in range(SERIES):
        family.add((f"10.0.{n % 256}.{n % 199}", f"pod-{n * 7919 % SERIES}", str(n), "cart"), 1)
    while True:
        metrics.fold()
        yield from render((family, *metrics.families), Format.CLASSIC)


def run(source: Source, directory: Directory, history_flows: int) -> dict[str, Any]:
    """Take everything; milliseconds of the steps."""
    tables, ledger = new_tables(), Ledger()
    pipeline = MonitorPipeline(tables, directory, ledger)
    history, metrics = History(tables, ledger, history_flows), HubbleMetrics(HANDLERS)
    observer = Observer(history, LocalNode("node"), ledger)
    path = FlowPath(pipeline, metrics, observer.publish, watch=lambda _events, _seconds: None)
    scrape = scrapes(metrics)
    tune_process()
    next(scrape)
    limit, sizes = next_batch(0, 1), []
    steps: dict[str, list[tuple[float, float]]] = {"batch": [], "scrape": []}
    warm = perf_counter() + WARM_UP

    def timed(kind: str, step: Callable[[], Any]) -> float:
        cpu, wall = thread_time(), perf_counter()
        step()
        taken = thread_time() - cpu, perf_counter() - wall
        if wall > warm:
            steps[kind].append(taken)
        return taken[1]

    for take in source:
        while (batch := take(limit)) is not None:
            limit = next_batch(len(batch), timed("batch", partial(path.deliver, batch)))
            sizes.append(len(batch))
            timed("scrape", lambda: next(scrape))
    conversations = tables.conversations
    return {
        "records": sum(sizes),
        "records_a_batch": round(float(np.mean(sizes))),
        "steps": len(steps["batch"]),
        **{f"{kind}_{name}": _percentiles(times, clock)
           for kind, times in (*steps.items(), ("all", steps["batch"] + steps["scrape"]))
           for clock, name in enumerate(("cpu_ms", "wall_ms"))},
        "rows": {
            "classes": len(tables.classes),
            "conversations": len(conversations),
            "details": len(tables.details),
            "entities": len(conversations.entities),
        },
        "reclaims": history.statistics().reclaims,
        "imbalance": ledger.imbalance(),
    }  # fmt: skip


def _percentiles(steps: list[tuple[float, float]], clock: int) -> dict[str, float]:
    times = np.array(steps)[:, clock] * 1000
    ranks = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
    return {name: round(float(np.percentile(times, rank)), 2) for name, rank in ranks.items()}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="how long a step holds the loop")
    parser.add_argument("--stream", type=Path)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--history-flows", type=int, default=1_000_000)
    parser.add_argument("--storm", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.storm:
        source, directory = stormy(options.records), storm.directory(options.records)
    else:
        if options.stream is not None:
            stream, world = options.stream.read_bytes(), options.world.read_bytes()
        else:
            stream = stream_bytes("v1.20", "steady")
            world = lzma.decompress((FIXTURES / "v1.20" / "world.json.xz").read_bytes())
        source, directory = recorded(stream, options.records), directory_of(json.loads(world))
    figures = run(source, directory, options.history_flows)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        text = value
        if isinstance(value, dict):
            text = "  ".join(f"{key} {number:8}" for key, number in value.items())
        sys.stdout.write(f"{name:20} {text}\n")


if __name__ == "__main__":
    main()
