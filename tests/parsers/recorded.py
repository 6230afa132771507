"""What our parser makes of recorded payloads, in the shape of the recorded results.

A result is ``{"kind": ..., "event": ...}`` or, for errors, ``{"kind": "error", "class": ...}``,
as in the fixtures; the event is the message's JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.wrappers_pb2 import Int32Value

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.framing import PayloadBatch, PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import LostRecords, MonitorPipeline, ParsedBatch, new_tables
from parsers.world import directory_of, node_name_of
from tests.fixtures import Payload

Result = dict[str, Any]
World = dict[str, Any]

BATCH = 5000


class Parser:
    """One pipeline over a world; ``results`` maps payload numbers to makers of results."""

    def __init__(self, world: World, release: tuple[int, int] | None) -> None:
        directory = directory_of(world)
        self.tables = new_tables()
        self.ledger = Ledger()
        self.pipeline = MonitorPipeline(self.tables, directory, self.ledger, release=release)
        node = LocalNode(
            node_name_of(world),
            tuple(sorted(world["node"]["labels"])),
            emitter_version="0",
            uuid_prefix=world["uuid_prefix"],
            interface_name=directory.link_name,
        )
        self.messages = FlowMessages(self.tables, node)
        start = datetime.fromisoformat(world["base_time"])
        self._start = int(start.timestamp()) * 10**9
        self._step = int(world["step_ns"])

    def parse(self, batch: PayloadBatch) -> ParsedBatch:
        """A batch, on the world's clock."""
        return self.pipeline.parse(
            batch, lambda sequence: self._start + sequence.astype(np.int64) * self._step
        )

    def results(self, parsed: ParsedBatch) -> Iterator[tuple[int, Callable[[], Result]]]:
        """Payload number and result, the latter made when asked for: messages are slow."""
        for row, sequence in enumerate(parsed.flows.sequence.tolist()):
            yield sequence, lambda row=row: _shown("flow", self.messages.flow(parsed.flows, row))
        for lost in parsed.lost_events:
            yield lost.sequence, lambda lost=lost: _shown("lost", _lost_event(lost))
        for error in parsed.errors:
            yield error.sequence, lambda error=error: {"kind": "error", "class": error.error_class}


def _lost_event(lost: LostRecords) -> flow_pb2.LostEvent:
    return flow_pb2.LostEvent(
        source=flow_pb2.PERF_EVENT_RING_BUFFER,
        num_events_lost=lost.count,
        cpu=Int32Value(value=lost.cpu),
    )


def _shown(kind: str, message: Any) -> Result:
    return {"kind": kind, "event": MessageToDict(message, preserving_proto_field_name=True)}


def of_stream(
    data: bytes, world: World, release: tuple[int, int] | None
) -> dict[int, Callable[[], Result]]:
    """Results of a whole stream as it came from the socket."""
    stream, parser = PayloadStream(), Parser(world, release)
    stream.feed(data)
    found: dict[int, Callable[[], Result]] = {}
    while (batch := stream.take(BATCH)) is not None:
        found.update(parser.results(parser.parse(batch)))
    return found


def of_payloads(
    payloads: Sequence[Payload], world: World, release: tuple[int, int] | None
) -> dict[int, Callable[[], Result]]:
    """Results of payloads made by hand."""
    parser = Parser(world, release)
    found: dict[int, Callable[[], Result]] = {}
    for start in range(0, len(payloads), BATCH):
        found.update(parser.results(parser.parse(batch_of(payloads[start : start + BATCH]))))
    return found


def batch_of(payloads: Sequence[Payload]) -> PayloadBatch:
    """Payloads as the framing would hand them over."""
    buffer = np.zeros(sum(len(p.data) for p in payloads) + 192, dtype=np.uint8)
    length = np.array([len(p.data) for p in payloads], dtype=np.int64)
    buffer[: len(buffer) - 192] = np.frombuffer(
        b"".join(p.data for p in payloads), dtype=np.uint8
    )
    return PayloadBatch(
        buffer,
        np.cumsum(length) - length,
        length,
        np.array([p.cpu for p in payloads], dtype=np.int64),
        np.array([p.lost for p in payloads], dtype=np.uint64),
        np.array([p.type for p in payloads], dtype=np.int64),
        0,
    )


def differences(want: Any, got: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two results differ: path, wanted, got."""
    if isinstance(want, dict) and isinstance(got, dict):
        keys = sorted(k for k in want.keys() | got.keys() if want.get(k) != got.get(k))
        return [d for k in keys for d in differences(want.get(k), got.get(k), f"{path}.{k}")]
    return [] if want == got else [(path, want, got)]
