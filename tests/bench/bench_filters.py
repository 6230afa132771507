"""What filters cost: ``python -m tests.bench.bench_filters [--json] [options]``.

**history**: a million flows (a recording again and again), and a request that filters on
verdict, pod, port and network. ``first`` is until the first flow that matches is known, ``all``
until all of them are; nothing is encoded.

**followers**: a hundred calls that follow, each with other filters, over batches of 5,000.
CPU time of all that a call does with a batch but encoding, divided by the flows of the batch.

``--stream FILE --world FILE``: a recording (``oracle gen``), else the packaged one.
"""

from __future__ import annotations

import argparse
import gc
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, cast

import numpy as np

from api.history import History
from api.hubble.encode import FlowEncoder
from api.hubble.filters import FlowSelection
from api.hubble.flow_scan import BEGIN, END, FlowScan, Wanted
from api.hubble.flow_stream import FlowStream
from api.hubble.flow_view import FlowViews
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.flow_batch import FlowBatch
from parsers.framing import PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.world import directory_of
from tests.fixtures import FIXTURES, stream_bytes

FLOWS = 1_000_000
FOLLOWERS = 100
BATCH = 5000
ROUNDS = 20


class _Uncounted(FlowEncoder):
    """In place of an encoder: says how many there were."""

    def encode(self, batch: FlowBatch) -> list[bytes]:
        return [b""] * len(batch)


class Recording:
    """The flows of a stream, and tables that hold them."""

    def __init__(self, stream: bytes, world: dict[str, Any]) -> None:
        self.tables, self.ledger = new_tables(), Ledger()
        self.node = LocalNode("cluster/node")
        pipeline = MonitorPipeline(self.tables, directory_of(world), self.ledger)
        framing = PayloadStream()
        framing.feed(stream)
        self._batches = []
        while (payloads := framing.take(BATCH)) is not None:
            self._batches.append(
                pipeline.parse(payloads, pipeline.numbers.live_clock(10**18)).flows
            )

    def batches(self, flows: int) -> Iterator[FlowBatch]:
        """So many flows in batches of ``BATCH``, with times and numbers that rise."""
        columns = [
            np.concatenate(c) for c in zip(*(b.columns() for b in self._batches), strict=True)
        ]
        length = len(columns[0])
        for start in range(0, flows, BATCH):
            numbers = np.arange(start, min(start + BATCH, flows))
            rest = [column[numbers % length] for column in columns[2:]]
            times = 10**18 + numbers * 1000
            yield FlowBatch(self.tables, times, numbers.astype(np.uint64), *rest)

    def history(self, flows: int) -> History:
        """One that is full."""
        history = History(self.tables, self.ledger, flows)
        for batch in self.batches(flows):
            history.append(batch)
        return history


def four_fields(recording: Recording) -> flow_pb2.FlowFilter:
    """A filter on verdict, pod, port and network that selects some of the flows."""
    conversations = recording.tables.conversations
    batch = next(recording.batches(BATCH))
    dropped = np.flatnonzero(
        (batch.attribute("verdict") == flow_pb2.DROPPED) & (batch.destination_port > 0)
    )
    for row in dropped.tolist():
        source = conversations.entities[int(conversations.source_entity[batch.conversation[row]])]
        if source.pod_name and conversations.rows[batch.conversation[row]]["ip_version"] == 1:
            return flow_pb2.FlowFilter(
                verdict=[flow_pb2.DROPPED],
                source_pod=[f"{source.namespace}/{source.pod_name.partition('-')[0]}"],
                destination_port=[str(int(batch.destination_port[row]))],
                source_ip=["10.0.0.0/8"],
            )
    raise AssertionError("the recording has no drop of a pod")


def in_history(recording: Recording, flows: int) -> dict[str, float]:
    """Milliseconds until the first and until all rows are known."""
    history = recording.history(flows)
    asked = four_fields(recording)
    found: dict[str, float] = {}
    selection = FlowSelection(recording.tables, recording.node, [asked])
    for turn in ("cold", "warm"):
        gc.collect()
        begun = perf_counter()
        scan = FlowScan(
            history.flows,
            FlowViews(history.flows),
            Wanted(selection, BEGIN, END),
            history.flows.oldest,
        )
        first, matches = 0.0, 0
        while scan.next < history.flows.end:
            scan.look(history.flows.end)
            taken = scan.take(flows, END)
            if taken is not None:
                first = first or perf_counter() - begun
                matches += len(taken)
        found |= {
            f"history_{turn}_first_ms": first * 1e3,
            f"history_{turn}_all_ms": (perf_counter() - begun) * 1e3,
            "history_matches": matches,
        }
    request = observer_pb2.GetFlowsRequest(whitelist=[asked], number=flows - 1)
    begun, first = perf_counter(), 0.0
    for chunk in stream_of(recording, history, FlowViews(history.flows), request).chunks():
        if chunk and not first:
            first = perf_counter() - begun
    found["history_last_first_ms"] = first * 1e3
    found["history_last_all_ms"] = (perf_counter() - begun) * 1e3
    return found


