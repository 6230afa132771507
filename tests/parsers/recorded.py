"""What our parser makes of recorded payloads, in the shape of the recorded results.

A result is ``{"kind": ..., "event": ...}`` or, for errors, ``{"kind": "error", "class": ...}``,
as in the fixtures; the event is the message's JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict

from api.hubble.events import agent_event_message, debug_event_message, lost_event_message
from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from parsers.details import Detail
from parsers.directory import Directory
from parsers.framing import PayloadBatch, PayloadStream
from parsers.headers import Release
from parsers.ledger import Ledger
from parsers.pipeline import (
    AgentRecord,
    DebugRecord,
    LostRecords,
    MonitorPipeline,
    ParsedBatch,
    RecordError,
    new_tables,
)
from parsers.redaction import DEFAULT_REDACTION, Redaction
from parsers.world import directory_of, node_name_of
from tests.fixtures import Payload

Result = dict[str, Any]
World = dict[str, Any]
Facts = tuple[Any, ...]

BATCH = 5000


class Parser:
    """One pipeline over a world, on the world's clock."""

    def __init__(
        self,
        world: World,
        release: Release,
        *,
        directory: Directory | None = None,
        redaction: Redaction = DEFAULT_REDACTION,
    ) -> None:
        directory = directory or directory_of(world)
        self.tables = new_tables()
        self.ledger = Ledger()
        self.pipeline = MonitorPipeline(
            self.tables, directory, self.ledger, release=release, redaction=redaction
        )
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
        """A batch; every record of it has one result, and the books say so."""
        first = self.pipeline.numbers.next
        parsed = self.pipeline.parse(
            batch, lambda sequence: self._start + sequence.astype(np.int64) * self._step
        )
        numbers = parsed.flows.sequence.tolist() + [r.sequence for r in _no_flows(parsed)]
        assert sorted(numbers) == list(range(first, first + len(batch)))
        assert parsed.records == len(batch)
        assert self.ledger.imbalance() == {}
        account = self.ledger.stages["parser"]
        assert account.incoming == self.pipeline.numbers.next
        return parsed

    def results(self, parsed: ParsedBatch) -> Iterator[tuple[int, Callable[[], Result]]]:
        """Payload number and result, the latter made when asked for: messages are slow."""
        for row, sequence in enumerate(parsed.flows.sequence.tolist()):
            make = partial(self.messages.flow, parsed.flows, row)
            yield sequence, partial(_shown, "flow", make)
        for agent in parsed.agent_events:
            yield (
                agent.sequence,
                partial(_shown, "agent", partial(agent_event_message, agent.event)),
            )
        for debug in parsed.debug_events:
            yield debug.sequence, partial(_shown, "debug", partial(debug_event_message, debug))
        for lost in parsed.lost_events:
            yield lost.sequence, partial(_shown, "lost", partial(lost_event_message, lost))
        for error in parsed.errors:
            yield error.sequence, partial(_error, error.error_class)

    def facts(self, parsed: ParsedBatch) -> Iterator[tuple[int, Facts]]:
        """Payload number and everything its result is made of, to compare two parsers."""
        flows, tables = parsed.flows, self.tables
        names = tables.conversations
        keys = names.rows[flows.conversation]
        keys["source_entity"] = keys["destination_entity"] = 0  # row numbers: below by content
        for sequence, time, kind, key, row, source_port, destination_port, detail in zip(
            flows.sequence.tolist(),
            flows.time.tolist(),
            tables.classes.rows[flows.flow_class].view("V32").tolist(),
            keys.view("V64").tolist(),
            flows.conversation.tolist(),
            flows.source_port.tolist(),
            flows.destination_port.tolist(),
            flows.detail.tolist(),
            strict=True,
        ):
            yield (
                sequence,
                (
                    time,
                    kind,
                    key,
                    names.entities[int(names.source_entity[row])],
                    names.entities[int(names.destination_entity[row])],
                    names.name_pairs[int(names.names[row])],
                    source_port,
                    destination_port,
                    *_detail_facts(tables.details[detail]),
                ),
            )
        for record in _no_flows(parsed):
            yield record.sequence, (record,)


def _no_flows(
    parsed: ParsedBatch,
) -> Iterator[AgentRecord | DebugRecord | LostRecords | RecordError]:
    yield from parsed.agent_events
    yield from parsed.debug_events
    yield from parsed.lost_events
    yield from parsed.errors


def _detail_facts(detail: Detail) -> Facts:
    if detail.l7 is None:
        return (detail,)
    l7 = detail.l7
    return detail._replace(l7=None), l7.type, l7.latency_ns, l7.trace_id, l7.labels, l7.content()


def _shown(kind: str, make: Callable[[], Any]) -> Result:
    return {"kind": kind, "event": MessageToDict(make(), preserving_proto_field_name=True)}


def _error(error_class: str) -> Result:
    return {"kind": "error", "class": error_class}


def batches(data: bytes, sizes: Iterable[int] = (1 << 30,)) -> Iterator[PayloadBatch]:
    """What a connection yields that brings ``data`` in pieces of these sizes."""
    stream = PayloadStream()
    position = 0
    for size in sizes:
        stream.feed(data[position : position + size])
        position += size
        while (batch := stream.take(BATCH)) is not None:
            yield batch
    assert position >= len(data)


def made_by_hand(payloads: Sequence[Payload]) -> Iterator[PayloadBatch]:
    """Payloads that came from no stream."""
    for start in range(0, len(payloads), BATCH):
        yield batch_of(payloads[start : start + BATCH])


def results_of(
    payloads: Iterable[PayloadBatch],
    world: World,
    release: Release,
    redaction: Redaction = DEFAULT_REDACTION,
) -> dict[int, Callable[[], Result]]:
    """By payload number; see ``Parser.results``."""
    parser = Parser(world, release, redaction=redaction)
    return dict(chain.from_iterable(parser.results(parser.parse(b)) for b in payloads))


def facts_of(payloads: Iterable[PayloadBatch], world: World, release: Release) -> dict[int, Facts]:
    """By payload number; see ``Parser.facts``."""
    parser = Parser(world, release)
    return dict(chain.from_iterable(parser.facts(parser.parse(b)) for b in payloads))


def batch_of(payloads: Sequence[Payload]) -> PayloadBatch:
    """Payloads as the framing would hand them over."""
    buffer = np.zeros(sum(len(p.data) for p in payloads) + 192, dtype=np.uint8)
    length = np.array([len(p.data) for p in payloads], dtype=np.int64)
    buffer[: len(buffer) - 192] = np.frombuffer(b"".join(p.data for p in payloads), dtype=np.uint8)
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
