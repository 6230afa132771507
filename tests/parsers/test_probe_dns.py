"""DNS packets of the probe as flows: in the form in which Hubble shows those of Cilium's proxy."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import numpy as np
import pytest
from google.protobuf import json_format

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.directory import Directory
from parsers.dns_exchange import MOST_OPEN, PATIENCE_NS
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_dns import DNS_RECORD, MOST_STREAMS, DnsWatcher
from parsers.probe_dns_records import MOST_REMEMBERED
from parsers.probe_pipeline import ProbePipeline
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS
from parsers.windows import Columns

GOLDEN = Path(__file__).parents[1] / "data/fixtures/v1.19/steady.flows.jsonl.xz"
CLIENT, SERVER, SERVICE, NODE = "10.0.0.1", "10.0.0.2", "10.96.0.10", "192.0.2.1"
CLIENT_VETH, SERVER_VETH, UPLINK = 7, 8, 2
SECOND, MILLISECOND = 10**9, 10**6
SYN, FIN, ACK = 2, 1, 16


def sixteen(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def packet(
    source: tuple[str, int], destination: tuple[str, int], payload: bytes, time: int, **fields: Any
) -> Columns:
    """A UDP datagram that comes in from the client's pod, with whatever else is said."""
    row = np.zeros(1, dtype=DNS_RECORD)
    row["source_ip"], row["source_port"] = sixteen(source[0]), source[1]
    row["destination_ip"], row["destination_port"] = sixteen(destination[0]), destination[1]
    row["ip_version"] = ip_address(source[0]).version
    row["protocol"], row["time_ns"], row["ifindex"] = 17, time, CLIENT_VETH
    row["point"] = POINT_INGRESS
    row["payload"], row["length"] = payload[:2048], len(payload)
    row["copied"] = min(2048, len(payload))
    for name, value in fields.items():
        row[name] = value
    return row


def query(name: str = "www.shop.test", type_: str = "A", number: int = 77) -> dns.message.Message:
    return dns.message.make_query(name, type_, id=number)


def answer(to: dns.message.Message, *addresses: str, code: str = "NOERROR") -> bytes:
    message = dns.message.make_response(to)
    message.set_rcode(dns.rcode.from_text(code))
    if addresses:
        message.answer.append(dns.rrset.from_text(to.question[0].name, 30, "IN", "A", *addresses))
    return message.to_wire()


class Parser:
    def __init__(self) -> None:
        self.tables = new_tables()
        self.ledger = Ledger()
        monitor = MonitorPipeline(self.tables, Directory(), self.ledger)
        self.pipeline = ProbePipeline(monitor.assembler, monitor.numbers, self.ledger)
        self.messages = FlowMessages(self.tables, LocalNode("node"))

    def flows(self, *packets: Columns, now: int = 0) -> list[flow_pb2.Flow]:
        batch = self.pipeline.parse(
            ProbeBatch(
                0,
                now_ns=now,
                dns=np.concatenate([np.zeros(0, DNS_RECORD), *packets]),
                covered=frozenset({CLIENT_VETH, SERVER_VETH, UPLINK}),
                pods=frozenset({CLIENT_VETH, SERVER_VETH}),
            )
        ).flows
        return [self.messages.flow(batch, row) for row in range(len(batch))]


@pytest.fixture
def parser() -> Parser:
    return Parser()


def golden() -> Iterator[dict[str, Any]]:
    """DNS flows that Hubble made of records of Cilium's proxy."""
    with lzma.open(GOLDEN, "rt") as lines:
        for line in lines:
            if '"observation_source"' in line:
                yield json.loads(line)["event"]


def wire_of(flow: dict[str, Any]) -> bytes:
    """The message that such a flow tells of."""
    told = flow["l7"]["dns"]
    message: dns.message.Message = dns.message.make_query(told["query"], told["qtypes"][0], id=1)
    if flow["l7"]["type"] == "RESPONSE":
        message = dns.message.make_response(message)
        message.set_rcode(dns.rcode.Rcode(told.get("rcode", 0)))
        if told.get("rcode", 0) > 15:
            message.use_edns(0, ednsflags=message.ednsflags)
        name, ttl = told["query"], told.get("ttl", 0)
        for target in told.get("cnames", []):
            message.answer.append(dns.rrset.from_text(name, ttl, "IN", "CNAME", target))
            name = target
        for address in told.get("ips", []):
            type_ = "AAAA" if ":" in address else "A"
            message.answer.append(dns.rrset.from_text(name, ttl, "IN", type_, address))
    return message.to_wire()


