"""From payloads to flows: the one way every batch of the monitor stream takes.

``MonitorPipeline.parse`` splits a batch by record type. Datapath records become columns
(``datapath``), socket and access-log records rows
of the same columns (``sock_flows``, ``access_log_flows``); then all of them together are
named (``Conversations``), classed (``FlowClasses``) and given their details. Agent and
debug records become events. A record that gives nothing is booked under its error class,
so that records in = flows + agent + debug + lost + errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from parsers.access_log_flows import AccessLogFlows
from parsers.agent_events import AgentEvent, AgentEventDecoder
from parsers.conversations import Conversations
from parsers.datapath import flows_of_records
from parsers.debug_events import DebugEvent, decode_debug_event
from parsers.details import DetailTable
from parsers.directory import Directory, local_entity
from parsers.entities import Entities, Entity
from parsers.errors import ProtocolError
from parsers.flow_assembly import FlowAssembler
from parsers.flow_batch import FLOW_CLASS, FlowBatch, FlowTables
from parsers.flow_columns import FlowColumns
from parsers.framing import PAYLOAD_LOST, PAYLOAD_SAMPLE, PayloadBatch
from parsers.headers import (
    ACCESS_LOG,
    AGENT,
    DEBUG,
    POLICY_VERDICT,
    TRACE_SOCK,
    Layout,
    Release,
)
from parsers.intern import InternTable
from parsers.ledger import Ledger
from parsers.record_numbers import Clock, RecordNumbers
from parsers.redaction import DEFAULT_REDACTION, Redaction
from parsers.sock_flows import RECORD_WINDOW, sock_flows
from parsers.windows import windows

_OTHER, _DATAPATH = 0, 255
_ROUTE = np.zeros(256, dtype=np.uint8)
_ROUTE[[1, 3, 4, POLICY_VERDICT]] = _DATAPATH
_ROUTE[[DEBUG, TRACE_SOCK, ACCESS_LOG, AGENT]] = [DEBUG, TRACE_SOCK, ACCESS_LOG, AGENT]


@dataclass(frozen=True, slots=True)
class LostRecords:
    """Records the kernel had no room for: flow.LostEvent, perf ring. ``cpu``: None if unknown."""

    sequence: int
    time: int
    cpu: int | None
    count: int


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent notification and when it was read."""

    sequence: int
    time: int
    event: AgentEvent


@dataclass(frozen=True, slots=True)
class DebugRecord:
    """A debug message, when it was read and the endpoint it came from (None: none)."""

    sequence: int
    time: int
    event: DebugEvent
    source: Entity | None


@dataclass(frozen=True, slots=True)
class RecordError:
    """A record that gave no event; ``error_class`` is one of ``ledger.ERROR_CLASSES``."""

    sequence: int
    time: int
    error_class: str
    text: str


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """What a batch of payloads became. ``records`` = all the others added up."""

    records: int
    flows: FlowBatch
    agent_events: list[AgentRecord] = field(default_factory=list)
    debug_events: list[DebugRecord] = field(default_factory=list)
    lost_events: list[LostRecords] = field(default_factory=list)
    errors: list[RecordError] = field(default_factory=list)


def new_tables() -> FlowTables:
    """Empty tables for one pipeline."""
    return FlowTables(InternTable(FLOW_CLASS), Conversations(Entities()), DetailTable())


