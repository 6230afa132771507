"""Reports of the traffic probe as the flows that a client is shown."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers import probe_records as records
from parsers.details import Service
from parsers.directory import Directory, LocalEndpoint
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, ParsedBatch, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_drops import DROP_RECORD
from parsers.probe_pipeline import ProbePipeline
from parsers.probe_records import FLOW_REPORT
from parsers.probe_tcp import TCP_RECORD
from parsers.windows import Columns

CLIENT, SERVER, WORLD = "10.0.0.1", "10.0.0.2", "203.0.113.9"
VETH, OTHER_VETH, UPLINK = 7, 8, 2
TCP, UDP, ICMP = 6, 17, 1
SYN, ACK = 2, 16
SECOND = 10**9


def sixteen(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def report(source: str, destination: str, **fields: Any) -> Columns:
    """One TCP report of a sweep at the client's veth, with whatever else is said."""
    row = np.zeros(1, dtype=records.FLOW_REPORT)
    row["source"], row["destination"] = sixteen(source), sixteen(destination)
    row["family"] = ip_address(source).version
    row["protocol"], row["ifindex"], row["point"] = TCP, VETH, records.POINT_INGRESS
    row["packets"] = row["skbs"] = 1
    row["last_ns"] = SECOND
    for name, value in fields.items():
        row[name] = value
    return row


@dataclass
class Parser:
    """A pipeline for probes of a node with one pod."""

    directory: Directory
    ledger: Ledger

    def __post_init__(self) -> None:
        tables = new_tables()
        monitor = MonitorPipeline(tables, self.directory, self.ledger)
        self.pipeline = ProbePipeline(monitor.assembler, monitor.numbers, self.ledger)
        self.messages = FlowMessages(tables, LocalNode("node"))

    def parse(self, *reports: Columns, boot_offset: int = 0) -> ParsedBatch:
        return self.pipeline.parse(
            ProbeBatch(
                boot_offset,
                covered=frozenset({VETH, OTHER_VETH, UPLINK}),
                pods=frozenset({VETH, OTHER_VETH}),
                traffic=np.concatenate(reports),
            )
        )

    def flows(self, *reports: Columns) -> list[flow_pb2.Flow]:
        batch = self.parse(*reports).flows
        return [self.messages.flow(batch, row) for row in range(len(batch))]


@pytest.fixture
def parser() -> Parser:
    directory = Directory()
    directory.set_endpoint(LocalEndpoint(3, 1000, "shop", "cart"), (sixteen(CLIENT),))
    return Parser(directory, Ledger())


def test_a_syn_is_a_new_connection_that_leaves_the_pod(parser: Parser) -> None:
    (flow,) = parser.flows(
        report(
            CLIENT, WORLD, source_port=40000, destination_port=443, tcp_flags=SYN, first=1,
            opener=records.OPENER_SOURCE, cause=records.CAUSE_FIRST,
        )
    )  # fmt: skip
    assert (flow.IP.source, flow.IP.destination) == (CLIENT, WORLD)
    assert (flow.l4.TCP.source_port, flow.l4.TCP.destination_port) == (40000, 443)
    assert flow.l4.TCP.flags == flow_pb2.TCPFlags(SYN=True)
    assert flow.verdict == flow_pb2.FORWARDED
    assert flow.Type == flow_pb2.L3_L4
    assert flow.source.pod_name == "cart"
    assert flow.traffic_direction == flow_pb2.EGRESS
    assert flow.trace_observation_point == flow_pb2.FROM_ENDPOINT
    assert flow.trace_reason == flow_pb2.NEW
    assert flow.HasField("is_reply")
    assert not flow.is_reply.value
    assert flow.interface.index == VETH


@pytest.mark.parametrize(
    ("point", "interface", "observed", "request_direction"),
    [
        (records.POINT_INGRESS, VETH, flow_pb2.FROM_ENDPOINT, flow_pb2.EGRESS),
        (records.POINT_EGRESS, VETH, flow_pb2.TO_ENDPOINT, flow_pb2.INGRESS),
        (records.POINT_INGRESS, UPLINK, flow_pb2.FROM_NETWORK, flow_pb2.INGRESS),
        (records.POINT_EGRESS, UPLINK, flow_pb2.TO_NETWORK, flow_pb2.EGRESS),
    ],
)
def test_a_reply_has_the_direction_of_its_connection(
    parser: Parser, point: int, interface: int, observed: int, request_direction: int
) -> None:
    opposite = {flow_pb2.EGRESS: flow_pb2.INGRESS, flow_pb2.INGRESS: flow_pb2.EGRESS}
    where = {"point": point, "ifindex": interface}
    request, reply = parser.flows(
        report(CLIENT, WORLD, opener=records.OPENER_SOURCE, **where),
        report(CLIENT, WORLD, opener=records.OPENER_DESTINATION, **where),
    )
    assert (request.trace_observation_point, reply.trace_observation_point) == (observed, observed)
    assert (request.is_reply.value, reply.is_reply.value) == (False, True)
    assert request.traffic_direction == request_direction
    assert reply.traffic_direction == opposite[request.traffic_direction]
    assert reply.trace_reason == flow_pb2.TraceReason.REPLY


