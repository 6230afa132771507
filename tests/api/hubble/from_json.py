"""Batches made backwards, from flows in Hubble's JSON: input for tests of what comes after.

Written apart from the product: every field of a flow's JSON is taken out of it and put
where the schema of ``parsers.flow_batch`` says; ``leftovers`` holds what found no place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import numpy as np

from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.conversations import Conversations
from parsers.details import Detail, DetailTable, DropSite, Policy, PolicyMatch, Service, Tunnel
from parsers.entities import Entities, Entity, Workload
from parsers.flow_batch import CONVERSATION, FLOW_CLASS, FlowBatch, FlowTables
from parsers.intern import InternTable
from parsers.l7 import Dns, DnsLabels, Http, HttpLabels, Kafka, KafkaLabels, L7Content
from tests.fixtures import expected

L4 = {"TCP": 1, "UDP": 2, "ICMPv4": 3, "ICMPv6": 4, "SCTP": 5, "VRRP": 6, "IGMP": 7}
FLAGS = {
    "FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128, "NS": 256,
}  # fmt: skip
UUID_PREFIX = "00000000-0000-4000-8000-"


@dataclass(frozen=True, slots=True)
class Record:
    """An L7 record that is already decoded."""

    type: int
    latency_ns: int
    trace_id: str
    decoded: L7Content
    labels: HttpLabels | DnsLabels | KafkaLabels | None = None

    @property
    def nbytes(self) -> int:
        return 500

    def content(self) -> L7Content:
        return self.decoded


def flows_of(release: str, mix: str) -> list[dict[str, Any]]:
    """The recorded flows in Hubble's JSON."""
    return [line["event"] for line in expected(release, mix) if line["kind"] == "flow"]


def new_tables() -> FlowTables:
    return FlowTables(InternTable(FLOW_CLASS), Conversations(Entities()), DetailTable())


def enum(kind: Any, value: Any) -> int:
    """The number of an enumeration that JSON shows as a name, or as a number without one."""
    return value if isinstance(value, int) else int(kind.Value(value))


def node_of(flow: dict[str, Any], interfaces: dict[int, str]) -> LocalNode:
    """The speaker of a flow."""
    return LocalNode(
        name=flow["node_name"],
        labels=tuple(flow.get("node_labels", ())),
        emitter_name=flow.get("emitter", {}).get("name", ""),
        emitter_version=flow.get("emitter", {}).get("version", ""),
        uuid_prefix=UUID_PREFIX,
        interface_name=lambda index: interfaces.get(index, ""),
    )


def interfaces_of(flows: list[dict[str, Any]]) -> dict[int, str]:
    """Names by ifindex, as the flows have them."""
    seen = [flow["interface"] for flow in flows if "interface" in flow]
    return {i["index"]: i["name"] for i in seen if "name" in i}


def batch_of(flows: list[dict[str, Any]], tables: FlowTables) -> FlowBatch:
    """One row a flow. Raises when a flow has something the schema has no place for."""
    rows = [_row(dict(flow), tables) for flow in flows]
    columns = list(zip(*rows, strict=True)) or [()] * 7
    types = (np.int64, np.uint64, np.uint32, np.uint32, np.uint16, np.uint16, np.uint32)
    return FlowBatch(tables, *(np.array(c, dtype=t) for c, t in zip(columns, types, strict=True)))


def _row(flow: dict[str, Any], tables: FlowTables) -> tuple[int, ...]:
    for shared in ("node_name", "node_labels", "emitter"):
        flow.pop(shared, None)
    time = _nanoseconds(flow.pop("time", "1970-01-01T00:00:00Z"))
    sequence = int(flow.pop("uuid", UUID_PREFIX + "0").removeprefix(UUID_PREFIX), 16)
    cls = np.zeros(1, dtype=FLOW_CLASS)
    key = np.zeros(1, dtype=CONVERSATION)
    detail: dict[str, Any] = {}
    is_l7 = flow.get("Type") == "L7"
    ip = flow.pop("IP", None)
    if ip is not None:
        _put_ip(ip, cls, key, detail)
    summary = flow.pop("Summary", "")
    source_port, destination_port = _put_l4(flow.pop("l4", {}), cls, detail)
    _put_class(flow, cls)
    if "l7" in flow:
        _put_l7(flow.pop("l7"), flow.pop("trace_context", {}), summary, cls, detail)
    elif is_l7:
        raise AssertionError("an L7 flow without a record")
    _put_detail(flow, detail)
    conversation = _conversation(flow, key, tables)
    assert flow == {}, f"no place for {flow}"
    row, _ = tables.classes.lookup(cls)
    made = Detail(**detail)
    return (
        time, sequence, int(row[0]), conversation, source_port, destination_port,
        tables.details.add(made) if made.l7 else tables.details.intern(made),
    )  # fmt: skip


