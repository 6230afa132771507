"""What the records of a probe become before they are named: flow columns with counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsers.flow_batch import CONVERSATION, FLOW_CLASS, I64, U32, U64
from parsers.flow_columns import FlowColumns
from parsers.probe_records import TRANSLATION
from parsers.windows import Columns

_MOST_PACKETS = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class ProbeFlows:
    """``flows.row`` counts from 0 on; the other columns are by that row.

    ``time``: ns of the boot clock, in any order; ``packets`` and ``bytes`` are what a flow
    stands for. ``known_as``: TRANSLATION by row, of length 0 where nothing was translated.
    """

    flows: FlowColumns
    time: I64
    packets: U32
    bytes: U64
    known_as: Columns

    def __len__(self) -> int:
        return len(self.time)


_NOTHING = np.empty(0, TRANSLATION)
_NOTHING.flags.writeable = False


def empty_flows(count: int, known_as: Columns = _NOTHING) -> ProbeFlows:
    """``count`` flows, all of whose columns are zero and want to be filled."""
    return ProbeFlows(
        FlowColumns(
            np.arange(count, dtype=np.int64),
            np.zeros(count, dtype=CONVERSATION),
            np.zeros(count, dtype=FLOW_CLASS),
            np.zeros(count, dtype=np.uint16),
            np.zeros(count, dtype=np.uint16),
            np.zeros(count, dtype=np.uint32),
            np.zeros(count, dtype=np.uint16),
            np.zeros(count, dtype=np.uint8),
        ),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.uint32),
        np.zeros(count, dtype=np.uint64),
        known_as,
    )


def packet_counts(packets: U64) -> U32:
    """As the column of a batch has them; more than it holds, four billion, is cut."""
    counts: U32 = np.minimum(packets, _MOST_PACKETS).astype(np.uint32)
    return counts
