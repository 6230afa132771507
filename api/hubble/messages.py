"""Flows as ``flow.Flow`` messages: the plain path.

A message is put together from four parts, each a method that fills one partial ``Flow``:
the node, the conversation, the class, and what only this flow has. The parts touch no
field in common (but for ``l4``, which is one part by itself), so that a serialized flow
is the concatenation of its serialized parts; ``api.hubble.encode`` caches them.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import MessageToDict

from api.hubble.extension import extension_counts, extension_head
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.addresses import address_text
from parsers.details import Detail, PolicyMatch, Service, Tunnel
from parsers.entities import Entity
from parsers.flow_batch import (
    ABSENT_DESTINATION,
    ABSENT_SOURCE,
    FLAG_ENCRYPTED,
    FLAG_L7,
    FLAG_TCP_FLAGS,
    L4_ICMPV4,
    L4_ICMPV6,
    L4_IGMP,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L4_VRRP,
    ORIGIN_CILIUM,
    REPLY_TRUE,
    REPLY_UNKNOWN,
    FlowBatch,
    FlowTables,
)
from parsers.l7 import Dns, Http, Kafka, L7Record
from parsers.summary import TCP_FLAGS, packet_summary, socket_summary

_L3_L4, _L7, _SOCK = flow_pb2.L3_L4, flow_pb2.L7, flow_pb2.SOCK
_DROP, _CAPTURE, _TRACE, _SOCKET = 1, 3, 4, 7
_INGRESS = flow_pb2.INGRESS


class FlowMessages:
    """Makes messages of the rows of batches over ``tables``."""

    __slots__ = ("_node", "_tables")

    def __init__(self, tables: FlowTables, node: LocalNode) -> None:
        self._tables = tables
        self._node = node

    def flow(self, batch: FlowBatch, index: int) -> flow_pb2.Flow:
        """The message of flow ``index`` of the batch."""
        flow = flow_pb2.Flow()
        flow_class = self._tables.classes.rows[batch.flow_class[index]]
        detail = self._tables.details[int(batch.detail[index])]
        ports = int(batch.source_port[index]), int(batch.destination_port[index])
        self.put_node(flow)
        self.put_conversation(flow, int(batch.conversation[index]), flow_class, detail)
        self.put_class(flow, flow_class)
        self.put_l4(flow, flow_class, *ports, detail)
        self.put_detail(flow, flow_class, detail)
        if batch.packets is not None and batch.bytes is not None:
            row = slice(index, index + 1)
            counts = extension_counts(batch.packets[row], batch.bytes[row])
            counted = bool(batch.packets[index])
            self.put_extension(flow, flow_class, detail, counts[0] if counted else b"")
        seconds, nanos = divmod(int(batch.time[index]), 1_000_000_000)
        flow.time.seconds, flow.time.nanos = seconds, nanos
        flow.uuid = self._node.uuid(int(batch.sequence[index]))
        return flow

    def put_node(self, flow: flow_pb2.Flow) -> None:
        """What all flows of this agent share."""
        flow.node_name = self._node.name
        flow.node_labels.extend(self._node.labels)
        flow.emitter.name = self._node.emitter_name
        flow.emitter.version = self._node.emitter_version

    def put_conversation(
        self, flow: flow_pb2.Flow, row: int, flow_class: Any, detail: Detail
    ) -> None:
        """Addresses and both endpoints; of class and detail only what ``IP`` has of them."""
        conversations = self._tables.conversations
        key = conversations.rows[row]
        if key["has_ethernet"]:
            flow.ethernet.source = key["source_mac"].tobytes().hex(":")
            flow.ethernet.destination = key["destination_mac"].tobytes().hex(":")
        version = int(key["ip_version"])
        if version:
            flow.IP.source = detail.source_address or _text(key, "source_ip", ABSENT_SOURCE)
            flow.IP.destination = detail.destination_address or _text(
                key, "destination_ip", ABSENT_DESTINATION
            )
            flow.IP.ipVersion = version  # type: ignore[assignment]
            flow.IP.encrypted = bool(flow_class["flags"] & FLAG_ENCRYPTED)
            flow.IP.source_xlated = detail.source_xlated
        elif key["has_ethernet"]:
            flow.Summary = "Ethernet"
        source = int(conversations.source_entity[row])
        destination = int(conversations.destination_entity[row])
        if source:
            put_endpoint(flow.source, conversations.entities[source])
        if destination:
            put_endpoint(flow.destination, conversations.entities[destination])
        source_names, destination_names = conversations.name_pairs[int(conversations.names[row])]
        flow.source_names.extend(source_names)
        flow.destination_names.extend(destination_names)

    def put_class(self, flow: flow_pb2.Flow, flow_class: Any) -> None:
        """Everything of the class but its part of ``l4``, ``l7`` and ``IP``."""
        event_type, sub_type = int(flow_class["event_type"]), int(flow_class["sub_type"])
        flow.event_type.type, flow.event_type.sub_type = event_type, sub_type
        flow.Type = int(flow_class["flow_type"])  # type: ignore[assignment]
        flow.verdict = int(flow_class["verdict"])  # type: ignore[assignment]
        drop_reason = int(flow_class["drop_reason"])
        flow.drop_reason = drop_reason
        flow.drop_reason_desc = _int32(drop_reason)  # type: ignore[assignment]
        flow.traffic_direction = int(flow_class["direction"])  # type: ignore[assignment]
        if flow_class["is_reply"] != REPLY_UNKNOWN:
            flow.reply = flow.is_reply.value = bool(flow_class["is_reply"] == REPLY_TRUE)
        if event_type == _TRACE:
            # On the wire 0 is to-endpoint; in the API 0 is unknown.
            flow.trace_observation_point = sub_type or flow_pb2.TO_ENDPOINT  # type: ignore[assignment]
            flow.trace_reason = int(flow_class["trace_reason"])  # type: ignore[assignment]
        elif event_type == _CAPTURE:
            flow.debug_capture_point = sub_type  # type: ignore[assignment]
        elif event_type == _SOCKET:
            flow.sock_xlate_point = sub_type  # type: ignore[assignment]
        flow.policy_match_type = int(flow_class["policy_match_type"])
        flow.auth_type = int(flow_class["auth_type"])  # type: ignore[assignment]
        flow.proxy_port = int(flow_class["proxy_port"])
        index = int(flow_class["interface"])
        if index:
            flow.interface.index = index
            flow.interface.name = self._node.interface_name(index)
        summary = _summary(flow_class)
        if flow_class["own_reason"]:
            summary = f"{summary}; {self._tables.reasons[flow_class['own_reason']]}"
        if summary:
            flow.Summary = summary

    def put_l4(
        self,
        flow: flow_pb2.Flow,
        flow_class: Any,
        source_port: int,
        destination_port: int,
        detail: Detail,
    ) -> None:
        """The ``l4`` message, from ports, class and (VRRP, IGMP) detail."""
        l4, l4_type = int(flow_class["l4"]), int(flow_class["l4_type"])
        if l4 == L4_TCP:
            tcp = flow.l4.TCP
            tcp.source_port, tcp.destination_port = source_port, destination_port
            if flow_class["flags"] & FLAG_TCP_FLAGS:
                tcp.flags.SetInParent()
                for name, bit in TCP_FLAGS.items():
                    if flow_class["tcp_flags"] & bit:
                        setattr(tcp.flags, name, True)
        elif l4 == L4_UDP:
            udp = flow.l4.UDP
            udp.source_port, udp.destination_port = source_port, destination_port
        elif l4 == L4_SCTP:
            sctp = flow.l4.SCTP
            sctp.source_port, sctp.destination_port = source_port, destination_port
            sctp.chunk_type = l4_type  # type: ignore[assignment]
        elif l4 == L4_ICMPV4:
            flow.l4.ICMPv4.type, flow.l4.ICMPv4.code = l4_type, int(flow_class["l4_code"])
        elif l4 == L4_ICMPV6:
            flow.l4.ICMPv6.type, flow.l4.ICMPv6.code = l4_type, int(flow_class["l4_code"])
        elif l4 == L4_VRRP:
            vrrp = flow.l4.VRRP
            vrrp.type, vrrp.vrid, vrrp.priority = l4_type, detail.vrrp_id, detail.vrrp_priority
        elif l4 == L4_IGMP:
            flow.l4.IGMP.type, flow.l4.IGMP.group_address = l4_type, detail.igmp_group

    def put_detail(self, flow: flow_pb2.Flow, flow_class: Any, detail: Detail) -> None:
        """What only few flows have."""
        if flow_class["flags"] & FLAG_L7:
            flow.l7.type = int(flow_class["l7_type"])  # type: ignore[assignment]
        if detail.l7 is not None:
            _put_l7(flow, detail.l7)
        if detail.drop_site is not None:
            flow.file.name, flow.file.line = detail.drop_site.file, detail.drop_site.line
        if detail.policy is not None:
            _put_policy(flow, detail.policy, ingress=flow_class["direction"] == _INGRESS)
        if detail.source_service is not None:
            _put_service(flow.source_service, detail.source_service)
        if detail.destination_service is not None:
            _put_service(flow.destination_service, detail.destination_service)
        if detail.tunnel is not None:
            _put_tunnel(flow.tunnel, detail.tunnel)
        if detail.ip_trace_id:
            flow.ip_trace_id.trace_id = detail.ip_trace_id
            flow.ip_trace_id.ip_option_type = self._node.ip_option_type
        flow.socket_cookie = detail.socket_cookie
        flow.cgroup_id = detail.cgroup_id

    def put_extension(
        self, flow: flow_pb2.Flow, flow_class: Any, detail: Detail, counts: bytes
    ) -> None:
        """What own probes tell beyond the API; nothing for Cilium's flows."""
        if flow_class["origin"] != ORIGIN_CILIUM:
            reason = self._tables.reasons[flow_class["own_reason"]]
            flow.MergeFromString(extension_head(detail, reason, counted=bool(counts)) + counts)


