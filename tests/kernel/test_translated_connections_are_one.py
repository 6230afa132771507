"""A service's address, the server behind it and a masked client are joined by conntrack."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trio

from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside, run
from tests.kernel.name_server import dig, dnsmasq
from tests.kernel.running import Running, running
from tests.kernel.test_agent_shows_a_plain_node import agent, fields_of, until
from tests.parsers.test_probe_traffic import sixteen
from tests.programs import program

SERVICE = {"10.96.0.10": 80, "fd96::10": 80}
PORT = 8080
RULES = """
table inet ciliary_test {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr 10.96.0.10 tcp dport 80 dnat ip to {v4}:8080
        ip daddr 10.96.0.10 udp dport 53 dnat ip to {v4}:53
        ip6 daddr fd96::10 udp dport 53 dnat ip6 to [{v6}]:53
        ip6 daddr fd96::10 tcp dport 80 dnat ip6 to [{v6}]:8080
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ct status dnat masquerade
    }}
}}
"""


def serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with listener, connection:
        connection.sendall(connection.recv(100))


def told(probes: Running, source: str, destination: str) -> Columns:
    """Reports of TCP that give flows between these."""
    reports = probes.traffic(first=True, protocol=6)
    keep = [
        row["source"].tobytes() == sixteen(source)
        and row["destination"].tobytes() == sixteen(destination)
        for row in reports
    ]
    return reports[keep]


def has(count: int, probes: Running, source: str, destination: str) -> bool:
    return len(told(probes, source, destination)) >= count


def behind_a_service(lab: Lab) -> tuple[Pod, Pod]:
    """A client, and a server that the service's addresses lead to."""
    nft = program("nft", "nftables")
    client, server = lab.add_pod(), lab.add_pod()
    run("ip", "-n", client.namespace, "-6", "route", "add", "default", "via", "fd77::1")
    # A router asks for neighbours with its link-local address.
    lab.ip("addr", "add", "fe80::1/64", "dev", "br0", "nodad")
    with inside(lab.node):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    rules = RULES.format(v4=server.ipv4, v6=server.ipv6)
    run("ip", "netns", "exec", lab.node, nft, rules)
    return client, server


async def test_both_ways_of_a_connection_to_a_service_have_the_real_ends(lab: Lab) -> None:
    client, server = behind_a_service(lab)
    async with running(lab) as probes:
        await probes.covers(*(lab.ifindex(pod.interface) for pod in lab.pods))
        for service, client_ip, server_ip, node_ip in (
            ("10.96.0.10", client.ipv4, server.ipv4, "10.77.0.1"),
            ("fd96::10", client.ipv6, server.ipv6, "fd77::1"),
        ):
            forth = (client_ip, server_ip)
            family = socket.AF_INET6 if ":" in service else socket.AF_INET
            with inside(server.namespace):
                listener = socket.create_server((server_ip, PORT), family=family)
            thread = Thread(target=serve, args=(listener,))
            thread.start()
            with inside(client.namespace):
                tcp = socket.socket(family)
            with tcp:
                tcp.settimeout(30)
                tcp.connect((service, SERVICE[service]))
                port = tcp.getsockname()[1]
                tcp.sendall(b"x" * 10)
                assert tcp.recv(100) == b"x" * 10
            thread.join()

            await probes.until(partial(has, 3, probes, *forth))
            await probes.until(partial(has, 2, probes, *forth[::-1]))
            there, back = told(probes, *forth), told(probes, *forth[::-1])
            assert set(there["source_port"]) == set(back["destination_port"]) == {port}
            assert set(there["destination_port"]) == set(back["source_port"]) == {PORT}
            for reports, from_client in ((there, 1), (back, 0)):
                assert set(reports["from_client"]) == {from_client}
                assert {r["front"].tobytes() for r in reports} == {sixteen(service)}
                assert set(reports["front_port"]) == {SERVICE[service]}
                assert {r["masked"].tobytes() for r in reports} == {sixteen(node_ip)}
            # Nothing is told of under an address that is no end's.
            assert not len(told(probes, client_ip, service))
            assert not len(told(probes, server_ip, node_ip))


