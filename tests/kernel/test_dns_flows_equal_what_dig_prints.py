"""dnsmasq answers dig in namespaces; what dig prints is what the flows must say."""

from __future__ import annotations

import re
import socket

import pytest

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from native_probes.dns import DnsProbe, DnsSettings
from native_probes.source import SourceSettings
from parsers.directory import Directory
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_pipeline import ProbePipeline
from tests.kernel.lab import Lab, Pod, inside
from tests.kernel.name_server import dig, dnsmasq
from tests.kernel.running import Running, running
from tests.kernel.tracing import address, listening

SETTINGS = SourceSettings(families={"dns": lambda place: DnsProbe(place, DnsSettings())})


class Shown:
    """The flows of everything that a source has delivered."""

    def __init__(self, probes: Running) -> None:
        self._probes = probes
        tables = new_tables()
        self.ledger = Ledger()
        monitor = MonitorPipeline(tables, Directory(), self.ledger)
        self._pipeline = ProbePipeline(monitor.assembler, monitor.numbers, self.ledger)
        self._messages = FlowMessages(tables, LocalNode("node"))
        self._flows: list[flow_pb2.Flow] = []

    def parse(self, batch: ProbeBatch) -> None:
        flows = self._pipeline.parse(batch).flows
        self._flows += [self._messages.flow(flows, row) for row in range(len(flows))]

    def of(self, query: str) -> list[flow_pb2.Flow]:
        while self._probes.batches:
            self.parse(self._probes.batches.pop(0))
        return [flow for flow in self._flows if flow.l7.dns.query == query]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
async def test_a_query_and_its_answer_are_told_once(
    lab: Lab, pods: tuple[Pod, Pod], family: int, transport: str
) -> None:
    client, server = pods
    async with running(lab, SETTINGS) as probes:
        await probes.covers(*(lab.ifindex(pod.interface) for pod in pods))
        shown = Shown(probes)
        with dnsmasq(server):
            at = address(server, family)
            printed = dig(client, f"@{at}", transport, "+noall", "+answer", "www.shop.test", "A")
        await probes.until(lambda: len(shown.of("www.shop.test.")) >= 2)
    query, answer = shown.of("www.shop.test.")
    assert (query.IP.source, query.IP.destination) == (address(client, family), at)
    assert (answer.IP.source, answer.IP.destination) == (at, address(client, family))
    ports = query.l4.TCP if transport == "+tcp" else query.l4.UDP
    assert ports.destination_port == 53
    assert query.Type == flow_pb2.L7
    assert (query.l7.type, answer.l7.type) == (flow_pb2.REQUEST, flow_pb2.RESPONSE)
    assert list(query.l7.dns.qtypes) == list(answer.l7.dns.qtypes) == ["A"]
    assert query.Summary == "DNS Query www.shop.test. A"
    assert (query.traffic_direction, answer.traffic_direction) == (flow_pb2.EGRESS,) * 2
    assert (query.is_reply.value, answer.is_reply.value) == (False, True)
    addresses = re.findall(r"\sA\s+(\S+)", printed)
    assert len(addresses) == 2
    assert addresses == list(answer.l7.dns.ips)
    assert answer.l7.dns.ttl == min(map(int, re.findall(r"\.\s+(\d+)\s+IN", printed)))
    assert ["A", "A"] == list(answer.l7.dns.rrtypes)
    assert answer.l7.latency_ns > 0
    assert answer.time.ToNanoseconds() - query.time.ToNanoseconds() == answer.l7.latency_ns
    assert shown.ledger.stages["parser"].lost == {}
    assert probes.lost() == {}