def stream_of(
    recording: Recording, history: History, views: FlowViews, request: observer_pb2.GetFlowsRequest
) -> FlowStream:
    """A call that encodes nothing."""
    tables, node = recording.tables, recording.node
    selection = FlowSelection(tables, node, request.whitelist, request.blacklist)
    return FlowStream(
        request, history, views, selection, _Uncounted(tables, node), node, recording.ledger,
        lambda: 10**18,
    )  # fmt: skip


def different_filters(recording: Recording) -> list[observer_pb2.GetFlowsRequest]:
    """As many as ``FOLLOWERS``: what people watch for."""
    entities = recording.tables.conversations.entities
    pods = [entities[row] for row in range(1, entities.end) if entities[row].pod_name]
    made = []
    for n in range(FOLLOWERS):
        pod = pods[n * 7 % len(pods)]
        name = f"{pod.namespace}/{pod.pod_name}"
        white = [
            [{"source_pod": [name]}, {"destination_pod": [name]}],
            [{"verdict": ["DROPPED"], "source_pod": [f"{pod.namespace}/"]}],
            [{"destination_port": [str(80 + n)], "protocol": ["tcp"]}],
            [{"source_ip": [f"10.0.{n % 4}.0/24"], "traffic_direction": ["EGRESS"]}],
            [{"destination_label": [f"k8s:app={pod.pod_name.partition('-')[0]}"]}],
            [{"event_type": [{"type": 129}], "http_status_code": [f"{1 + n % 5}+"]}],
            [{"source_identity": [pod.identity]}, {"destination_identity": [pod.identity]}],
            [
                {
                    "verdict": ["DROPPED"],
                    "destination_port": ["443", "53"],
                    "source_ip": ["10.0.0.0/8"],
                }
            ],
            [{"destination_fqdn": [f"*.example{n}.com"]}],
            [{"reply": [False], "source_workload": [{"name": pod.pod_name.partition("-")[0]}]}],
        ][n % 10]
        black = [{"source_label": ["reserved:health"]}] if n % 3 == 0 else []
        request = {"whitelist": white, "blacklist": black, "follow": True}
        made.append(observer_pb2.GetFlowsRequest(**cast("Any", request)))
    return made


def followers(recording: Recording) -> dict[str, float]:
    """Microseconds a flow for all followers together."""
    history = History(recording.tables, recording.ledger, 100_000)
    views = FlowViews(history.flows)
    requests = different_filters(recording)
    calls = [stream_of(recording, history, views, request).chunks() for request in requests]
    for call in calls:
        next(call)
    times, sent = [], 0
    gc.collect()
    gc.freeze()
    for batch in recording.batches(ROUNDS * BATCH):
        history.append(batch)
        begun = process_time()
        for call in calls:
            for chunk in call:
                if chunk is None:
                    break
                sent += len(chunk)
        times.append((process_time() - begun) / len(batch) * 1e6)
    return {
        "followers_first_batch_us_per_flow": times[0],
        "followers_us_per_flow": float(np.median(times[1:])),
        "followers_sent_per_batch": sent / ROUNDS,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="what filters cost")
    parser.add_argument("--stream", type=Path)
    parser.add_argument("--world", type=Path)
    parser.add_argument("--flows", type=int, default=FLOWS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.stream is not None:
        stream, world = options.stream.read_bytes(), options.world.read_bytes()
    else:
        stream = stream_bytes("v1.19", "steady")
        world = lzma.decompress((FIXTURES / "v1.19" / "world.json.xz").read_bytes())
    recording = Recording(stream, json.loads(world))
    figures = in_history(recording, options.flows) | followers(recording)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:36} {value:12,.2f}\n")


if __name__ == "__main__":
    main()
