"""Flows of the traffic probe: what was counted of a flow at a hook since the last time.

A report is one direction of one flow at one hook. Those of packets that another covered
interface had before give no flow (see ``probe_batch``). Observation points are Cilium's:

=========  ==================  ================
hook       pod's veth          other interface
=========  ==================  ================
ingress    from-endpoint       from-network
egress     to-endpoint         to-network
=========  ==================  ================

Who opened a connection is known where a SYN was seen or an echo request; else it is the
first packet's sender, unless the ports tell better: one below the range that Linux takes
clients' ports from is a server's, if the other one is in that range. A TCP connection that
was met in its middle, between two ports of which neither or both are in the range, has no
known direction.

SYN, FIN and RST are told in reports of their own packets. The flags of a sweep are all that
were seen since the flow began, so there those three are left out: metrics count them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import (
    FLAG_TCP_FLAGS,
    L4_ICMPV4,
    L4_ICMPV6,
    L4_IGMP,
    L4_NONE,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L4_VRRP,
    ORIGIN_TC,
    REPLY_FALSE,
    REPLY_TRUE,
    REPLY_UNKNOWN,
)
from parsers.flow_columns import EGRESS, INGRESS
from parsers.probe_flows import ProbeFlows, empty_flows, packet_counts
from parsers.probe_records import (
    CAUSE_SWEEP,
    KIND_FRAGMENT,
    KIND_MALFORMED,
    OPENER_DESTINATION,
    OPENER_SOURCE,
    POINT_INGRESS,
    TUNNEL_GENEVE,
    TUNNEL_GRE,
    TUNNEL_IPIP,
    TUNNEL_VXLAN,
)
from parsers.probe_translation import known_as
from parsers.windows import Columns

TRACE, FORWARDED, L3_L4 = 4, 1, 1  # monitor message type, flow.Verdict, flow.FlowType
TO_ENDPOINT, FROM_ENDPOINT, FROM_NETWORK, TO_NETWORK = 0, 5, 10, 11  # as on Cilium's wire
_NEW, _ESTABLISHED, _REPLY = 1, 2, 3  # flow.TraceReason

EPHEMERAL = 32768
"""Clients' ports are at or above it, unless net.ipv4.ip_local_port_range was changed."""

L4_OF = np.zeros(256, dtype=np.uint8)
"""L4_* by protocol number."""
L4_OF[[1, 2, 6, 17, 58, 112, 132]] = [
    L4_ICMPV4, L4_IGMP, L4_TCP, L4_UDP, L4_ICMPV6, L4_VRRP, L4_SCTP,
]  # fmt: skip

_SYN_FIN_RST = np.uint8(7)
_WITH_PORTS = np.zeros(8, dtype=np.bool_)
_WITH_PORTS[[L4_TCP, L4_UDP, L4_SCTP]] = True
_ECHO = ((L4_ICMPV4, 8, REPLY_FALSE), (L4_ICMPV4, 0, REPLY_TRUE), (L4_ICMPV6, 128, REPLY_FALSE),
         (L4_ICMPV6, 129, REPLY_TRUE))  # fmt: skip
_TUNNELS = {
    TUNNEL_VXLAN: "vxlan", TUNNEL_GENEVE: "geneve", TUNNEL_GRE: "gre", TUNNEL_IPIP: "ipip",
}  # fmt: skip