class MonitorPipeline:
    """Parser of one agent's records; ``release`` is the agent's (major, minor), if known;
    ``redaction`` says what of L7 records is not shown.

    ``assembler`` and ``numbers`` are for other sources of the same agent as well. Not
    thread-safe.
    """

    def __init__(
        self,
        tables: FlowTables,
        directory: Directory,
        ledger: Ledger,
        *,
        release: Release = None,
        redaction: Redaction = DEFAULT_REDACTION,
    ) -> None:
        self.tables = tables
        self.directory = directory
        self.ledger = ledger
        self.numbers = RecordNumbers()
        self.assembler = FlowAssembler(tables, directory, release)
        self.guessed_headers = 0  # records of a version newer than we know
        self._layout = Layout.of(release)
        self._agent_events = AgentEventDecoder(release)
        self._access_logs = AccessLogFlows(tables.conversations.entities, release, redaction)

    def label_queries(self, *, wanted: bool) -> None:
        """Whether ``DnsLabels`` say the name that was asked for; at first they do not."""
        self._access_logs.label_queries(wanted=wanted)

    def parse(self, payloads: PayloadBatch, clock: Clock) -> ParsedBatch:
        """Everything the payloads say. Raises nothing for what they contain."""
        count = len(payloads)
        sequence = self.numbers.take(count)
        time = clock(sequence)
        buffer = payloads.buffer
        sample = (payloads.kind == PAYLOAD_SAMPLE) & (payloads.length > 0)
        route = np.where(sample, _ROUTE[buffer[payloads.offset]], _OTHER)
        problems: dict[int, ProtocolError] = {}
        parts: list[FlowColumns] = []
        datapath = (route == _DATAPATH).nonzero()[0]
        if len(datapath):
            parts.append(self._datapath(payloads, datapath, problems))
        socks = (route == TRACE_SOCK).nonzero()[0]
        if len(socks):
            flows, errors = sock_flows(
                socks,
                windows(buffer, payloads.offset[socks], RECORD_WINDOW),
                payloads.length[socks],
                self._layout,
                self.directory,
            )
            parts.append(_without(flows, errors, problems))
        logs = (route == ACCESS_LOG).nonzero()[0]
        if len(logs):
            flows, errors = self._access_logs.flows(logs, payloads.records(logs))
            problems.update(errors)
            parts.append(flows)
        batch = self.assembler.assemble(parts, time, sequence)
        parsed = ParsedBatch(count, batch)
        self._events(payloads, route, time, sequence, parsed, problems)
        self._other_records(payloads, route, time, sequence, parsed, problems)
        for row, error in sorted(problems.items()):
            parsed.errors.append(
                RecordError(int(sequence[row]), int(time[row]), error.error_class, str(error))
            )
        self._book(parsed)
        return parsed

    def _datapath(
        self,
        payloads: PayloadBatch,
        rows: NDArray[np.int64],
        problems: dict[int, ProtocolError],
    ) -> FlowColumns:
        flows, errors, guessed = flows_of_records(payloads, rows, self._layout)
        self.guessed_headers += guessed
        return _without(flows, errors, problems)

    def _events(
        self,
        payloads: PayloadBatch,
        route: NDArray[np.uint8],
        time: NDArray[np.int64],
        sequence: NDArray[np.uint64],
        parsed: ParsedBatch,
        problems: dict[int, ProtocolError],
    ) -> None:
        for row in ((route == AGENT) | (route == DEBUG)).nonzero()[0].tolist():
            number, at = int(sequence[row]), int(time[row])
            try:
                if route[row] == AGENT:
                    notification = self._agent_events.decode(payloads.data(row))
                    parsed.agent_events.append(AgentRecord(number, at, notification))
                else:
                    message = decode_debug_event(payloads.data(row), int(payloads.cpu[row]))
                    source = self._debug_source(message.source, at)
                    parsed.debug_events.append(DebugRecord(number, at, message, source))
            except ProtocolError as error:
                problems[row] = error

    def _debug_source(self, endpoint_id: int, time: int) -> Entity | None:
        """The endpoint of a debug message; its workload is not part of it."""
        if not endpoint_id:
            return None
        endpoint = self.directory.endpoint_by_id(endpoint_id, time)
        if endpoint is None:
            return Entity(endpoint_id=endpoint_id)
        return replace(local_entity(endpoint, endpoint.identity), workloads=())

    def _other_records(
        self,
        payloads: PayloadBatch,
        route: NDArray[np.uint8],
        time: NDArray[np.int64],
        sequence: NDArray[np.uint64],
        parsed: ParsedBatch,
        problems: dict[int, ProtocolError],
    ) -> None:
        for row in (route == _OTHER).nonzero()[0].tolist():
            kind = int(payloads.kind[row])
            if kind == PAYLOAD_LOST:
                parsed.lost_events.append(
                    LostRecords(
                        int(sequence[row]),
                        int(time[row]),
                        int(payloads.cpu[row]),
                        int(payloads.lost[row]),
                    )
                )
            elif kind != PAYLOAD_SAMPLE:
                problems[row] = ProtocolError(
                    f"payload has unknown type {kind}", error_class="payload-type"
                )
            elif not payloads.length[row]:
                problems[row] = ProtocolError("payload is empty", error_class="empty")
            else:
                first = int(payloads.buffer[payloads.offset[row]])
                problems[row] = ProtocolError(
                    f"record has unknown type {first}", error_class="invalid-type"
                )

    def _book(self, parsed: ParsedBatch) -> None:
        ledger = self.ledger
        ledger.book("parser", incoming=parsed.records)
        ledger.book_kinds(
            "parser",
            flows=len(parsed.flows),
            agent=len(parsed.agent_events),
            debug=len(parsed.debug_events),
            lost=len(parsed.lost_events),
        )
        for error in parsed.errors:
            ledger.book_lost("parser", error.error_class, 1)
        for lost in parsed.lost_events:
            ledger.book("kernel", incoming=lost.count)
            ledger.book_lost("kernel", "perf_ring", lost.count)


def _without(
    flows: FlowColumns, errors: dict[int, ProtocolError], problems: dict[int, ProtocolError]
) -> FlowColumns:
    """Take the rows out that give no flow, and remember why under their payload's row."""
    if not errors:
        return flows
    keep = np.ones(len(flows.row), dtype=np.bool_)
    for index, error in errors.items():
        keep[index] = False
        problems[int(flows.row[index])] = error
    place = np.cumsum(keep) - 1
    extra = {int(place[i]): fields for i, fields in flows.extra.items() if keep[i]}
    return FlowColumns.of((column[keep] for column in flows.columns()), extra)
