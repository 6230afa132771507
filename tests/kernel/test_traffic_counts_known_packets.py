from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from parsers.probe_records import CAUSE_FIRST, POINT_INGRESS
from tests.kernel.covered import Counting, chosen, counting
from tests.kernel.lab import Lab, inside
from tests.kernel.senders import send_udp


@pytest.fixture
def pods(lab: Lab) -> Iterator[Counting]:
    with counting(lab) as counted:
        counted.add_pod()
        counted.add_pod()
        yield counted


@pytest.mark.parametrize("family", [4, 6])
def test_every_udp_packet_and_byte_is_reported_once(pods: Counting, family: int) -> None:
    pod, other = pods.lab.pods
    to = other.ipv4 if family == 4 else other.ipv6
    sizes = list(range(100, 1100, 100))
    port = send_udp(pod.namespace, (to, 9999), sizes)
    sent = pods.reports(protocol=17, point=POINT_INGRESS, source_port=port)
    headers = 14 + 8 + (20 if family == 4 else 40)
    assert len(sizes) == sent["skbs"].sum() == sent["packets"].sum()
    assert sum(sizes) + headers * len(sizes) == sent["bytes"].sum()
    assert {pods.lab.ifindex(pod.interface)} == set(sent["ifindex"])
    assert {family} == set(sent["family"])
    assert {9999} == set(sent["destination_port"])
    send_udp(pod.namespace, (to, 9999), [1, 1])
    again = pods.reports(protocol=17, point=POINT_INGRESS, destination_port=9999)
    assert again["skbs"].sum() == 2 + len(sizes)
    assert pods.lost == 0


def test_a_tcp_connection_is_reported_with_its_opener_and_end(pods: Counting) -> None:
    pod, other = pods.lab.pods
    with inside(other.namespace):
        server = socket.create_server(("", 8080))

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(100))
            assert not connection.recv(1)

    answering = threading.Thread(target=answer)
    answering.start()
    with inside(pod.namespace):
        client = socket.create_connection((other.ipv4, 8080), 20)
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    client.close()
    answering.join(20)
    server.close()
    tcp = pods.reports(protocol=6, ifindex=pods.lab.ifindex(pod.interface))
    there, back = chosen(tcp, destination_port=8080), chosen(tcp, source_port=8080)
    assert {1} == set(there["opener"])
    assert {2} == set(back["opener"])
    assert {1} == set(there["first"])
    assert {0} == set(back["first"])
    assert np.bitwise_or.reduce(there["tcp_flags"]) == 0x1B  # SYN, ACK, PSH, FIN
    assert chosen(there, cause=CAUSE_FIRST)["tcp_flags"].tolist() == [0x02]