def test_the_form_is_that_of_flows_that_hubble_makes_of_the_proxys_records() -> None:
    compared = 0
    for expected in golden():
        if "ips" in expected["l7"]["dns"]:
            types = {"AAAA" if ":" in ip else "A" for ip in expected["l7"]["dns"]["ips"]}
            assert types <= set(expected["l7"]["dns"]["rrtypes"])
        ports = expected["l4"].get("UDP")
        if not ports or expected["verdict"] != "FORWARDED":
            continue
        leaves = expected["traffic_direction"] == "EGRESS"
        is_reply = expected["l7"]["type"] == "RESPONSE"
        (made,) = Parser().flows(
            packet(
                (expected["IP"]["source"], ports["source_port"]),
                (expected["IP"]["destination"], ports["destination_port"]),
                wire_of(expected),
                SECOND,
                point=POINT_INGRESS if leaves != is_reply else POINT_EGRESS,
            )
        )
        told = json_format.MessageToDict(made, preserving_proto_field_name=True)
        for name in ("time", "uuid", "emitter", "node_name", "node_labels", "source", "destination",
                     "source_names", "destination_names", "source_service",
                     "destination_service", "extensions"):  # fmt: skip
            told.pop(name, None)
            expected.pop(name, None)
        assert told["l7"]["dns"].pop("observation_source") == "probe"
        assert expected["l7"]["dns"].pop("observation_source") == "proxy"
        expected["Summary"] = expected["Summary"].replace("(Proxy ", "(Query ")
        assert expected == told
        compared += 1
    assert compared > 100


def test_an_answer_says_how_long_it_took(parser: Parser) -> None:
    asked = query()
    _, told = parser.flows(
        packet((CLIENT, 40000), (SERVER, 53), asked.to_wire(), SECOND),
        packet(
            (SERVER, 53), (CLIENT, 40000), answer(asked, "192.0.2.7"), SECOND + 3 * MILLISECOND,
            point=POINT_EGRESS,
        ),
    )  # fmt: skip
    assert told.l7.latency_ns == 3 * MILLISECOND
    assert told.is_reply.value


def test_what_both_ends_of_a_query_between_pods_see_is_told_once(parser: Parser) -> None:
    asked = query()
    wire, back = asked.to_wire(), answer(asked, "192.0.2.7")
    flows = parser.flows(
        # the client asks a service; its address is translated on the way, and back
        packet((CLIENT, 40000), (SERVICE, 53), wire, 1),
        packet((CLIENT, 40000), (SERVER, 53), wire, 2, ifindex=SERVER_VETH, point=POINT_EGRESS,
               received_on=CLIENT_VETH),
        packet((SERVER, 53), (CLIENT, 40000), back, 3, ifindex=SERVER_VETH),
        packet((SERVICE, 53), (CLIENT, 40000), back, 4, point=POINT_EGRESS,
               received_on=SERVER_VETH),
    )  # fmt: skip
    ends = [(flow.IP.source, flow.IP.destination) for flow in flows]
    assert ends == [(CLIENT, SERVICE), (SERVICE, CLIENT)]
    assert flows[1].l7.latency_ns == 3
    assert parser.ledger.stages["parser"].kinds["no_flow"] == 2


