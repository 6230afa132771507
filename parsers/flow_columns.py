"""Flows under construction: what every kind of record is turned into first.

Each source of flows (datapath, socket and access-log records of Cilium, own probes) fills
these columns by its own rules; ``flow_assembly`` makes a ``FlowBatch`` of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.details import Extensions
from parsers.flow_batch import CONVERSATION, FLOW_CLASS
from parsers.l7 import L7Record
from parsers.windows import Columns

INGRESS, EGRESS = 1, 2  # flow.TrafficDirection

Extended: TypeAlias = tuple[NDArray[np.int64], Extensions]
"""Rows, and the extension of each in turn."""

Recorded: TypeAlias = tuple[NDArray[np.int64], Sequence[L7Record]]
"""Rows, and the L7 record of each in turn."""


@dataclass(slots=True)
class FlowColumns:
    """Flows under construction, one row a record that gives one.

    ``row`` (int64): number within the payload batch. ``key``, ``flow_class``: the interned
    structs before they are interned. ``site`` (uint32): drop line | file << 16 |
    version << 24 | 1 << 31, or a row of ``FlowTables.extensions``; 0 for none. ``extra``:
    row here to fields of ``Detail`` that are no column. ``extensions``, ``records``: rows
    that have none of these but an extension or an L7 record of their own.
    ``direction_rule`` (uint8) and ``reporter`` (uint16) decide the direction once the
    source is known: see ``directions``.
    """

    row: NDArray[np.int64]
    key: Columns
    flow_class: Columns
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    site: NDArray[np.uint32]
    reporter: NDArray[np.uint16]
    direction_rule: NDArray[np.uint8]
    extra: dict[int, dict[str, Any]] = field(default_factory=dict)
    extensions: list[Extended] = field(default_factory=list)
    records: list[Recorded] = field(default_factory=list)

    COLUMNS: ClassVar = (
        "row", "key", "flow_class", "source_port", "destination_port", "site", "reporter",
        "direction_rule",
    )  # fmt: skip

    def columns(self) -> list[NDArray[Any]]:
        """All but ``extra``, ``extensions`` and ``records``, in the order of ``COLUMNS``."""
        return [getattr(self, name) for name in self.COLUMNS]

    def reordered(self, order: NDArray[np.intp]) -> FlowColumns:
        """The rows in another order, and ``row`` anew from 0 on."""
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        extra = {int(place[row]): fields for row, fields in self.extra.items()}
        found = FlowColumns.of((column[order] for column in self.columns()), extra)
        found.row = np.arange(len(order))
        found.extensions = [(place[rows], told) for rows, told in self.extensions]
        found.records = [(place[rows], records) for rows, records in self.records]
        return found

    @classmethod
    def of(cls, columns: Iterable[NDArray[Any]], extra: dict[int, dict[str, Any]]) -> FlowColumns:
        """Of columns in the order of ``COLUMNS``."""
        named: dict[str, Any] = dict(zip(cls.COLUMNS, columns, strict=True))
        return cls(**named, extra=extra)


FIXED, EGRESS_IF_OWN, INGRESS_IF_OWN, EGRESS_ALWAYS = range(4)
"""``direction_rule``: as set; egress when the reporter is the source, else ingress; the
other way round (replies); egress in any case (the source address was translated)."""


def directions(
    rule: NDArray[np.uint8], is_source: NDArray[np.bool_], fixed: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """flow.TrafficDirection by rule; ``is_source``: the reporter owns the source address."""
    egress = is_source ^ (rule == INGRESS_IF_OWN)
    egress |= rule == EGRESS_ALWAYS
    found: NDArray[np.uint8] = np.where(rule == FIXED, fixed, 1 + egress).astype(np.uint8)
    return found


def no_flows() -> FlowColumns:
    """Columns of length 0."""
    return FlowColumns(
        np.empty(0, dtype=np.int64),
        np.empty(0, dtype=CONVERSATION),
        np.empty(0, dtype=FLOW_CLASS),
        np.empty(0, dtype=np.uint16),
        np.empty(0, dtype=np.uint16),
        np.empty(0, dtype=np.uint32),
        np.empty(0, dtype=np.uint16),
        np.empty(0, dtype=np.uint8),
    )


def joined(parts: list[FlowColumns]) -> FlowColumns:
    """All parts, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return no_flows()
    extra: dict[int, dict[str, Any]] = {}
    extensions: list[Extended] = []
    records: list[Recorded] = []
    start = 0
    for part in parts:
        extra.update((start + index, fields) for index, fields in part.extra.items())
        extensions += [(start + rows, told) for rows, told in part.extensions]
        records += [(start + rows, told) for rows, told in part.records]
        start += len(part.row)
    columns = zip(*(part.columns() for part in parts), strict=True)
    found = FlowColumns.of(map(_concatenated, columns), extra)
    found.extensions, found.records = extensions, records
    return found


def _concatenated(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    dtype = columns[0].dtype
    if dtype.names is None:
        return np.concatenate(columns)
    # As bytes: numpy compares structs field by field, in Python, before it joins them.
    raw = f"V{dtype.itemsize}"
    return np.concatenate([column.view(raw) for column in columns]).view(dtype)