async def test_ports_that_come_again_are_of_their_new_connection(lab: Lab) -> None:
    first, server = behind_a_service(lab)
    second = lab.add_pod()
    with inside(lab.node):
        Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close").write_text("1")
    async with running(lab) as probes:
        await probes.covers(*(lab.ifindex(pod.interface) for pod in lab.pods))
        with inside(server.namespace):
            listener = socket.create_server((server.ipv4, PORT))
        with listener:
            for client in (first, second):  # the server knows both by one address and port
                with inside(client.namespace):
                    tcp = socket.create_connection(("10.96.0.10", 80), 30, ("", 40000))
                accepted, masked = listener.accept()
                assert masked == ("10.77.0.1", 40000)
                accepted.sendall(b"x")
                assert tcp.recv(1) == b"x"
                await probes.until(partial(has, 2, probes, server.ipv4, client.ipv4))
                for end in (tcp, accepted):  # resets, of which nothing stays
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.close()
                before = len(told(probes, server.ipv4, first.ipv4))
                await trio.sleep(2)
        assert before == len(told(probes, server.ipv4, first.ipv4))
        assert not len(told(probes, server.ipv4, "10.77.0.1"))


ENDS = (("10.96.0.10", "ipv4", "10.77.0.1"), ("fd96::10", "ipv6", "fd77::1"))


@pytest.mark.parametrize(("service", "family", "node_ip"), ENDS)
def test_drops_tcp_events_and_dns_of_it_have_them_too(
    lab: Lab, tmp_path: Path, service: str, family: str, node_ip: str
) -> None:
    client, server = behind_a_service(lab)
    near, far = getattr(client, family), getattr(server, family)
    bracketed = (lambda host: f"[{host}]") if family == "ipv6" else str
    with inside(server.namespace):
        listener = socket.create_server(
            (far, PORT), family=socket.AF_INET6 if family == "ipv6" else socket.AF_INET
        )
    with agent(lab, tmp_path) as node, dnsmasq(server), listener:
        until(lambda: node.has_said("source.changed", "probes"))
        until(lambda: node.samples(10093, "ciliary_interfaces_covered") == 2)
        assert "192.0.2.7" in dig(client, f"@{service}", "+notcp", "www.shop.test", "A")
        with inside(client.namespace):
            tcp = socket.create_connection((service, 80), timeout=30)
        port = tcp.getsockname()[1]
        accepted, _ = listener.accept()
        # Before the connection's addresses are translated, what comes is thrown away.
        run("ip", "netns", "exec", lab.node, program("nft", "nftables"),
            "table inet ciliary_drop { chain early { type filter hook prerouting priority raw; "
            "tcp dport 80 drop; }; }")  # fmt: skip
        tcp.sendall(b"x")

        def told(wanted: Callable[[Any], bool], *options: str) -> list[dict[str, Any]]:
            flows = [
                flow
                for flow in node.observe("--last", "10000", *options)
                if wanted(fields_of(flow))
            ]
            return [f for f in flows if {f["IP"]["source"], f["IP"]["destination"]} == {near, far}]

        def retransmitted(fields: dict[str, Any]) -> bool:
            return fields.get("tcp_event") == "retransmit"

        def opened(fields: dict[str, Any]) -> bool:
            return fields.get("tcp_event") == "open"

        (query, answer) = until(lambda: two(told(lambda _: True, "--type", "l7")))
        drop = until(lambda: told(lambda _: True, "--verdict", "DROPPED"))[0]
        again = until(lambda: told(retransmitted, "--type", "trace-sock"))[0]
        opens = until(lambda: two(told(opened, "--type", "trace-sock", "--port", str(PORT))))
        tcp.close()
        accepted.close()
    for flow in (drop, again, *opens):
        assert flow["IP"]["source"] == near
        assert flow["l4"]["TCP"]["destination_port"] == PORT
        assert flow["l4"]["TCP"]["source_port"] == port
        assert fields_of(flow)["front"] == f"{bracketed(service)}:80"
        assert fields_of(flow)["masked"].startswith(f"{bracketed(node_ip)}:")
    assert fields_of(drop)["drop_reason"] == "NETFILTER_DROP"
    assert query["Summary"] == "DNS Query www.shop.test. A"
    assert (query["IP"]["source"], answer["IP"]["source"]) == (near, far)
    for flow in (query, answer):
        assert fields_of(flow)["front"] == f"{bracketed(service)}:53"


def two(flows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nothing while there are not two, which are all."""
    assert len(flows) <= 2, flows
    return flows if len(flows) == 2 else []
