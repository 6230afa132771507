"""Throughput of the pipeline on this machine: ``ciliary bench pipeline``.

One core, one pass over the stream in memory, the way the agent goes: framing, parsing
(with naming), counting ten metric handlers, history. Figures are CPU time of this process,
so that a busy machine does not change them much; compare them with a peer in the same run.
"""

from __future__ import annotations

import json
import lzma
import resource
import time
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from api.history import History
from api.metrics.hubble import HubbleMetrics
from bridge.config import Cilium
from bridge.identity.file import load_identity_file, parse_identity
from bridge.process_tuning import tune_process
from bridge.recording import MessageSplitter, open_recording
from parsers import compiled
from parsers.framing import PAYLOAD_SAMPLE, PayloadStream
from parsers.headers import ACCESS_LOG, Release
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.world import directory_of

BATCH = 4000  # records; as the agent takes them
CHUNK = 1 << 20  # bytes a read gives at most
HANDLERS = (
    "flow", "drop", "tcp", "dns", "icmp", "port-distribution", "http", "policy",
    "flows-to-world", "sctp",
)  # fmt: skip
_FILE = click.Path(path_type=Path)
STAGES = ("framing", "parse", "metrics", "history")


def bench_pipeline(
    stream: bytes, world: Mapping[str, Any], *, history_flows: int, release: Release = None
) -> dict[str, Any]:
    """Run a stream through the pipeline once; the figures of ``ciliary bench pipeline``."""
    tables = new_tables()
    ledger = Ledger()
    pipeline = MonitorPipeline(tables, directory_of(world), ledger, release=release)
    metrics = HubbleMetrics(HANDLERS)
    tables.classes.before_free.append(metrics.forget)
    history = History(tables, ledger, capacity=history_flows)
    framing = PayloadStream()
    spent = dict.fromkeys(STAGES, 0.0)
    batches: list[float] = []
    records = flows = 0
    tune_process()
    rss_before = _rss()
    cpu = time.process_time()
    wall = time.perf_counter()
    for chunk in _chunks(stream):
        mark = time.perf_counter()
        framing.feed(chunk)
        while True:
            payloads = framing.take(BATCH)
            framed = time.perf_counter()
            spent["framing"] += framed - mark
            if payloads is None:
                break
            parsed = pipeline.parse(payloads, pipeline.numbers.live_clock(time.time_ns()))
            done = time.perf_counter()
            spent["parse"] += done - framed
            metrics.count(parsed.flows)
            counted = time.perf_counter()
            spent["metrics"] += counted - done
            history.append(parsed.flows)
            end = time.perf_counter()
            spent["history"] += end - counted
            batches.append(end - mark)
            records += len(payloads)
            flows += len(parsed.flows)
            mark = end
    wall = time.perf_counter() - wall
    cpu = time.process_time() - cpu
    batches.sort()
    total = sum(spent.values())
    return {
        "records": records,
        "flows": flows,
        "events_per_second": round(records / wall),
        "events_per_cpu_second": round(records / cpu),
        "share": {name: round(value / total, 3) for name, value in spent.items()},
        "p50_batch_ms": round(1000 * batches[len(batches) // 2], 2),
        "p99_batch_ms": round(1000 * batches[len(batches) * 99 // 100], 2),
        "rss_bytes": _rss(),
        "history_bytes_per_flow": round(history.nbytes() / max(1, len(history.flows)), 1),
        "rss_growth_bytes_per_flow": round((_rss() - rss_before) / max(1, flows), 1),
        "imbalance": ledger.imbalance(),
        "compiled": f"no: {compiled.missing}" if compiled.kernels is None else "yes",
    }


def without_agent_records(stream: bytes) -> bytes:
    """A stream without its L7, agent and lost records."""
    messages = MessageSplitter().feed(stream)
    framing = PayloadStream()
    framing.feed(stream)
    wanted: list[bool] = []
    while (payloads := framing.take(BATCH)) is not None:
        first = payloads.buffer[payloads.offset]
        wanted += ((payloads.kind == PAYLOAD_SAMPLE) & (first < ACCESS_LOG)).tolist()
    starts = [0, *messages.ends[:-1]]
    bounds = zip(starts, messages.ends, wanted, strict=True)
    return messages.definitions + b"".join(messages.payloads[a:b] for a, b, w in bounds if w)


def packaged_recording() -> tuple[bytes, dict[str, Any]]:
    """The demo's recording and its world: small, so a first look rather than a figure."""
    packed = files("bridge.demo_data")
    stream = lzma.decompress(packed.joinpath("steady.stream.xz").read_bytes())
    world = lzma.decompress(packed.joinpath("world.json.xz").read_bytes())
    return stream, parse_identity(world, "packaged world")


def _chunks(stream: bytes) -> Iterator[memoryview]:
    view = memoryview(stream)
    return (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))


def _rss() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


@click.group()
def bench() -> None:
    """Measure ciliary on this machine; figures to compare with a peer of the same run."""


@bench.command()
@click.option(
    "--stream",
    "recording",
    type=_FILE,
    help="Recording. [default: the packaged one, 20,000 records]",
)
@click.option("--world", type=_FILE, help="Identity file of the recording.")
@click.option("--release", help="Release of the agent that was recorded, such as 1.19.")
@click.option("--datapath-only", is_flag=True, help="Leave out L7, agent and lost records.")
@click.option("--history", default=1_000_000, show_default=True, help="Flows the history holds.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def pipeline(
    recording: Path | None,
    world: Path | None,
    release: str | None,
    datapath_only: bool,
    history: int,
    as_json: bool,
) -> None:
    """Framing, parsing, naming, ten metric handlers and history, on one core."""
    if recording is None:
        stream, known = packaged_recording()
    else:
        with open_recording(recording) as file:
            stream = file.read()
        known = load_identity_file(world) if world else {}
    number = Cilium(release=release or known.get("release") or None).release_number
    if datapath_only:
        stream = without_agent_records(stream)
    figures = bench_pipeline(stream, known, history_flows=history, release=number)
    click.echo(report(figures, as_json=as_json))


def report(figures: dict[str, Any], *, as_json: bool) -> str:
    """The figures as a person or a program wants them."""
    if as_json:
        return json.dumps(figures)
    return "\n".join(f"{name:28} {value}" for name, value in figures.items())
