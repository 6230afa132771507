"""The unit of work: a batch of flows as columns, and the tables its columns point into.

Every source (Cilium's monitor stream, own probes) ends in this one schema; nothing
downstream asks where a flow came from, except to print it. What repeats from flow to
flow is kept once in a table and referred to by row number, so that a flow costs 28
bytes in the history (40 where its source counts packets and bytes) and an attribute of
low cardinality costs one gather:

=================  ======================================================================
``FlowClasses``    what happened: type, verdict, reason, direction, flags (``FLOW_CLASS``)
``Conversations``  who: MACs, addresses, identities, both endpoints (``CONVERSATION``)
``DetailTable``    the rest, for the few flows that have it (``Detail``)
=================  ======================================================================

Row 0 of each table means "nothing". Rows are immutable. Numbers of an enumeration are
those of the Flow API (Cilium 1.20 ``flow.proto``) unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.object_table import ObjectTable
from parsers.reason_names import ReasonNames

if TYPE_CHECKING:
    from parsers.conversations import Conversations
    from parsers.details import DetailTable
    from parsers.intern import InternTable

U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
I64: TypeAlias = NDArray[np.int64]

# ``is_reply`` is three-state; the wrapped bool of the API is unset, false or true.
REPLY_UNKNOWN, REPLY_FALSE, REPLY_TRUE = 0, 1, 2

# ``l4`` uses the field numbers of the API's ``Layer4`` message; 0 is "no layer 4".
L4_NONE, L4_TCP, L4_UDP, L4_ICMPV4, L4_ICMPV6, L4_SCTP, L4_VRRP, L4_IGMP = range(8)

# ``l7_record``: which record of ``Layer7`` a flow carries.
L7_NONE, L7_DNS, L7_HTTP, L7_KAFKA, L7_GENERIC = range(5)

# Bits of ``flags``.
FLAG_ENCRYPTED = 1  # IP.encrypted
FLAG_TCP_FLAGS = 2  # l4.TCP.flags is present (it is absent on L7 and SOCK flows)
FLAG_L7 = 4  # the ``l7`` message is present

# ``origin``: the source that produced the flow.
ORIGIN_CILIUM, ORIGIN_TC, ORIGIN_FEXIT, ORIGIN_TRACEPOINT = 1, 2, 3, 4

# Bits of ``absent``.
ABSENT_SOURCE, ABSENT_DESTINATION = 1, 2

FLOW_CLASS = np.dtype(
    [
        ("event_type", "u1"),  # monitor message type: 1 drop, 3 capture, 4 trace, 5, 7, 129
        ("sub_type", "u1"),  # wire number: drop reason, observation, capture or xlate point
        ("verdict", "u1"),  # flow.Verdict
        ("direction", "u1"),  # flow.TrafficDirection
        ("is_reply", "u1"),  # REPLY_*
        ("flow_type", "u1"),  # flow.FlowType
        ("ip_version", "u1"),  # flow.IPVersion; 0 when there is no IP layer
        ("l4", "u1"),  # L4_*
        ("trace_reason", "u1"),  # flow.TraceReason, trace records only
        ("policy_match_type", "u1"),
        ("auth_type", "u1"),  # flow.AuthType
        ("flags", "u1"),  # FLAG_*
        ("l4_type", "u1"),  # ICMP, IGMP and VRRP type; flow.SCTPChunkType for SCTP
        ("l4_code", "u1"),  # ICMP code
        ("tcp_flags", "u2"),  # FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, NS 256
        ("l7_type", "u1"),  # flow.L7FlowType
        ("l7_record", "u1"),  # L7_*
        ("origin", "u1"),  # ORIGIN_*
        ("own_reason", "u1"),  # number in ``FlowTables.reasons``: the source's own word for it
        ("drop_reason", "u4"),  # as the API's number; a refused verdict may carry any
        ("interface", "u4"),  # ifindex, 0 when the flow has none
        ("proxy_port", "u4"),
    ]
)
"""One row of ``FlowClasses``: 32 bytes, everything of low cardinality that is not a name.

