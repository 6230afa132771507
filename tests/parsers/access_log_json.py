"""What a decoded access log says, in the shape of a flow's JSON."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from parsers.access_log import AccessLog
from parsers.access_log_meaning import AccessLogSide
from parsers.addresses import address_text
from parsers.l7 import Http

Event = dict[str, Any]

TYPES = ("UNKNOWN_L7_TYPE", "REQUEST", "RESPONSE", "SAMPLE")
VERDICTS = ("VERDICT_UNKNOWN", "FORWARDED", "DROPPED", "ERROR", "AUDIT", "REDIRECTED")
DIRECTIONS = ("TRAFFIC_DIRECTION_UNKNOWN", "INGRESS", "EGRESS")
PROTOCOLS = ("", "TCP", "UDP", "", "", "SCTP")
VERSIONS = ("IP_NOT_USED", "IPv4", "IPv6")
OF_THE_RECORD = (
    "verdict", "IP", "l4", "l7", "is_reply", "traffic_direction", "trace_context", "Summary",
)  # fmt: skip
OF_AN_ENDPOINT = ("ID", "identity", "cluster_name", "labels")


def shown(log: AccessLog) -> Event:
    """Our record as JSON."""
    content = log.l7.content()
    l7: Event = {"type": TYPES[log.kind.type], "latency_ns": str(log.l7.latency_ns)}
    record = content.record
    if record is not None:
        values = {f.name: getattr(record, f.name) for f in fields(record)}
        if isinstance(record, Http):
            values["headers"] = [_set({"key": k, "value": v}) for k, v in record.headers]
        l7[type(record).__name__.lower()] = _set(values)
    ports = _set({"source_port": log.source_port, "destination_port": log.destination_port})
    trace = {"parent": {"trace_id": log.l7.trace_id}} if log.l7.trace_id else None
    addresses = {"source": _address(log.source), "destination": _address(log.destination)}
    return {
        "IP": _set(addresses | {"ipVersion": VERSIONS[log.kind.ip_version]}),
        "source": _endpoint(log.source),
        "destination": _endpoint(log.destination),
        "l7": {name: value for name, value in l7.items() if value not in ("0", TYPES[0])},
        "is_reply": log.kind.is_reply,
    } | _set(
        {
            "verdict": VERDICTS[log.kind.verdict] if log.kind.verdict else "",
            "l4": {PROTOCOLS[log.kind.l4]: ports} if log.kind.l4 else None,
            "traffic_direction": DIRECTIONS[log.kind.direction] if log.kind.direction else "",
            "trace_context": trace,
            "Summary": content.summary,
        }
    )


def of_the_record(flow: Event) -> Event:
    """The part of Hubble's flow that comes from the record itself."""
    part = {name: flow[name] for name in OF_THE_RECORD if name in flow}
    for side in ("source", "destination"):
        endpoint = flow.get(side, {})
        part[side] = {name: endpoint[name] for name in OF_AN_ENDPOINT if name in endpoint}
    return part


def _set(values: Event) -> Event:
    lists = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    return {name: value for name, value in lists.items() if value}


def _address(side: AccessLogSide) -> str:
    return side.address_text or (address_text(side.address) if side.address else "")


def _endpoint(side: AccessLogSide) -> Event:
    return _set(
        {
            "ID": side.endpoint_id,
            "identity": side.identity,
            "cluster_name": side.cluster_name,
            "labels": side.labels,
        }
    )