@pytest.mark.parametrize(
    ("protocol", "ports", "first", "is_reply"),
    [
        (TCP, (50000, 443), 1, False),
        (TCP, (443, 50000), 1, True),  # met in its middle, by a packet of the server
        (TCP, (50000, 50001), 1, None),
        (TCP, (80, 443), 1, None),
        (UDP, (50000, 53), 0, False),
        (UDP, (53, 50000), 1, True),
        (UDP, (123, 123), 1, False),
        (UDP, (123, 123), 0, True),
    ],
)
def test_who_asked_is_told_by_ports_where_no_opening_was_seen(
    parser: Parser, protocol: int, ports: tuple[int, int], first: int, is_reply: bool | None
) -> None:
    source_port, destination_port = ports
    (flow,) = parser.flows(
        report(
            CLIENT, WORLD, protocol=protocol, source_port=source_port,
            destination_port=destination_port, first=first,
        )
    )  # fmt: skip
    assert (flow.is_reply.value if flow.HasField("is_reply") else None) is is_reply
    if is_reply is None:
        assert flow.traffic_direction == flow_pb2.TRAFFIC_DIRECTION_UNKNOWN


def test_traffic_between_two_pods_counts_at_the_senders_veth(parser: Parser) -> None:
    parsed = parser.parse(
        report(CLIENT, SERVER),
        report(CLIENT, SERVER, ifindex=OTHER_VETH, point=records.POINT_EGRESS, received_on=VETH),
        report(SERVER, CLIENT, ifindex=OTHER_VETH),
        report(SERVER, CLIENT, point=records.POINT_EGRESS, received_on=OTHER_VETH),
    )
    assert parsed.flows.attribute("interface").tolist() == [VETH, OTHER_VETH]
    assert parser.ledger.stages["parser"].kinds == {"flows": 2, "no_flow": 2}
    assert parser.ledger.imbalance() == {}


def test_what_the_host_sends_or_an_uncovered_interface_brought_counts_where_it_leaves(
    parser: Parser,
) -> None:
    leaving = {"ifindex": UPLINK, "point": records.POINT_EGRESS}
    parsed = parser.parse(
        report(CLIENT, WORLD, received_on=0, **leaving),
        report(CLIENT, WORLD, received_on=99, **leaving),
        report(CLIENT, WORLD, received_on=VETH, **leaving),
    )
    assert len(parsed.flows) == 2


def test_packets_and_bytes_are_columns_of_the_batch(parser: Parser) -> None:
    flows = parser.parse(
        report(CLIENT, WORLD, packets=5, bytes=2**40), report(CLIENT, WORLD, packets=2**40)
    ).flows
    assert flows.packets is not None
    assert flows.bytes is not None
    assert flows.packets.tolist() == [5, 2**32 - 1]
    assert flows.bytes.tolist() == [2**40, 0]


def test_flags_that_a_report_of_their_own_told_are_not_told_again_in_sweeps(parser: Parser) -> None:
    (flow,) = parser.flows(report(CLIENT, WORLD, tcp_flags=SYN | ACK, cause=records.CAUSE_SWEEP))
    assert flow.l4.TCP.flags == flow_pb2.TCPFlags(ACK=True)


def test_flows_come_in_the_order_of_their_times_and_times_rise(parser: Parser) -> None:
    first = parser.parse(
        report(CLIENT, WORLD, last_ns=3, destination_port=3),
        report(CLIENT, WORLD, last_ns=1, destination_port=1, vlan=9),
        report(CLIENT, WORLD, last_ns=1, destination_port=2),
        boot_offset=100,
    ).flows
    assert first.destination_port.tolist() == [1, 2, 3]
    assert first.time.tolist() == [101, 102, 103]
    assert first.sequence.tolist() == [0, 1, 2]
    assert (first.detail != 0).tolist() == [True, False, False]
    later = parser.parse(report(CLIENT, WORLD, last_ns=2), boot_offset=100).flows
    assert later.time.tolist() == [104]
    assert later.sequence.tolist() == [3]