def _nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)


def _put_ip(ip: dict[str, Any], cls: Any, key: Any, detail: dict[str, Any]) -> None:
    version = enum(flow_pb2.IPVersion, ip["ipVersion"])
    cls["ip_version"] = key["ip_version"] = version
    cls["flags"] |= 1 if ip.get("encrypted") else 0
    detail["source_xlated"] = ip.get("source_xlated", "")
    for side, absent in (("source", 1), ("destination", 2)):
        if side not in ip:
            key["absent"] |= absent
        elif ip[side] == "bogus":  # an L7 record may name something else than an address
            key["absent"] |= absent
            detail[f"{side}_address"] = "bogus"
        else:
            address = ip_address(ip[side])
            mapped = address.version == 4
            packed = bytes(10) + b"\xff\xff" + address.packed if mapped else address.packed
            key[f"{side}_ip"] = np.frombuffer(packed, dtype=np.uint8)


def _put_l4(l4: dict[str, Any], cls: Any, detail: dict[str, Any]) -> tuple[int, int]:
    for name, fields in l4.items():
        cls["l4"] = L4[name]
        if "flags" in fields:
            cls["flags"] |= 2
            cls["tcp_flags"] = sum(FLAGS[f] for f in fields["flags"])
        if "chunk_type" in fields:
            cls["l4_type"] = enum(flow_pb2.SCTPChunkType, fields["chunk_type"])
        else:
            cls["l4_type"] = fields.get("type", 0)
        cls["l4_code"] = fields.get("code", 0)
        detail["vrrp_id"] = fields.get("vrid", 0)
        detail["vrrp_priority"] = fields.get("priority", 0)
        detail["igmp_group"] = fields.get("group_address", "")
        return fields.get("source_port", 0), fields.get("destination_port", 0)
    return 0, 0


def _put_class(flow: dict[str, Any], cls: Any) -> None:
    event = flow.pop("event_type")
    cls["event_type"], cls["sub_type"] = event["type"], event.get("sub_type", 0)
    cls["verdict"] = enum(flow_pb2.Verdict, flow.pop("verdict", 0))
    cls["drop_reason"] = flow.pop("drop_reason", 0)
    flow.pop("drop_reason_desc", None)
    cls["direction"] = enum(flow_pb2.TrafficDirection, flow.pop("traffic_direction", 0))
    cls["is_reply"] = {None: 0, False: 1, True: 2}[flow.pop("is_reply", None)]
    flow.pop("reply", None)
    cls["flow_type"] = enum(flow_pb2.FlowType, flow.pop("Type", 0))
    cls["trace_reason"] = enum(flow_pb2.TraceReason, flow.pop("trace_reason", 0))
    for point in ("trace_observation_point", "debug_capture_point", "sock_xlate_point"):
        flow.pop(point, None)
    cls["policy_match_type"] = flow.pop("policy_match_type", 0)
    cls["auth_type"] = enum(flow_pb2.AuthType, flow.pop("auth_type", 0))
    cls["proxy_port"] = flow.pop("proxy_port", 0)
    cls["interface"] = flow.pop("interface", {}).get("index", 0)
    cls["origin"] = 1


def _put_l7(
    l7: dict[str, Any], trace: dict[str, Any], summary: str, cls: Any, detail: dict[str, Any]
) -> None:
    cls["flags"] |= 4
    cls["l7_type"] = enum(flow_pb2.L7FlowType, l7.get("type", 0))
    record: Http | Dns | Kafka | None = None
    cls["l7_record"] = 4
    if "http" in l7:
        cls["l7_record"] = 2
        http = l7["http"]
        headers = tuple((h.get("key", ""), h.get("value", "")) for h in http.get("headers", ()))
        record = Http(
            http.get("code", 0), http.get("method", ""), http.get("url", ""),
            http.get("protocol", ""), headers,
        )  # fmt: skip
    elif "dns" in l7:
        cls["l7_record"] = 1
        dns = l7["dns"]
        record = Dns(
            dns.get("query", ""), tuple(dns.get("ips", ())), dns.get("ttl", 0),
            tuple(dns.get("cnames", ())), dns.get("observation_source", ""), dns.get("rcode", 0),
            tuple(dns.get("qtypes", ())), tuple(dns.get("rrtypes", ())),
        )  # fmt: skip
    elif "kafka" in l7:
        cls["l7_record"] = 3
        kafka = l7["kafka"]
        record = Kafka(
            kafka.get("error_code", 0), kafka.get("api_version", 0), kafka.get("api_key", ""),
            kafka.get("correlation_id", 0), kafka.get("topic", ""),
        )  # fmt: skip
    trace_id = trace.get("parent", {}).get("trace_id", "")
    latency = int(l7.get("latency_ns", 0))
    content = L7Content(record, summary)
    detail["l7"] = Record(int(cls["l7_type"][0]), latency, trace_id, content, _labels(record))