def test_an_answer_finds_the_client_whose_address_was_translated(parser: Parser) -> None:
    asked = query()
    wire, back = asked.to_wire(), answer(asked, "192.0.2.7")
    flows = parser.flows(
        packet((CLIENT, 40000), (SERVER, 53), wire, 1),
        packet((NODE, 61000), (SERVER, 53), wire, 2, ifindex=UPLINK, point=POINT_EGRESS,
               received_on=CLIENT_VETH),
        packet((SERVER, 53), (NODE, 61000), back, 3, ifindex=UPLINK),
        packet((SERVER, 53), (CLIENT, 40000), back, 4, point=POINT_EGRESS, received_on=UPLINK),
    )  # fmt: skip
    ends = [(flow.IP.source, flow.IP.destination) for flow in flows]
    assert ends == [(CLIENT, SERVER), (SERVER, CLIENT)]
    assert parser.flows(now=10 * PATIENCE_NS) == []


def test_a_server_pod_is_told_of_queries_from_outside(parser: Parser) -> None:
    asked = query()
    wire, back = asked.to_wire(), answer(asked, "192.0.2.7")
    flows = parser.flows(
        packet((NODE, 40000), (SERVER, 53), wire, 1, ifindex=UPLINK),
        packet((NODE, 40000), (SERVER, 53), wire, 2, ifindex=SERVER_VETH, point=POINT_EGRESS,
               received_on=UPLINK),
        packet((SERVER, 53), (NODE, 40000), back, 3, ifindex=SERVER_VETH),
        packet((SERVER, 53), (NODE, 40000), back, 4, ifindex=UPLINK, point=POINT_EGRESS,
               received_on=SERVER_VETH),
    )  # fmt: skip
    assert [flow.l7.type for flow in flows] == [flow_pb2.REQUEST, flow_pb2.RESPONSE]
    assert {flow.traffic_direction for flow in flows} == {flow_pb2.INGRESS}


def test_a_query_that_is_asked_again_is_told_again_and_timed_from_the_first(
    parser: Parser,
) -> None:
    asked = query()
    first, again, told = parser.flows(
        packet((CLIENT, 40000), (SERVER, 53), asked.to_wire(), 1 * SECOND),
        packet((CLIENT, 40000), (SERVER, 53), asked.to_wire(), 2 * SECOND),
        packet((SERVER, 53), (CLIENT, 40000), answer(asked), 3 * SECOND, point=POINT_EGRESS),
    )
    assert first.l7.type == again.l7.type == flow_pb2.REQUEST
    assert told.l7.latency_ns == 2 * SECOND


def test_a_query_without_an_answer_is_an_error_when_its_time_is_up(parser: Parser) -> None:
    packets = packet((CLIENT, 40000), (SERVER, 53), query().to_wire(), SECOND)
    assert len(parser.flows(packets, now=SECOND + PATIENCE_NS - 1)) == 1
    (flow,) = parser.flows(now=SECOND + PATIENCE_NS)
    assert flow.verdict == flow_pb2.ERROR
    assert flow.l7.type == flow_pb2.REQUEST
    assert flow.Summary == "DNS Query www.shop.test. A (unanswered)"
    assert parser.flows(now=10 * PATIENCE_NS) == []
    assert parser.ledger.imbalance() == {}


def test_an_answer_without_a_question_is_that_of_its_query(parser: Parser) -> None:
    asked = query()
    refused = bytes.fromhex("004d8001000000000000 0000".replace(" ", ""))  # number 77, FORMERR
    _, told = parser.flows(
        packet((CLIENT, 40000), (SERVER, 53), asked.to_wire(), 1),
        packet((SERVER, 53), (CLIENT, 40000), refused, 2, point=POINT_EGRESS),
    )
    assert (told.l7.dns.query, told.l7.dns.rcode) == ("www.shop.test.", 1)


def test_messages_over_tcp_are_put_together(parser: Parser) -> None:
    asked, other = query(), query("api.shop.test", number=78)
    sent = b"".join(len(w).to_bytes(2, "big") + w for w in (asked.to_wire(), other.to_wire()))
    tcp: dict[str, Any] = {"protocol": 6, "tcp_flags": ACK}
    ends = (CLIENT, 40000), (SERVER, 53)
    flows = parser.flows(
        packet(*ends, b"", 1, protocol=6, tcp_flags=SYN, sequence=999),
        packet(*ends, sent[:10], 2, sequence=1000, **tcp),
        packet(*ends, sent[10:], 3, sequence=1010, **tcp),
        packet(*ends, b"", 4, protocol=6, tcp_flags=FIN | ACK, sequence=1000 + len(sent)),
    )
    assert [flow.l7.dns.query for flow in flows] == ["www.shop.test.", "api.shop.test."]
    assert {flow.l4.TCP.destination_port for flow in flows} == {53}
    assert parser.ledger.imbalance() == {}