async def test_cnames_missing_names_and_long_answers(lab: Lab, pods: tuple[Pod, Pod]) -> None:
    client, server = pods
    async with running(lab, SETTINGS) as probes:
        await probes.covers(*(lab.ifindex(pod.interface) for pod in pods))
        shown = Shown(probes)
        with dnsmasq(server):
            at = f"@{server.ipv4}"
            alias = dig(client, at, "+noall", "+answer", "alias.shop.test", "AAAA")
            missing = dig(client, at, "nothing.shop.test", "A")
            long = dig(client, at, "+bufsize=4096", "+noall", "+stats", "long.shop.test", "TXT")
            by_tcp = dig(client, at, "+tcp", "+noall", "+answer", "LONG.shop.test", "TXT")
        await probes.until(lambda: len(shown.of("long.shop.test.")) >= 4)
    answer = shown.of("alias.shop.test.")[1]
    assert re.findall(r"CNAME\s+(\S+)", alias) == list(answer.l7.dns.cnames) == ["www.shop.test."]
    assert re.findall(r"AAAA\s+(\S+)", alias) == list(answer.l7.dns.ips) == ["2001:db8::7"]
    assert list(answer.l7.dns.rrtypes) == ["CNAME", "AAAA"]
    assert "status: NXDOMAIN" in missing
    refused = shown.of("nothing.shop.test.")[1]
    assert refused.l7.dns.rcode == 3
    assert refused.Summary.startswith("DNS Answer RCode: Non-Existent Domain")
    received = re.search(r"MSG SIZE\s+rcvd: (\d+)", long)
    assert received
    assert int(received[1]) > 2048  # longer than what is captured of a packet
    assert by_tcp.count("IN") == 1
    flows = shown.of("long.shop.test.")
    assert [flow.l7.type for flow in flows] == [flow_pb2.REQUEST, flow_pb2.RESPONSE] * 2
    assert {"TXT"} == {name for flow in flows for name in flow.l7.dns.qtypes}
    assert flows[3].l4.TCP.source_port == 53
    assert shown.ledger.stages["parser"].lost == {}


@pytest.mark.parametrize("family", [4, 6])
async def test_a_query_without_an_answer_is_told_of_again_as_an_error(
    lab: Lab, pods: tuple[Pod, Pod], family: int
) -> None:
    client, server = pods
    async with running(lab, SETTINGS) as probes:
        await probes.covers(*(lab.ifindex(pod.interface) for pod in pods))
        shown = Shown(probes)
        # somebody listens, so that nothing comes back, and nobody answers
        with inside(server.namespace):
            deaf = _deaf(address(server, family))
        with deaf:
            dig(client, f"@{address(server, family)}", "+notcp", "lost.shop.test", "A")
            await probes.until(lambda: len(shown.of("lost.shop.test.")) >= 1)
            last = ProbeBatch(0, now_ns=1 << 62)
        shown.parse(last)
    asked, unanswered = shown.of("lost.shop.test.")
    assert (asked.verdict, unanswered.verdict) == (flow_pb2.FORWARDED, flow_pb2.ERROR)
    assert unanswered.Summary == "DNS Query lost.shop.test. A (unanswered)"
    assert asked.IP.source == unanswered.IP.source == address(client, family)
    assert unanswered.l4.UDP.destination_port == 53


def _deaf(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.bind((host, 53))
    return udp


async def test_what_is_no_dns_is_booked(lab: Lab, pods: tuple[Pod, Pod]) -> None:
    client, server = pods
    async with running(lab, SETTINGS) as probes:
        await probes.covers(*(lab.ifindex(pod.interface) for pod in pods))
        shown = Shown(probes)
        with listening(server.namespace, server.ipv4, 53) as tcp, inside(client.namespace):
            with socket.create_connection(tcp.getsockname()[:2], 10) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                for payload in (b"", b"\x00", b"hello, this is no DNS message at all" * 40):
                    udp.sendto(payload, (server.ipv4, 53))
        await probes.until(
            lambda: shown.of("") is not None and shown.ledger.stages["parser"].lost["decode"] >= 2
        )
    assert shown.ledger.imbalance() == {}
