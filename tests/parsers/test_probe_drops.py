"""Drop records as the flows that a client is shown."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, struct_pb2

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.directory import Directory, LocalEndpoint
from parsers.kernel_drop_reasons import HUBBLE_REASONS, KernelReasons
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_drops import (
    DROP_RECORD,
    HAS_ETHERNET,
    HAS_VLAN,
    HOOKS,
    IS_FRAGMENT,
    OF_CHAIN,
    OF_TABLE,
    VERDICT_RECORD,
    symbol_name,
)
from parsers.probe_pipeline import ProbePipeline
from parsers.windows import Columns

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
VETH = 7
NODE, POD = 4026531840, 4026532500  # inodes of namespaces
MEMBERS = {
    2: "SKB_DROP_REASON_NOT_SPECIFIED",
    3: "SKB_DROP_REASON_NO_SOCKET",
    12: "SKB_DROP_REASON_NETFILTER_DROP",
    99: "SKB_DROP_REASON_MADE_UP_TOMORROW",
}
NO_VERDICTS = np.zeros(0, VERDICT_RECORD)
NAMES = KernelReasons(MEMBERS, {0x20003: "OVS_DROP_METER"})


def sixteen(text: str) -> bytes:
    address = ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def drop(**fields: Any) -> Columns:
    """One UDP datagram that nobody takes, with whatever else is said."""
    row = np.zeros(1, dtype=DROP_RECORD)
    row["source_ip"] = np.frombuffer(sixteen(CLIENT), np.uint8)
    row["destination_ip"] = np.frombuffer(sixteen(SERVER), np.uint8)
    row["ip_version"], row["protocol"] = 4, 17
    row["source_port"], row["destination_port"] = 40000, 9999
    row["reason"], row["location"], row["symbol"] = 3, 0xFFFFFFFF81000000, b"udp_rcv"
    row["segments"], row["length"], row["netns"], row["interface"] = 1, 60, NODE, 2
    row["direction"] = 1
    for name, value in fields.items():
        row[name] = value
    return row


class Parser:
    def __init__(self) -> None:
        directory = Directory()
        directory.set_endpoint(LocalEndpoint(3, 1000, "shop", "cart"), (sixteen(CLIENT),))
        self.tables = new_tables()
        self.ledger = Ledger()
        monitor = MonitorPipeline(self.tables, directory, self.ledger)
        self.pipeline = ProbePipeline(monitor.assembler, monitor.numbers, self.ledger)
        self.messages = FlowMessages(self.tables, LocalNode("node"))

    def flows(
        self,
        *drops: Columns,
        names: KernelReasons = NAMES,
        verdicts: Columns = NO_VERDICTS,
    ) -> list[flow_pb2.Flow]:
        batch = self.pipeline.parse(
            ProbeBatch(
                0,
                drops=np.concatenate(drops),
                verdicts=verdicts,
                drop_reasons=names,
                netns=NODE,
                covered=frozenset({VETH}),
                pods=frozenset({VETH}),
            )
        ).flows
        return [self.messages.flow(batch, row) for row in range(len(batch))]

    def own_words(
        self,
        *drops: Columns,
        names: KernelReasons = NAMES,
        verdicts: Columns = NO_VERDICTS,
    ) -> list[dict[str, Any]]:
        """The flows' extensions, less their counts."""
        found = []
        for flow in self.flows(*drops, names=names, verdicts=verdicts):
            told = struct_pb2.Struct()
            assert flow.extensions.Unpack(told)
            words = json_format.MessageToDict(told)
            assert (words.pop("packets"), words.pop("bytes")) == (1, 60)
            found.append(words)
        return found


@pytest.fixture
def parser() -> Parser:
    return Parser()


def test_a_drop_is_a_flow_in_hubbles_terms(parser: Parser) -> None:
    (flow,) = parser.flows(drop())
    assert (flow.IP.source, flow.IP.destination) == (CLIENT, SERVER)
    assert flow.IP.ipVersion == flow_pb2.IPv4
    assert (flow.l4.UDP.source_port, flow.l4.UDP.destination_port) == (40000, 9999)
    assert flow.verdict == flow_pb2.DROPPED
    assert flow.Type == flow_pb2.L3_L4
    assert flow.event_type.type == 1
    assert flow.drop_reason_desc == flow_pb2.SOCKET_LOOKUP_FAILED
    assert flow.event_type.sub_type == flow.drop_reason == flow_pb2.SOCKET_LOOKUP_FAILED
    assert flow.traffic_direction == flow_pb2.INGRESS
    assert flow.source.pod_name == "cart"
    assert not flow.HasField("is_reply")