def test_names_are_shown_in_lower_case(parser: Parser) -> None:
    (flow,) = parser.flows(
        packet((CLIENT, 40000), (SERVER, 53), query("WwW.ShOp.TeSt").to_wire(), 1)
    )
    assert flow.l7.dns.query == "www.shop.test."


def test_what_is_no_message_is_booked_and_the_books_balance(parser: Parser) -> None:
    flows = parser.flows(
        packet((CLIENT, 40000), (SERVER, 53), b"GET / HTTP/1.1", 1),
        packet((CLIENT, 40000), (SERVER, 53), query().to_wire(), 2),
    )
    assert len(flows) == 1
    assert parser.ledger.stages["parser"].lost == {"decode": 1}
    assert parser.ledger.imbalance() == {}


def test_metrics_can_count_by_name_once_they_want_to(parser: Parser) -> None:
    def label(number: int) -> str:
        batch = parser.pipeline.parse(
            ProbeBatch(
                0,
                dns=packet((CLIENT, 40000), (SERVER, 53), query(number=number).to_wire(), number),
            )
        ).flows
        record = parser.tables.details.record(int(batch.detail[0]))
        assert record is not None
        labels: Any = record.labels
        return str(labels.query)

    assert label(1) == ""
    parser.pipeline.label_queries(wanted=True)
    assert label(2) == "www.shop.test."


def test_storms_take_bounded_memory() -> None:
    watcher = DnsWatcher()
    count = MOST_OPEN + 500
    storm = np.repeat(packet((CLIENT, 40000), (SERVER, 53), query().to_wire(), 1), count)
    storm["time_ns"] = np.arange(count)
    storm["source_port"] = np.arange(count) % 60000
    covered = frozenset({CLIENT_VETH})
    found = watcher.flows(storm, covered, covered, 0)
    assert len(found.flows) == count
    assert watcher.statistics()["dns_open"] == MOST_OPEN
    assert watcher.statistics()["dns_given_up"] == 500
    storm["protocol"], storm["tcp_flags"] = 6, SYN
    watcher.flows(storm[: 2 * MOST_STREAMS], covered, covered, 0)
    assert watcher.statistics()["dns_streams"] == MOST_STREAMS


def test_what_was_read_before_is_told_as_if_it_was_read_again(parser: Parser) -> None:
    asked = [query(number=number) for number in (1, 2)]
    forth = (CLIENT, 40000), (SERVER, 53)
    back: dict[str, Any] = {"point": POINT_EGRESS}
    flows = parser.flows(
        packet(*forth, asked[0].to_wire(), 1 * SECOND),
        packet(*forth[::-1], answer(asked[0], "192.0.2.7"), 1 * SECOND + 5, **back),
        packet(*forth, asked[1].to_wire(), 2 * SECOND),
        packet(*forth[::-1], answer(asked[1], "192.0.2.7"), 2 * SECOND + 9, **back),
        packet(*forth, asked[1].to_wire()[:20], 3 * SECOND),  # is no message
        packet(*forth, asked[1].to_wire()[:20], 3 * SECOND, length=33),  # is cut off
    )
    assert [flow.l7.latency_ns for flow in flows] == [0, 5, 0, 9]
    assert flows[0].l7.dns == flows[2].l7.dns
    assert flows[1].l7.dns == flows[3].l7.dns


def test_a_storm_of_different_messages_takes_bounded_memory() -> None:
    watcher = DnsWatcher()
    covered = frozenset({CLIENT_VETH})
    for number in range(MOST_REMEMBERED + 10):
        asked = query(f"a{number}.test").to_wire()
        watcher.flows(packet((CLIENT, 40000), (SERVER, 53), asked, number), covered, covered, 0)
    assert 0 < watcher.statistics()["dns_messages"] <= MOST_REMEMBERED
