"""Batches made of the flows that Hubble's own parser printed, field by field.

So that metrics are judged by themselves: what goes in is Hubble's, and what must come
out is what Hubble's own handlers counted of the same flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from api.v1.flow import flow_pb2
from parsers.details import Detail, DetailTable
from parsers.entities import Conversations, Entities, Entity
from parsers.flow_batch import (
    CONVERSATION,
    FLAG_L7,
    FLAG_TCP_FLAGS,
    FLOW_CLASS,
    FlowBatch,
    FlowTables,
)
from parsers.intern import InternTable
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels, L7Content
from tests.fixtures import expected

L4 = ("", "TCP", "UDP", "ICMPv4", "ICMPv6", "SCTP", "VRRP", "IGMP")
L7 = ("", "dns", "http", "kafka")
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")


@dataclass
class Record:
    """An ``L7Record`` of which nobody reads the content."""

    type: int
    latency_ns: int
    labels: HttpLabels | DnsLabels | KafkaLabels | None
    trace_id: str = ""

    @property
    def nbytes(self) -> int:
        return 500

    def content(self) -> L7Content:
        return L7Content(None, "")


def new_tables() -> FlowTables:
    return FlowTables(InternTable(FLOW_CLASS), Conversations(Entities()), DetailTable())


@cache
def flows(release: str, mix: str) -> list[dict[str, Any]]:
    return [line["event"] for line in expected(release, mix) if line["kind"] == "flow"]


def batches(
    tables: FlowTables, events: list[dict[str, Any]], size: int = 1000
) -> Iterator[FlowBatch]:
    for start in range(0, len(events), size):
        yield batch(tables, events[start : start + size])


def batch(tables: FlowTables, events: list[dict[str, Any]]) -> FlowBatch:
    count = len(events)
    classes = np.zeros(count, dtype=FLOW_CLASS)
    conversations = np.zeros(count, dtype=CONVERSATION)
    ports = np.zeros(count, dtype=np.uint16)
    details = np.zeros(count, dtype=np.uint32)
    ends = []
    for i, event in enumerate(events):
        _fill_class(classes[i], event)
        (layer,) = (event.get("l4") or {"": {}}).values()
        ports[i] = layer.get("destination_port", 0)
        if "l7" in event:
            details[i] = tables.details.add(Detail(l7=_record(event)))
        ends.append([_entity(tables, event.get(side)) for side in ("source", "destination")])
        conversations[i]["source_identity"] = 1 + ends[i][0]
        conversations[i]["destination_identity"] = 1 + ends[i][1]
    known = tables.conversations
    rows, _ = known._keys.lookup(conversations)
    for name, side in (("source_entity", 0), ("destination_entity", 1)):
        column = np.resize(getattr(known, name), known.capacity)
        column[rows] = [pair[side] for pair in ends]
        setattr(known, name, column)
    return FlowBatch(
        tables=tables,
        time=np.arange(count, dtype=np.int64),
        sequence=np.arange(count, dtype=np.uint64),
        flow_class=tables.classes.lookup(classes)[0],
        conversation=rows,
        source_port=np.zeros(count, dtype=np.uint16),
        destination_port=ports,
        detail=details,
    )


def _fill_class(row: Any, event: dict[str, Any]) -> None:
    kind = event.get("event_type", {})
    row["event_type"], row["sub_type"] = kind["type"], kind.get("sub_type", 0)
    row["verdict"] = flow_pb2.Verdict.Value(event.get("verdict", "VERDICT_UNKNOWN"))
    row["direction"] = flow_pb2.TrafficDirection.Value(
        event.get("traffic_direction", "TRAFFIC_DIRECTION_UNKNOWN")
    )
    # protojson prints a wrapped bool as itself and leaves out an unset one.
    row["is_reply"] = {None: 0, False: 1, True: 2}[event.get("is_reply")]
    row["ip_version"] = flow_pb2.IPVersion.Value(
        event.get("IP", {}).get("ipVersion", "IP_NOT_USED")
    )
    row["policy_match_type"] = event.get("policy_match_type", 0)
    row["drop_reason"] = event.get("drop_reason", 0)
    row["interface"] = event.get("interface", {}).get("index", 0)
    row["proxy_port"] = event.get("proxy_port", 0)
    for name, layer in event.get("l4", {}).items():
        row["l4"] = L4.index(name)
        row["l4_type"], row["l4_code"] = layer.get("type", 0), layer.get("code", 0)
        if name == "SCTP":
            row["l4_type"] = flow_pb2.SCTPChunkType.Value(layer.get("chunk_type", "UNSUPPORTED"))
        if "flags" in layer:
            row["flags"] |= FLAG_TCP_FLAGS
            row["tcp_flags"] = sum(1 << TCP_FLAGS.index(flag) for flag in layer["flags"])
    if "l7" in event:
        row["flags"] |= FLAG_L7
        row["l7_type"] = flow_pb2.L7FlowType.Value(event["l7"].get("type", "UNKNOWN_L7_TYPE"))
        names = [name for name in L7 if name in event["l7"]]
        row["l7_record"] = L7.index(names[0]) if names else 4


def _record(event: dict[str, Any]) -> Record:
    l7 = event["l7"]
    labels: HttpLabels | DnsLabels | KafkaLabels | None = None
    if "http" in l7:
        http = l7["http"]
        labels = HttpLabels(http.get("method", ""), http.get("protocol", ""), http.get("code", 0))
    elif "dns" in l7:
        dns = l7["dns"]
        labels = DnsLabels(
            ",".join(dns.get("qtypes", ())),
            dns.get("rcode", 0),
            len(dns.get("ips", ())),
            tuple(dns.get("rrtypes", ())),
        )
    elif "kafka" in l7:
        kafka = l7["kafka"]
        labels = KafkaLabels(
            kafka.get("topic", ""), kafka.get("api_key", ""), kafka.get("error_code", 0)
        )
    kind = flow_pb2.L7FlowType.Value(l7.get("type", "UNKNOWN_L7_TYPE"))
    return Record(kind, int(l7.get("latency_ns", 0)), labels)


def _entity(tables: FlowTables, endpoint: dict[str, Any] | None) -> int:
    if endpoint is None:
        return 0
    return tables.conversations.entities.intern(
        Entity(
            endpoint_id=endpoint.get("ID", 0),
            identity=endpoint.get("identity", 0),
            namespace=endpoint.get("namespace", ""),
            pod_name=endpoint.get("pod_name", ""),
            labels=tuple(endpoint.get("labels", ())),
        )
    )
