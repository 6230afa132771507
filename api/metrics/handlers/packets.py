"""The handlers whose labels follow from a flow's class alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from api.metrics import label_values as say
from api.metrics.classes import ACK, FIN, RST, SYN, MetricClass
from api.metrics.family import Labels
from api.metrics.handlers.by_class import ClassHandler
from api.metrics.handlers.settings import Settings
from api.v1.flow import flow_pb2
from parsers.flow_batch import FLAG_TCP_FLAGS, L4_ICMPV4, L4_ICMPV6, L4_SCTP
from parsers.reason_names import ReasonNames

PASSED = (flow_pb2.FORWARDED, flow_pb2.REDIRECTED)
"""Verdicts of a packet that went on."""


def flow(settings: Settings) -> ClassHandler:
    """Every flow."""
    family = settings.counters(
        "hubble_flows_processed_total",
        "Total number of flows processed",
        ("protocol", "subtype", "type", "verdict"),
        kept=("protocol", "subtype", "type", "verdict"),
    )
    return ClassHandler(settings.classes, family, _flow_labels)


def drop(settings: Settings) -> ClassHandler:
    """Flows with the verdict DROPPED, whatever their type, by the kernel's own reason if any."""
    family = settings.counters(
        "hubble_drop_total", "Number of drops", ("protocol", "reason"), kept=("protocol", "reason")
    )
    return ClassHandler(settings.classes, family, partial(_drop_labels, settings.reasons))


def tcp(settings: Settings) -> ClassHandler:
    """FIN, SYN, SYN-ACK and RST of packets that passed; a packet may count twice."""
    family = settings.counters(
        "hubble_tcp_flags_total",
        "TCP flag occurrences",
        ("family", "flag"),
        kept=("family", "flag"),
    )
    return ClassHandler(settings.classes, family, _tcp_labels)


def icmp(settings: Settings) -> ClassHandler:
    """ICMP messages, whatever their verdict."""
    family = settings.counters(
        "hubble_icmp_total", "Number of ICMP messages", ("family", "type"), kept=("family",)
    )
    return ClassHandler(settings.classes, family, _icmp_labels)


def sctp(settings: Settings) -> ClassHandler:
    """First chunks of SCTP packets that passed; since Cilium 1.20."""
    family = settings.counters(
        "hubble_sctp_chunk_types_total",
        "SCTP chunk type occurrences",
        ("chunk_type", "family"),
        kept=("chunk_type", "family"),
    )
    return ClassHandler(settings.classes, family, _sctp_labels)


def _flow_labels(flow: MetricClass) -> Iterator[Labels]:
    kind = say.EVENT_TYPES.get(flow.event_type, "Unknown")
    subtype = ""
    if flow.event_type == say.ACCESS_LOG:
        subtype = say.L7_NAMES.get(flow.l7_record, "")
    elif flow.event_type == say.TRACE:
        subtype = say.at(say.OBSERVATION_POINTS, flow.sub_type)
    elif kind == "Unknown":
        subtype = str(flow.event_type)
    yield say.protocol(flow), subtype, kind, say.verdict(flow.verdict)


def _drop_labels(reasons: ReasonNames, flow: MetricClass) -> Iterator[Labels]:
    if flow.verdict == flow_pb2.DROPPED:
        yield say.protocol(flow), reasons[flow.own_reason] or say.drop_reason(flow.drop_reason)


def _tcp_labels(flow: MetricClass) -> Iterator[Labels]:
    if flow.verdict not in PASSED or not flow.ip_version or not flow.flags & FLAG_TCP_FLAGS:
        return
    family = say.at(say.FAMILIES, flow.ip_version)
    if flow.tcp_flags & FIN:
        yield family, "FIN"
    if flow.tcp_flags & SYN:
        yield family, "SYN-ACK" if flow.tcp_flags & ACK else "SYN"
    if flow.tcp_flags & RST:
        yield family, "RST"


def _icmp_labels(flow: MetricClass) -> Iterator[Labels]:
    if flow.l4 == L4_ICMPV4:
        yield "IPv4", say.icmp_type(say.ICMPV4_TYPES, flow.l4_type, flow.l4_code)
    elif flow.l4 == L4_ICMPV6:
        yield "IPv6", say.icmp_type(say.ICMPV6_TYPES, flow.l4_type, flow.l4_code)


def _sctp_labels(flow: MetricClass) -> Iterator[Labels]:
    if flow.verdict in PASSED and flow.ip_version and flow.l4 == L4_SCTP and flow.l4_type:
        yield say.sctp_chunk_type(flow.l4_type), say.at(say.FAMILIES, flow.ip_version)