def test_the_kernels_own_words_go_with_the_flow(parser: Parser) -> None:
    (words,) = parser.own_words(
        drop(reason=12, hook=HOOKS.index("FORWARD"), symbol=b"nft_do_chain [nf_tables]")
    )
    assert words == {
        "drop_reason": "NETFILTER_DROP",
        "location": "nft_do_chain",
        "netfilter_hook": "FORWARD",
    }


def test_a_drop_of_netfilter_without_a_reason_is_told_by_its_place(parser: Parser) -> None:
    before_5_17 = KernelReasons({})
    of_netfilter = drop(reason=0, location=0xFFFFFFFF82000000, symbol=b"nf_hook_slow")
    placed, bare = parser.own_words(of_netfilter, drop(reason=0), names=before_5_17)
    assert (placed["drop_reason"], bare["drop_reason"]) == ("NETFILTER_DROP", "NOT_SPECIFIED")
    flow, _ = parser.flows(of_netfilter, drop(reason=0), names=before_5_17)
    assert flow.drop_reason_desc == flow_pb2.POLICY_DENIED


def test_a_verdict_names_the_chain_of_its_drop_and_of_no_other(parser: Parser) -> None:
    verdicts = np.zeros(3, VERDICT_RECORD)
    verdicts["time_ns"] = [1_000_500, 1_002_500, 900_000_000]
    verdicts["packet"] = [0xF00, 0xF00, 0xF0F]
    verdicts["table"], verdicts["chain"] = b"filter", [b"INPUT", b"FORWARD", b"OUTPUT"]
    words = parser.own_words(
        drop(time_ns=1_000_000, reason=12, packet=0xF00),
        drop(time_ns=1_001_000, reason=12, packet=0xBAD),
        drop(time_ns=1_002_000, reason=12, packet=0xF00),  # in the same memory
        drop(time_ns=1_003_000, reason=12, packet=0xF0F),  # long before that verdict
        verdicts=verdicts,
    )
    chains = [word.get("netfilter_chain") for word in words]
    assert chains == ["INPUT", None, "FORWARD", None]
    assert words[0]["netfilter_table"] == "filter"


def test_a_verdict_is_of_no_drop_that_is_not_netfilters(parser: Parser) -> None:
    verdicts = np.zeros(1, VERDICT_RECORD)
    verdicts["time_ns"], verdicts["packet"] = 1_000_500, 0xF00
    verdicts["table"], verdicts["chain"] = b"filter", b"INPUT"
    of_netfilter, in_its_memory = parser.own_words(
        drop(time_ns=1_000_000, reason=12, packet=0xF00),
        drop(time_ns=1_001_000, reason=3, packet=0xF00),
        verdicts=verdicts,
    )
    assert of_netfilter["netfilter_chain"] == "INPUT"
    assert "netfilter_chain" not in in_its_memory


def test_verdicts_of_one_time_are_told_together_as_one_called_the_other(parser: Parser) -> None:
    verdicts = np.zeros(3, VERDICT_RECORD)
    verdicts["time_ns"] = [1_000_500, 1_000_500, 1_000_900]
    verdicts["packet"] = 0xF00
    verdicts["function"] = [OF_CHAIN, 2, 4]
    verdicts["table"][0], verdicts["chain"][0] = b"nat", b"hide"
    (words,) = parser.own_words(drop(time_ns=1_000_600, reason=12, packet=0xF00), verdicts=verdicts)
    assert words["netfilter_function"] == "nf_nat_inet_fn"
    assert (words["netfilter_table"], words["netfilter_chain"]) == ("nat", "hide")


def test_a_table_of_iptables_legacy_has_the_chain_of_the_hook(parser: Parser) -> None:
    verdicts = np.zeros(1, VERDICT_RECORD)
    verdicts["time_ns"], verdicts["packet"] = 1_000_500, 0xF00
    verdicts["function"], verdicts["table"] = OF_TABLE, b"mangle"
    (words,) = parser.own_words(
        drop(time_ns=1_000_600, reason=12, packet=0xF00, hook=HOOKS.index("FORWARD")),
        verdicts=verdicts,
    )
    assert (words["netfilter_table"], words["netfilter_chain"]) == ("mangle", "FORWARD")


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (2, "NOT_SPECIFIED"),
        (99, "MADE_UP_TOMORROW"),
        (98, "reason_98"),
        (0x20003, "OVS_DROP_METER"),
        (0x20004, "reason_131076"),
    ],
)
def test_a_reason_that_hubble_has_no_word_for_is_unknown_and_keeps_its_name(
    parser: Parser, reason: int, name: str
) -> None:
    (flow,) = parser.flows(drop(reason=reason))
    assert flow.drop_reason_desc == flow_pb2.DROP_REASON_UNKNOWN
    assert flow.verdict == flow_pb2.DROPPED
    assert parser.own_words(drop(reason=reason))[0]["drop_reason"] == name