def traffic_flows(
    reports: Columns,
    covered: frozenset[int],
    far_ends: frozenset[int],
    pods: frozenset[int],
) -> ProbeFlows:
    """The flows of FLOW_REPORT rows, but not of packets that count elsewhere or are no IP.

    ``covered``, ``far_ends`` and ``pods`` are those of ``ProbeBatch``.
    """
    reports = reports[_seen_first(reports, covered, far_ends) & (reports["family"] != 0)]
    found = empty_flows(len(reports), known_as(reports))
    flows, key, flow_class = found.flows, found.flows.key, found.flows.flow_class
    at_pod = np.isin(reports["ifindex"], np.fromiter(pods, np.uint32, len(pods)))
    inward = reports["point"] == POINT_INGRESS
    for side in ("source", "destination"):
        key[f"{side}_ip"] = np.ascontiguousarray(reports[side]).view(np.uint8).reshape(-1, 16)
    key["ip_version"] = 1 + (reports["family"] == 6)
    l4 = np.where(reports["kind"] == 0, L4_OF[reports["protocol"]], L4_NONE)
    flows.source_port[:] = reports["source_port"]
    flows.destination_port[:] = reports["destination_port"]
    portless = ~_WITH_PORTS[l4]
    flows.source_port[portless] = flows.destination_port[portless] = 0
    is_reply = _is_reply(reports, l4)
    flow_class["event_type"], flow_class["verdict"] = TRACE, FORWARDED
    flow_class["flow_type"], flow_class["origin"] = L3_L4, ORIGIN_TC
    flow_class["sub_type"] = np.where(
        at_pod,
        np.where(inward, FROM_ENDPOINT, TO_ENDPOINT),
        np.where(inward, FROM_NETWORK, TO_NETWORK),
    )
    flow_class["ip_version"] = key["ip_version"]
    flow_class["l4"] = l4
    flow_class["is_reply"] = is_reply
    leaves = inward == at_pod
    flow_class["direction"] = np.where(
        is_reply == REPLY_UNKNOWN,
        0,
        np.where(leaves ^ (is_reply == REPLY_TRUE), EGRESS, INGRESS),
    )
    opened = (is_reply == REPLY_FALSE) & (reports["cause"] != CAUSE_SWEEP)
    flow_class["trace_reason"] = np.select(
        [is_reply == REPLY_UNKNOWN, is_reply == REPLY_TRUE, opened & (reports["first"] != 0)],
        [0, _REPLY, _NEW],
        _ESTABLISHED,
    )
    tcp = l4 == L4_TCP
    flow_class["flags"] = tcp * np.uint8(FLAG_TCP_FLAGS)
    told = np.where(reports["cause"] == CAUSE_SWEEP, ~_SYN_FIN_RST, np.uint8(0xFF))
    flow_class["tcp_flags"] = np.where(tcp, reports["tcp_flags"] & told, 0)
    icmp = (l4 == L4_ICMPV4) | (l4 == L4_ICMPV6)
    flow_class["l4_type"] = np.where(icmp, reports["icmp_type"], 0)
    flow_class["l4_code"] = np.where(icmp, reports["icmp_code"], 0)
    flow_class["interface"] = reports["ifindex"]
    _set_extensions(found, reports)
    found.time[:] = reports["last_ns"]
    found.packets[:] = packet_counts(reports["packets"])
    found.bytes[:] = reports["bytes"]
    return found


def _seen_first(
    reports: Columns, covered: frozenset[int], far_ends: frozenset[int]
) -> NDArray[np.bool_]:
    """Whether no covered interface had the packets before."""
    came_by = np.isin(reports["received_on"], np.fromiter(covered, np.uint32, len(covered)))
    crossed = np.isin(reports["ifindex"], np.fromiter(far_ends, np.uint32, len(far_ends)))
    first: NDArray[np.bool_] = ~np.where(reports["point"] == POINT_INGRESS, crossed, came_by)
    return first


def _is_reply(reports: Columns, l4: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """REPLY_* of each report."""
    source, destination = reports["source_port"], reports["destination_port"]
    served = _WITH_PORTS[l4]
    to_server = served & (destination < EPHEMERAL) & (source >= EPHEMERAL)
    to_client = served & (source < EPHEMERAL) & (destination >= EPHEMERAL)
    by_first = np.where(reports["first"] != 0, REPLY_FALSE, REPLY_TRUE)
    by_first = np.where((l4 == L4_UDP) | (l4 == L4_SCTP), by_first, REPLY_UNKNOWN)
    conditions = [
        reports["opener"] == OPENER_SOURCE,
        reports["opener"] == OPENER_DESTINATION,
        to_server,
        to_client,
    ]
    answers = [REPLY_FALSE, REPLY_TRUE, REPLY_FALSE, REPLY_TRUE]
    for which, kind, answer in _ECHO:
        conditions.append((l4 == which) & (reports["icmp_type"] == kind))
        answers.append(answer)
    return np.select(conditions, answers, by_first).astype(np.uint8)


def _set_extensions(found: ProbeFlows, reports: Columns) -> None:
    """What few packets have and the API has no field for."""
    odd = (reports["kind"] != 0) | (reports["vlan"] != 0) | (reports["tunnel"] != 0)
    for row in odd.nonzero()[0].tolist():
        report = reports[row]
        fields: dict[str, str | float] = {}
        if report["kind"] & KIND_FRAGMENT:
            fields["fragment"] = "later"
        if report["kind"] & KIND_MALFORMED:
            fields["malformed"] = "headers"
        if report["tunnel"]:
            fields["tunnel"] = _TUNNELS.get(int(report["tunnel"]), str(report["tunnel"]))
        if report["vlan"]:
            fields["vlan"] = float(report["vlan"])
        found.flows.extra[row] = {"extension": tuple(sorted(fields.items()))}