def to_json(message: Any) -> str:
    """One line of protojson with proto field names, as Hubble's exporter and CLI write it."""
    fields = MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _summary(flow_class: Any) -> str:
    if flow_class["flow_type"] == _SOCK:
        return socket_summary(int(flow_class["l4"]))
    if flow_class["flow_type"] != _L3_L4:
        return ""  # an L7 record brings its own
    return packet_summary(
        int(flow_class["l4"]),
        int(flow_class["l4_type"]),
        int(flow_class["l4_code"]),
        int(flow_class["tcp_flags"]),
        int(flow_class["ip_version"]),
    )


def _text(key: Any, side: str, absent: int) -> str:
    return "" if key["absent"] & absent else address_text(key[side].tobytes())


def _int32(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def put_endpoint(endpoint: flow_pb2.Endpoint, entity: Entity) -> None:
    """One side of a flow; the message is present even when nothing is known."""
    endpoint.SetInParent()
    endpoint.ID = entity.endpoint_id
    endpoint.identity = entity.identity
    endpoint.namespace = entity.namespace
    endpoint.pod_name = entity.pod_name
    endpoint.labels.extend(entity.labels)
    endpoint.cluster_name = entity.cluster_name
    for workload in entity.workloads:
        endpoint.workloads.add(name=workload.name, kind=workload.kind)


def _put_service(message: flow_pb2.Service, service: Service) -> None:
    message.SetInParent()
    message.name, message.namespace = service.name, service.namespace


def _put_policy(flow: flow_pb2.Flow, match: PolicyMatch, *, ingress: bool) -> None:
    if ingress:
        rules = flow.ingress_denied_by if match.denied else flow.ingress_allowed_by
    else:
        rules = flow.egress_denied_by if match.denied else flow.egress_allowed_by
    for policy in match.policies:
        rules.add(
            name=policy.name,
            namespace=policy.namespace,
            labels=policy.labels,
            revision=policy.revision,
            kind=policy.kind,
        )
    flow.policy_log.extend(match.log)


def _put_tunnel(message: flow_pb2.Tunnel, tunnel: Tunnel) -> None:
    message.protocol = tunnel.protocol  # type: ignore[assignment]
    message.vni = tunnel.vni
    message.IP.source, message.IP.destination = tunnel.source_ip, tunnel.destination_ip
    message.IP.ipVersion = tunnel.ip_version  # type: ignore[assignment]
    if tunnel.l4 == L4_UDP:
        message.l4.UDP.source_port = tunnel.source_port
        message.l4.UDP.destination_port = tunnel.destination_port


def _put_l7(flow: flow_pb2.Flow, l7: L7Record) -> None:
    content = l7.content()
    flow.l7.type = l7.type  # type: ignore[assignment]
    flow.l7.latency_ns = l7.latency_ns
    if l7.trace_id:
        flow.trace_context.parent.trace_id = l7.trace_id
    flow.Summary = content.summary
    match content.record:
        case Http() as http:
            record = flow.l7.http
            record.SetInParent()
            record.code, record.method = http.code, http.method
            record.url, record.protocol = http.url, http.protocol
            for key, value in http.headers:
                record.headers.add(key=key, value=value)
        case Dns() as dns:
            flow.l7.dns.CopyFrom(
                flow_pb2.DNS(
                    query=dns.query,
                    ips=dns.ips,
                    ttl=dns.ttl,
                    cnames=dns.cnames,
                    observation_source=dns.observation_source,
                    rcode=dns.rcode,
                    qtypes=dns.qtypes,
                    rrtypes=dns.rrtypes,
                )
            )
        case Kafka() as kafka:
            flow.l7.kafka.CopyFrom(
                flow_pb2.Kafka(
                    error_code=kafka.error_code,
                    api_version=kafka.api_version,
                    api_key=kafka.api_key,
                    correlation_id=kafka.correlation_id,
                    topic=kafka.topic,
                )
            )