def test_kernels_before_5_17_give_no_reason(parser: Parser) -> None:
    (words,) = parser.own_words(drop(reason=0, symbol=b""), names=KernelReasons({}))
    assert words == {"drop_reason": "NOT_SPECIFIED"}


def test_every_reason_of_the_table_is_one_of_hubbles() -> None:
    assert set(HUBBLE_REASONS.values()) <= set(flow_pb2.DropReason.values())


@pytest.mark.parametrize(
    ("netns", "direction", "expected"),
    [
        (NODE, 1, flow_pb2.EGRESS),  # what comes in from a pod's veth leaves the pod
        (NODE, 2, flow_pb2.INGRESS),
        (NODE, 0, flow_pb2.TRAFFIC_DIRECTION_UNKNOWN),
        (POD, 1, flow_pb2.INGRESS),  # an interface of the same number inside a pod
        (POD, 2, flow_pb2.EGRESS),
    ],
)
def test_the_direction_is_the_pods(
    parser: Parser, netns: int, direction: int, expected: int
) -> None:
    (flow,) = parser.flows(drop(interface=VETH, netns=netns, direction=direction))
    assert flow.traffic_direction == expected
    assert (flow.interface.index == VETH) == (netns == NODE)


def test_tcp_flags_and_macs_are_shown(parser: Parser) -> None:
    macs = {"source_mac": [2, 0, 0, 0, 0, 1], "destination_mac": [2, 0, 0, 0, 0, 2]}
    (flow,) = parser.flows(drop(protocol=6, tcp_flags=0x102, flags=HAS_ETHERNET, **macs))
    assert flow.l4.TCP.flags == flow_pb2.TCPFlags(SYN=True, NS=True)
    assert (flow.ethernet.source, flow.ethernet.destination) == (
        "02:00:00:00:00:01", "02:00:00:00:00:02",
    )  # fmt: skip


def test_icmp_types_and_sctp_chunks_are_shown(parser: Parser) -> None:
    ipv6 = {"ip_version": 6, "source_ip": list(sixteen("fd00::1"))}
    echo, unreachable, sctp = parser.flows(
        drop(protocol=58, l4_type=128, source_port=0, destination_port=0, **ipv6),
        drop(protocol=1, l4_type=3, l4_code=3, source_port=0, destination_port=0),
        drop(protocol=132, l4_type=1),
    )
    assert echo.l4.ICMPv6.type == 128
    assert echo.IP.source == "fd00::1"
    assert unreachable.l4.ICMPv4 == flow_pb2.ICMPv4(type=3, code=3)
    assert sctp.l4.SCTP.chunk_type == flow_pb2.INIT
    assert sctp.l4.SCTP.destination_port == 9999


def test_a_later_fragment_has_no_ports_and_says_what_it_is(parser: Parser) -> None:
    later = drop(flags=IS_FRAGMENT, source_port=0, destination_port=0)
    first = drop(flags=IS_FRAGMENT | HAS_VLAN, vlan=0x2007)
    flow, other = parser.flows(later, first)
    assert flow.l4.WhichOneof("protocol") is None
    assert other.l4.UDP.destination_port == 9999
    words = parser.own_words(later, first)
    assert [word["fragment"] for word in words] == ["later", "first"]
    assert words[1]["vlan"] == 7


def test_a_frame_without_ip_is_a_flow_without_ip(parser: Parser) -> None:
    (flow,) = parser.flows(drop(ip_version=0, ether_type=0x88CC))
    assert not flow.IP.source
    assert flow.verdict == flow_pb2.DROPPED


def test_every_record_becomes_a_flow(parser: Parser) -> None:
    many = [drop(location=number, reason=number % 200) for number in range(6000)]
    flows = parser.pipeline.parse(
        ProbeBatch(0, drops=np.concatenate(many), drop_reasons=NAMES, netns=NODE)
    ).flows
    assert len(flows) == 6000
    assert parser.ledger.imbalance() == {}


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        (b"tcp_v4_rcv", "tcp_v4_rcv"),
        (b"nft_do_chain [nf_tables]", "nft_do_chain"),
        (b"ip_rcv_core.isra.0", "ip_rcv_core"),
        (b"", ""),
    ],
)
def test_names_of_functions_have_neither_module_nor_suffix(symbol: bytes, name: str) -> None:
    assert symbol_name(symbol) == name
