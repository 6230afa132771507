"""L3/L4 flows of the datapath's records: drop, capture, trace, policy verdict.

The rules of each field are those of Hubble's ``threefour`` parser in Cilium 1.20. Columns
are filled as if every record were a trace (most are), then the rows of the other kinds are
set right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parsers.addresses import MAPPED, UNSPECIFIED, address_text
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    ABSENT_DESTINATION,
    ABSENT_SOURCE,
    FLAG_ENCRYPTED,
    FLAG_TCP_FLAGS,
    FLOW_CLASS,
    L4_TCP,
    ORIGIN_CILIUM,
    REPLY_FALSE,
    REPLY_TRUE,
)
from parsers.flow_columns import (
    EGRESS,
    EGRESS_ALWAYS,
    EGRESS_IF_OWN,
    FIXED,
    INGRESS,
    INGRESS_IF_OWN,
    FlowColumns,
)
from parsers.headers import (
    CAPTURE,
    DROP,
    OK,
    POLICY_VERDICT,
    PROBLEMS,
    TRACE,
    UNKNOWN_VERSION,
    Datapath,
)
from parsers.packet_columns import PacketColumns
from parsers.windows import Columns

L3_L4 = 1  # flow.FlowType
FORWARDED, DROPPED, AUDIT, REDIRECTED = 1, 2, 4, 5  # flow.Verdict

REASON_UNKNOWN, REASON_REPLY = 5, 2  # trace reasons on the wire
TO_PROXY = 1  # observation point
# By capture point: whether its argument is a port, or an interface.
IS_PROXY_PORT = np.zeros(256, dtype=np.bool_)
IS_PROXY_PORT[[8, 9]] = True
IS_INTERFACE = np.zeros(256, dtype=np.bool_)
IS_INTERFACE[[4, 5, 6, 7, 10, 11]] = True

# By trace reason on the wire (7 bits): flow.TraceReason and is_reply.
TRACE_REASON = np.arange(128, dtype=np.uint8)
TRACE_REASON[:5] += 1
TRACE_REASON[REASON_UNKNOWN] = 0
IS_REPLY = np.full(128, REPLY_FALSE, dtype=np.uint8)
IS_REPLY[REASON_REPLY] = REPLY_TRUE
IS_REPLY[[REASON_UNKNOWN, 6, 7]] = 0  # not known; SRv6 encapsulation and decapsulation


def datapath_flows(
    rows: NDArray[np.int64], records: Datapath, packets: PacketColumns
) -> tuple[FlowColumns, dict[int, ProtocolError]]:
    """Flows of the records at ``rows``, and the error of each row that gives none."""
    head = records.head
    key = packets.key
    has_ip = key["ip_version"] != 0
    reason = head["byte26"] & 0x7F
    flow_class = np.zeros(len(rows), dtype=FLOW_CLASS)
    flow_class["event_type"] = head["kind"]
    flow_class["sub_type"] = head["sub_type"]
    flow_class["verdict"] = FORWARDED
    flow_class["is_reply"] = IS_REPLY[reason]
    flow_class["flow_type"] = L3_L4
    flow_class["ip_version"] = key["ip_version"]
    flow_class["l4"] = packets.l4
    flow_class["trace_reason"] = TRACE_REASON[reason]
    flow_class["flags"] = (packets.l4 == L4_TCP) * np.uint8(FLAG_TCP_FLAGS) + (
        (head["byte26"] >> 7) & has_ip
    ) * np.uint8(FLAG_ENCRYPTED)
    flow_class["l4_type"] = packets.l4_type
    flow_class["l4_code"] = packets.l4_code
    flow_class["tcp_flags"] = packets.tcp_flags
    flow_class["origin"] = ORIGIN_CILIUM
    flow_class["interface"] = head["word28"]
    flow_class["proxy_port"] = np.where(head["sub_type"] == TO_PROXY, head["dst_id"], 0)
    key["source_identity"] = head["label_a"]
    key["destination_identity"] = head["label_b"]
    key["absent"][~has_ip] = ABSENT_SOURCE | ABSENT_DESTINATION
    reporter = head["source"].astype(np.uint16)
    rule = np.where(
        (reporter != 0) & (reason != REASON_UNKNOWN),
        np.where(reason == REASON_REPLY, INGRESS_IF_OWN, EGRESS_IF_OWN),
        FIXED,
    ).astype(np.uint8)
    flows = FlowColumns(
        rows,
        key,
        flow_class,
        packets.source_port,
        packets.destination_port,
        np.zeros(len(rows), dtype=np.uint32),
        reporter,
        rule,
    )
    kind = head["kind"]
    not_trace = (kind != TRACE).nonzero()[0]
    if len(not_trace):
        kinds = kind[not_trace]
        flow_class["flags"][not_trace] &= FLAG_TCP_FLAGS
        for name in ("is_reply", "trace_reason", "interface", "proxy_port"):
            flow_class[name][not_trace] = 0
        rule[not_trace] = FIXED
        for which, set_rows in _BY_KIND:
            of_kind = not_trace[kinds == which]
            if len(of_kind):
                set_rows(flows, head, of_kind)
    _set_translated(flows, records)
    _set_trace_ids(flows, records)
    for index, packet in packets.odd.items():
        flows.extra.setdefault(index, {}).update(
            tunnel=packet.tunnel,
            vrrp_id=packet.vrrp_id,
            vrrp_priority=packet.vrrp_priority,
            igmp_group=packet.igmp_group,
        )
    errors = dict(packets.refused)
    for index in (records.problem != OK).nonzero()[0].tolist():
        text = f"{PROBLEMS[records.problem[index]]}: type {kind[index]}"
        if records.problem[index] == UNKNOWN_VERSION:  # else it may lie behind the record
            text += f", version {head['version'][index]}"
        errors[index] = ProtocolError(text)
    return flows, errors


def _set_drops(flows: FlowColumns, head: Columns, rows: NDArray[np.int64]) -> None:
    flow_class = flows.flow_class
    flow_class["verdict"][rows] = DROPPED
    flow_class["drop_reason"][rows] = head["sub_type"][rows]
    flows.direction_rule[rows] = np.where(flows.reporter[rows] != 0, EGRESS_IF_OWN, FIXED)
    version = np.minimum(head["version"][rows], 15).astype(np.uint32)
    flows.site[rows] = (
        np.uint32(1 << 31)
        | version << np.uint32(24)
        | head["drop_file"][rows].astype(np.uint32) << np.uint32(16)
        | head["drop_line"][rows]
    )


def _set_verdicts(flows: FlowColumns, head: Columns, rows: NDArray[np.int64]) -> None:
    flow_class = flows.flow_class
    verdict = head["label_b"][rows].astype(np.int32)
    bits = head["byte27"][rows]
    refused = verdict < 0
    audited = (verdict == 0) & (bits & 0x40 != 0)
    flow_class["verdict"][rows] = np.where(
        refused, DROPPED, np.where(verdict > 0, REDIRECTED, np.where(audited, AUDIT, FORWARDED))
    )
    flow_class["drop_reason"][rows] = np.where(refused, -verdict.astype(np.int64), 0)
    flow_class["is_reply"][rows] = np.where(refused, 0, REPLY_FALSE)
    ingress = bits & 3 == 1
    flow_class["direction"][rows] = np.where(ingress, INGRESS, EGRESS)
    flow_class["policy_match_type"][rows] = bits >> 3 & 7
    flow_class["auth_type"][rows] = head["byte28"][rows]
    flows.key["source_identity"][rows] = np.where(ingress, head["label_a"][rows], 0)
    flows.key["destination_identity"][rows] = np.where(ingress, 0, head["label_a"][rows])


def _set_captures(flows: FlowColumns, head: Columns, rows: NDArray[np.int64]) -> None:
    flow_class = flows.flow_class
    point, argument = head["sub_type"][rows], head["word16"][rows]
    flow_class["verdict"][rows] = 0
    flow_class["interface"][rows] = np.where(IS_INTERFACE[point], argument, 0)
    flow_class["proxy_port"][rows] = np.where(IS_PROXY_PORT[point], argument.byteswap(), 0)
    flows.key["source_identity"][rows] = 0
    flows.key["destination_identity"][rows] = 0


_BY_KIND = ((DROP, _set_drops), (POLICY_VERDICT, _set_verdicts), (CAPTURE, _set_captures))


def _set_translated(flows: FlowColumns, records: Datapath) -> None:
    """Traces that carry the source from before address translation."""
    head = records.head
    words = head.view(np.uint64).reshape(len(head), 8)
    # With the IPv6 flag clear only the first 4 bytes count.
    first = np.where(records.ipv6, words[:, 4] | words[:, 5], head["orig_v4"])
    with_original = (first != 0) & (head["kind"] == TRACE) & (records.length >= 48)
    rows = with_original.nonzero()[0]
    if not len(rows):
        return
    originals = head["orig_ip"][rows]
    v4 = ~records.ipv6[rows]
    originals[v4, 12:] = originals[v4, :4]
    originals[v4, :12] = np.frombuffer(MAPPED, dtype=np.uint8)
    named = (originals != np.frombuffer(UNSPECIFIED, dtype=np.uint8)).any(axis=1)
    rows, originals = rows[named], originals[named]
    # A translated source leaves, whether the reporter owns it or answers.
    rule = flows.direction_rule
    rule[rows] = np.where(rule[rows] == FIXED, FIXED, EGRESS_ALWAYS)
    own = flows.key["source_ip"][rows]
    differ = (own != originals).any(axis=1) & (flows.key["ip_version"][rows] != 0)
    rows = rows[differ]
    flows.key["source_ip"][rows] = originals[differ]
    raw = own[differ].tobytes()
    for position, row in enumerate(rows.tolist()):
        text = address_text(raw[16 * position : 16 * position + 16])
        flows.extra.setdefault(row, {})["source_xlated"] = text


def _set_trace_ids(flows: FlowColumns, records: Datapath) -> None:
    head, kind = records.head, records.head["kind"]
    for which, name, least in ((TRACE, "trace_id", 56), (DROP, "drop_trace_id", 48)):
        number = head[name]
        for row in ((number != 0) & (kind == which) & (records.length >= least)).nonzero()[0]:
            flows.extra.setdefault(int(row), {})["ip_trace_id"] = int(number[row])