``trace_observation_point``, ``debug_capture_point`` and ``sock_xlate_point`` of the API
follow from ``event_type`` and ``sub_type``.
"""

CONVERSATION = np.dtype(
    [
        ("source_ip", "u1", (16,)),  # network order, IPv4 mapped (::ffff:a.b.c.d); else zero
        ("destination_ip", "u1", (16,)),
        ("source_mac", "u1", (6,)),
        ("destination_mac", "u1", (6,)),
        ("source_identity", "u4"),  # as the record says; 0 when it does not
        ("destination_identity", "u4"),
        ("source_entity", "u4"),  # row of ``Entities`` the record itself names (L7), else 0
        ("destination_entity", "u4"),
        ("has_ethernet", "u1"),
        ("ip_version", "u1"),  # flow.IPVersion; a mapped address in IPv6 prints as IPv4
        ("absent", "u2"),  # ABSENT_*: a side whose address is not known, though IP is there
    ]
)
"""The key of a conversation: 64 bytes. What it resolves to is in ``Conversations``."""


@dataclass(frozen=True, slots=True)
class FlowTables:
    """The tables that the batches of one pipeline point into."""

    classes: InternTable  # rows of FLOW_CLASS
    conversations: Conversations
    details: DetailTable
    reasons: ReasonNames = field(default_factory=ReasonNames)
    # what many flows have in their extensions alike, as ``Detail.extension``; there are few
    extensions: ObjectTable[tuple[tuple[str, str | float], ...]] = field(
        default_factory=lambda: ObjectTable(())
    )

    def nbytes(self) -> int:
        """About how much memory the rows in use take."""
        return self.classes.nbytes() + self.conversations.nbytes() + self.details.nbytes


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """``n`` flows in order of arrival; every column has length ``n``.

    ==================  ======  ==========================================================
    ``time``            int64   ns since the epoch; strictly rising unless a world's clock
    ``sequence``        uint64  number of the record at this agent; the uuid is made of it
    ``flow_class``      uint32  row of ``tables.classes``
    ``conversation``    uint32  row of ``tables.conversations``
    ``source_port``     uint16  host order; 0 without ports (``l4`` says whether)
    ``destination_port``  uint16
    ``detail``          uint32  row of ``tables.details``, 0 for none
    ``packets``         uint32  what the flow stands for; None where the source tells of
                                single packets. Bytes are those of the link layer.
    ``bytes``           uint64  likewise
    ==================  ======  ==========================================================

    Columns of the record that no one reads yet (CPU, length on the wire) are not kept.
    """

    tables: FlowTables
    time: I64
    sequence: U64
    flow_class: U32
    conversation: U32
    source_port: U16
    destination_port: U16
    detail: U32
    packets: U32 | None = None
    bytes: U64 | None = None

    COLUMNS = (
        "time",
        "sequence",
        "flow_class",
        "conversation",
        "source_port",
        "destination_port",
        "detail",
    )

    def __len__(self) -> int:
        return len(self.time)

    def attribute(self, name: str) -> NDArray[Any]:
        """The column of a ``FLOW_CLASS`` field, e.g. ``attribute("verdict")``."""
        column: NDArray[Any] = self.tables.classes.rows[name][self.flow_class]
        return column

    def select(self, rows: NDArray[Any]) -> FlowBatch:
        """The flows of a mask or of row numbers."""
        selected = FlowBatch(self.tables, *(getattr(self, c)[rows] for c in self.COLUMNS))
        if self.packets is None or self.bytes is None:
            return selected
        return replace(selected, packets=self.packets[rows], bytes=self.bytes[rows])

    def columns(self) -> Iterator[NDArray[Any]]:
        """The columns in the order of ``COLUMNS``; packets and bytes are not among them."""
        return (getattr(self, c) for c in self.COLUMNS)
