"""From what own probes deliver to flows: the same batches as Cilium's records make.

``ProbePipeline.parse`` turns each part of a ``ProbeBatch`` into flow columns by its own
module, puts them in order of time and has them named, classed and detailed as all flows are
(``FlowAssembler``). A report of the traffic probe gives no flow where another observation
point has its packets, or when they are no IP, and neither does a part of a DNS message or one
that was seen elsewhere; these are booked as "no_flow", so that
records in = flows + no_flow + errors. What the kernel had no room for becomes one lost event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parsers.flow_assembly import FlowAssembler
from parsers.flow_batch import FlowBatch
from parsers.flow_columns import joined
from parsers.ledger import Ledger
from parsers.pipeline import LostRecords, ParsedBatch
from parsers.probe_batch import ProbeBatch
from parsers.probe_dns import DnsWatcher
from parsers.probe_drops import DropFlows
from parsers.probe_flows import ProbeFlows
from parsers.probe_tcp import tcp_flows
from parsers.probe_traffic import traffic_flows
from parsers.probe_translation import set_translated
from parsers.record_numbers import RecordNumbers


class ProbePipeline:
    """Shares tables, names and numbers with the agent's other source. Not thread-safe."""

    __slots__ = ("_assembler", "_dns", "_drops", "_numbers", "ledger")

    def __init__(self, assembler: FlowAssembler, numbers: RecordNumbers, ledger: Ledger) -> None:
        self._assembler = assembler
        self._numbers = numbers
        self._drops = DropFlows(assembler.tables)
        self._dns = DnsWatcher()
        self.ledger = ledger

    def label_queries(self, *, wanted: bool) -> None:
        """Whether ``DnsLabels`` say the name that was asked for; at first they do not."""
        self._dns.label_queries(wanted=wanted)

    def parse(self, batch: ProbeBatch) -> ParsedBatch:
        """The flows of a drain, in order of their times."""
        dns = self._dns.flows(batch.dns, batch.covered, batch.pods, batch.now_ns)
        flows = self._flows([*self._parts(batch), dns.flows, dns.unanswered], batch.boot_offset)
        lost = sum(batch.lost.values())
        records = len(batch) + dns.beyond
        parsed = ParsedBatch(records, flows, lost_events=self._lost_events(lost))
        ledger = self.ledger
        ledger.book("probes", incoming=dns.beyond, outgoing=dns.beyond)
        ledger.book("parser", incoming=records, before="probes")
        for error_class, count in dns.errors.items():
            ledger.book_lost("parser", error_class, count)
        none = records - len(flows) - dns.errors.total()
        ledger.book_kinds("parser", flows=len(flows), no_flow=none)
        return parsed

    def _parts(self, batch: ProbeBatch) -> Iterator[ProbeFlows]:
        if len(batch.traffic):
            yield traffic_flows(batch.traffic, batch.covered, batch.far_ends, batch.pods)
        if len(batch.drops):
            yield self._drops.flows(
                batch.drops, batch.verdicts, batch.drop_reasons, batch.netns, batch.pods
            )
        if len(batch.tcp):
            yield tcp_flows(batch.tcp, batch.reset_reasons)

    def _lost_events(self, count: int) -> list[LostRecords]:
        """The losses of a drain, told behind its flows."""
        if not count:
            return []
        now = np.array([self._numbers.last_time + 1], dtype=np.int64)
        number = int(self._numbers.take(1)[0])
        return [LostRecords(number, int(self._numbers.rising(now)[0]), None, count)]

    def _flows(self, parts: list[ProbeFlows], boot_offset: int) -> FlowBatch:
        assembler = self._assembler
        for part in parts:
            set_translated(part, assembler.tables, assembler.directory, boot_offset)
        time = _concatenated([part.time for part in parts], np.int64) + boot_offset
        order = np.argsort(time, kind="stable")
        flows = joined([part.flows for part in parts]).reordered(order)
        batch = self._assembler.assemble(
            [flows], self._numbers.rising(time[order]), self._numbers.take(len(time))
        )
        return replace(
            batch,
            packets=_concatenated([part.packets for part in parts], np.uint32)[order],
            bytes=_concatenated([part.bytes for part in parts], np.uint64)[order],
        )


def _concatenated(columns: list[NDArray[Any]], dtype: DTypeLike) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=dtype), *columns])