def _labels(record: Http | Dns | Kafka | None) -> HttpLabels | DnsLabels | KafkaLabels | None:
    if isinstance(record, Http):
        return HttpLabels(record.method, record.protocol, record.code)
    if isinstance(record, Dns):
        qtypes = ",".join(record.qtypes)
        return DnsLabels(qtypes, record.rcode, len(record.ips), record.rrtypes, record.query)
    if isinstance(record, Kafka):
        return KafkaLabels(record.topic, record.api_key, record.error_code)
    return None


def _put_detail(flow: dict[str, Any], detail: dict[str, Any]) -> None:
    if "file" in flow:
        site = flow.pop("file")
        detail["drop_site"] = DropSite(site["name"], site.get("line", 0))
    for side in ("source_service", "destination_service"):
        if side in flow:
            service = flow.pop(side)
            detail[side] = Service(service.get("name", ""), service.get("namespace", ""))
    log = tuple(flow.pop("policy_log", ()))
    for direction in ("ingress", "egress"):
        for outcome in ("allowed", "denied"):
            rules = flow.pop(f"{direction}_{outcome}_by", None)
            if rules:
                detail["policy"] = PolicyMatch(
                    tuple(
                        Policy(
                            r.get("name", ""), r.get("namespace", ""), tuple(r.get("labels", ())),
                            int(r.get("revision", 0)), r.get("kind", ""),
                        )
                        for r in rules
                    ),
                    denied=outcome == "denied",
                    log=log,
                )  # fmt: skip
    if "tunnel" in flow:
        tunnel = flow.pop("tunnel")
        ports = tunnel["l4"]["UDP"]
        detail["tunnel"] = Tunnel(
            enum(flow_pb2.Tunnel.Protocol, tunnel["protocol"]),
            tunnel["IP"]["source"], tunnel["IP"]["destination"],
            enum(flow_pb2.IPVersion, tunnel["IP"]["ipVersion"]), 2,
            ports.get("source_port", 0), ports.get("destination_port", 0), tunnel.get("vni", 0),
        )  # fmt: skip
    if "ip_trace_id" in flow:
        detail["ip_trace_id"] = int(flow.pop("ip_trace_id")["trace_id"])
    detail["socket_cookie"] = int(flow.pop("socket_cookie", 0))
    detail["cgroup_id"] = int(flow.pop("cgroup_id", 0))


def _conversation(flow: dict[str, Any], key: Any, tables: FlowTables) -> int:
    conversations = tables.conversations
    if "ethernet" in flow:
        ethernet = flow.pop("ethernet")
        key["has_ethernet"] = 1
        for side in ("source", "destination"):
            mac = bytes.fromhex(ethernet[side].replace(":", ""))
            key[f"{side}_mac"] = np.frombuffer(mac, dtype=np.uint8)
    rows: dict[str, int] = {}
    for side in ("source", "destination"):
        rows[side] = _entity(flow.pop(side, None), conversations.entities)
        key[f"{side}_entity"] = rows[side]
    names = tuple(flow.pop("source_names", ())), tuple(flow.pop("destination_names", ()))
    pair = conversations.name_pairs.intern(names) if any(names) else 0
    key["absent"] |= pair << 2  # so that the same addresses with other names are another row
    found, _ = conversations._keys.lookup(key)
    row = int(found[0])
    conversations._grow()
    conversations.source_entity[row] = rows["source"]
    conversations.destination_entity[row] = rows["destination"]
    conversations.names[row] = pair
    conversations._first[row] = row
    conversations._current[row] = row
    return row


def _entity(endpoint: dict[str, Any] | None, entities: Entities) -> int:
    if endpoint is None:
        return 0
    workloads = tuple(Workload(w["name"], w["kind"]) for w in endpoint.get("workloads", ()))
    return entities.intern(
        Entity(
            endpoint.get("ID", 0), endpoint.get("identity", 0), endpoint.get("namespace", ""),
            endpoint.get("pod_name", ""), tuple(endpoint.get("labels", ())), workloads,
            endpoint.get("cluster_name", ""),
        )
    )  # fmt: skip
