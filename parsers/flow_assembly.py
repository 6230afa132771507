"""From flow columns to a batch: naming, classing and details, the same for every source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.directory import Directory
from parsers.drop_sites import file_name
from parsers.flow_batch import I64, U32, U64, FlowBatch, FlowTables
from parsers.flow_columns import FlowColumns, joined
from parsers.flow_details import DetailBuilder
from parsers.headers import Release


class FlowAssembler:
    """Makes batches over ``tables``; ``release`` is the agent's (major, minor), if known."""

    __slots__ = ("_details", "_release", "directory", "tables")

    def __init__(self, tables: FlowTables, directory: Directory, release: Release = None) -> None:
        self.tables = tables
        self.directory = directory
        self._release = release
        self._details = DetailBuilder(tables, directory, self._site_of, release)

    def assemble(self, parts: list[FlowColumns], time: I64, sequence: U64) -> FlowBatch:
        """The flows of all parts in order of their rows, which ``time`` and ``sequence`` have."""
        flows = joined(parts)
        tables = self.tables
        conversations = tables.conversations
        at = time[flows.row]
        conversation = conversations.lookup(flows.key, at, self.directory)
        if len(self.directory.host_ports):
            protocol: U32 = flows.flow_class["l4"].astype(np.uint32) << np.uint32(16)
            ports = flows.source_port | protocol, flows.destination_port | protocol
            conversation = conversations.lookup_host_ports(
                flows.key, conversation, ports, at, self.directory
            )
        flow_class = flows.flow_class
        conversations.directions(conversation, flows.direction_rule, flows.reporter, flow_class)
        classes, _ = tables.classes.lookup(flow_class)
        detail = self._details.build(flows, conversation, at)
        columns: tuple[NDArray[Any], ...] = (
            classes, conversation, flows.source_port, flows.destination_port, detail,
        )  # fmt: skip
        if len(parts) == 1:
            return FlowBatch(tables, at, sequence[flows.row], *columns)
        # Each part is in order, and they have different rows: no sort is needed.
        place = np.full(len(time), -1)
        place[flows.row] = np.arange(len(flows.row))
        given = place >= 0
        order = place[given]
        columns = (time[given], sequence[given], *(column[order] for column in columns))
        return FlowBatch(tables, *columns)

    def _site_of(self, number: int, version: int) -> str:
        return file_name(number, version, self._release)
