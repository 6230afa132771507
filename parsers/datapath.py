"""Flows of datapath records: the ordinary in one compiled pass, the others by columns.

Nearly every record is of a known version and holds a packet without anything odd in it. Those
are read by ``compiled/datapath.c`` in one loop. It leaves out the others, which go through
``headers``, ``packet_columns`` and ``datapath_flows``; where nothing is compiled all of them do.
Both ways fill the same columns, and a test holds them equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.addresses import address_text
from parsers.datapath_flows import (
    IS_INTERFACE,
    IS_PROXY_PORT,
    IS_REPLY,
    TRACE_REASON,
    datapath_flows,
)
from parsers.errors import ProtocolError
from parsers.flow_batch import CONVERSATION, FLOW_CLASS
from parsers.flow_columns import FlowColumns
from parsers.framing import PayloadBatch
from parsers.headers import DROP_LENGTHS, TRACE_LENGTHS, Layout, read_datapath
from parsers.packet_columns import CHUNKS, V4_L4, V6_L4, read_packets

Flows = tuple[FlowColumns, dict[int, ProtocolError], int]
"""Flows of records, the error of each row that gives none, and how many records have a
version newer than we know."""

TABLES = np.concatenate(
    [
        table.astype(np.uint8)
        for table in (
            TRACE_LENGTHS[:4], DROP_LENGTHS[:4], TRACE_REASON, IS_REPLY, V4_L4, V6_L4, CHUNKS,
            IS_INTERFACE + 2 * IS_PROXY_PORT,
        )
    ]
)  # fmt: skip
"""``struct tables`` of the compiled loop."""


def flows_of_records(payloads: PayloadBatch, rows: NDArray[np.int64], layout: Layout) -> Flows:
    """What the payloads at ``rows`` (at least one) say: drops, captures, traces, verdicts."""
    if compiled.kernels is None:
        return flows_by_columns(payloads, rows, layout)
    count = len(rows)
    key = np.empty((count, CONVERSATION.itemsize // 8), dtype=np.uint64)
    flow_class = np.empty((count, FLOW_CLASS.itemsize // 8), dtype=np.uint64)
    flows = FlowColumns(
        rows,
        key.view(CONVERSATION).reshape(count),
        flow_class.view(FLOW_CLASS).reshape(count),
        np.empty(count, dtype=np.uint16),
        np.empty(count, dtype=np.uint16),
        np.empty(count, dtype=np.uint32),
        np.empty(count, dtype=np.uint16),
        np.empty(count, dtype=np.uint8),
    )
    odd = np.empty(count, dtype=np.int64)
    translated = np.empty(count, dtype=np.int64)
    own = np.empty((count, 2), dtype=np.uint64)
    many = np.empty(2, dtype=np.int64)
    done = compiled.kernels.datapath_flows(
        payloads.buffer, count, rows, payloads.offset, payloads.length, layout.verdict, TABLES,
        key, flow_class, flows.source_port, flows.destination_port, flows.site, flows.reporter,
        flows.direction_rule, odd, translated, own, many,
    )  # fmt: skip
    if not done:
        return flows_by_columns(payloads, rows, layout)
    others, changed = many.tolist()
    raw = own[:changed].tobytes()
    for number, row in enumerate(translated[:changed].tolist()):
        text = address_text(raw[16 * number : 16 * number + 16])
        flows.extra[row] = {"source_xlated": text}
    if not others:
        return flows, {}, 0
    odd = odd[:others]
    return _with_odd(flows, odd, flows_by_columns(payloads, rows[odd], layout))


def _with_odd(flows: FlowColumns, odd: NDArray[np.int64], others: Flows) -> Flows:
    """Flows whose rows ``odd`` are the others'."""
    found, errors, guessed = others
    for column, filled in zip(flows.columns(), found.columns(), strict=True):
        # As bytes: numpy would copy structs field by field.
        raw = f"V{column.itemsize}"
        column.view(raw)[odd] = filled.view(raw)
    place = odd.tolist()
    flows.extra.update((place[row], fields) for row, fields in found.extra.items())
    return flows, {place[row]: error for row, error in errors.items()}, guessed


def flows_by_columns(payloads: PayloadBatch, rows: NDArray[np.int64], layout: Layout) -> Flows:
    """As ``flows_of_records``, of any record, and with numpy alone."""
    offset = payloads.offset[rows]
    records = read_datapath(payloads.buffer, offset, payloads.length[rows], layout)
    packets = read_packets(payloads.buffer, offset + records.length, records)
    flows, errors = datapath_flows(rows, records, packets)
    return flows, errors, records.guessed