def test_packets_that_are_no_ip_give_no_flow_and_fragments_no_ports(parser: Parser) -> None:
    fragment, ping = parser.flows(
        report("::", "::", family=0, protocol=0, ethertype=0x0806, last_ns=1),
        report(CLIENT, WORLD, protocol=UDP, kind=records.KIND_FRAGMENT, source_port=9, last_ns=2),
        report(CLIENT, WORLD, protocol=ICMP, icmp_type=8, last_ns=3),
    )
    assert fragment.IP.source == CLIENT
    assert not fragment.HasField("l4")
    assert (ping.l4.ICMPv4.type, ping.is_reply.value) == (8, False)


def test_ipv6_flows_are_ipv6(parser: Parser) -> None:
    (flow,) = parser.flows(report("2001:db8::1", "2001:db8::2", protocol=UDP))
    assert (flow.IP.source, flow.IP.destination) == ("2001:db8::1", "2001:db8::2")
    assert flow.IP.ipVersion == flow_pb2.IPv6


def test_a_translated_connection_has_its_real_ends_and_its_services_name(parser: Parser) -> None:
    front, node = "10.96.0.10", "192.0.2.1"
    parser.directory.set_services({(sixteen(front), 80): Service("web", "shop")})
    known_as = {"front": sixteen(front), "front_port": 80,
                "masked": sixteen(node), "masked_port": 61000}  # fmt: skip
    request, reply = parser.flows(
        report(CLIENT, SERVER, source_port=50000, destination_port=8080, from_client=1,
               last_ns=1, **known_as),
        report(SERVER, CLIENT, source_port=8080, destination_port=50000, last_ns=2, **known_as),
    )  # fmt: skip
    assert (request.IP.source, request.IP.destination) == (CLIENT, SERVER)
    assert (request.IP.source_xlated, reply.IP.source_xlated) == (node, "")
    assert (request.destination_service.name, reply.source_service.name) == ("web", "web")
    assert not request.HasField("source_service")
    assert not reply.HasField("destination_service")
    for flow in (request, reply):
        told = Struct()
        assert flow.extensions.Unpack(told)
        assert told["front"] == "10.96.0.10:80"
        assert told["masked"] == "192.0.2.1:61000"


def test_a_large_batch_comes_in_pieces_that_lose_nothing(parser: Parser) -> None:
    reports = np.concatenate(
        [report(CLIENT, WORLD, destination_port=n, last_ns=(n * 7919) % 1000) for n in range(100)]
    )
    whole = ProbeBatch(
        5, traffic=reports, totals=np.zeros(3), lost={("drops", "ring_full"): 4},
        seen={"traffic": 100, "drops": 4},
    )  # fmt: skip
    pieces = list(whole.pieces(30))
    assert [len(piece) for piece in pieces] == [30, 30, 30, 10]
    assert [sum(piece.seen.values()) for piece in pieces] == [30, 30, 30, 14]
    assert [len(piece.totals) for piece in pieces] == [0, 0, 0, 3]
    assert [dict(piece.lost) for piece in pieces[:3]] == [{}] * 3
    assert pieces[3].lost == whole.lost
    together = np.concatenate([piece.traffic for piece in pieces])
    assert together["last_ns"].tolist() == sorted(reports["last_ns"].tolist())
    assert sorted(together["destination_port"].tolist()) == list(range(100))
    assert next(whole.pieces(100)) is whole


def test_books_agree_after_each_piece_of_several_probes() -> None:
    drops = np.zeros(70, DROP_RECORD)
    whole = ProbeBatch(
        5, traffic=np.zeros(100, FLOW_REPORT), drops=drops, tcp=np.zeros(20, TCP_RECORD), netns=7,
        now_ns=99,
        lost={("mine", "ring_full"): 4}, seen={"mine": 104, "drops": 70, "tcp": 20},
    )  # fmt: skip
    pieces = list(whole.pieces(30))
    assert max(len(piece.traffic) for piece in pieces) == max(len(p.drops) for p in pieces) == 30
    assert 190 == sum(len(piece) for piece in pieces)
    assert [len(piece) + sum(piece.lost.values()) for piece in pieces] == [
        sum(piece.seen.values()) for piece in pieces
    ]
    assert {7} == {piece.netns for piece in pieces}
    assert [0] * 5 + [99] == [piece.now_ns for piece in pieces]
