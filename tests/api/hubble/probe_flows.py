"""Flows as own probes make them, for tests of what leaves the process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from parsers.details import Detail
from parsers.flow_batch import ORIGIN_CILIUM, ORIGIN_TC, ORIGIN_TRACEPOINT, FlowBatch, FlowTables

DROPPED, DROP = 2, 1


def as_probes_tell(batch: FlowBatch) -> FlowBatch:
    """The same flows with counts; of three, one is of Cilium, and one a drop with its reason."""
    tables = batch.tables
    classes = tables.classes.rows[batch.flow_class].copy()
    kind = np.arange(len(batch)) % 3
    classes["origin"] = np.array([ORIGIN_CILIUM, ORIGIN_TC, ORIGIN_TRACEPOINT])[kind]
    dropped = kind == 2
    classes["event_type"][dropped], classes["verdict"][dropped] = DROP, DROPPED
    classes["own_reason"][dropped] = tables.reasons.number("NETFILTER_DROP")
    detail = batch.detail.copy()
    detail[dropped] = tables.details.intern(
        Detail(extension=(("location", "nft_do_chain"), ("queue", 3.0)))
    )
    counts = np.where(kind == 0, 0, np.arange(len(batch)) + 1)
    counts[-3:] = 0
    return replace(
        batch,
        flow_class=tables.classes.lookup(classes)[0],
        detail=detail,
        packets=counts.astype(np.uint32),
        bytes=counts.astype(np.uint64) << np.uint64(20),
    )


def probe_tables(tables: FlowTables) -> FlowTables:
    """Tables in which some reasons have numbers already."""
    tables.reasons.number("NO_SOCKET")
    return tables
