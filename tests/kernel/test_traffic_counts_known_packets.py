from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from native_probes.engine import LibbpfEngine
from native_probes.tc import TcHooks
from native_probes.traffic import TrafficProbe, TrafficSettings
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS
from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside
from tests.kernel.senders import send_udp


@pytest.fixture
def probe() -> Iterator[TrafficProbe]:
    probe = TrafficProbe(LibbpfEngine(), TrafficSettings())
    try:
        yield probe
    finally:
        probe.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def cover(lab: Lab, pod: Pod, probe: TrafficProbe, stack: ExitStack) -> int:
    ifindex = lab.ifindex(pod.interface)
    probe.cover(ifindex)
    with inside(lab.node):
        for point in (POINT_INGRESS, POINT_EGRESS):
            attached = TcHooks().attach(ifindex, point, probe.program(point, link_header=True))
            stack.callback(attached.detach)
    return ifindex


def of(reports: Columns, **wanted: int) -> Columns:
    for name, value in wanted.items():
        reports = reports[reports[name] == value]
    return reports


@pytest.mark.parametrize("family", [4, 6])
def test_every_udp_packet_and_byte_is_reported_once(
    lab: Lab, probe: TrafficProbe, stack: ExitStack, family: int
) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    ifindex = cover(lab, pod, probe, stack)
    to = other.ipv4 if family == 4 else other.ipv6
    sizes = list(range(100, 1100, 100))
    port = send_udp(pod.namespace, (to, 9999), sizes)
    drained = probe.sweep()
    sent = of(drained.reports, protocol=17, point=POINT_INGRESS, source_port=port)
    headers = 14 + 8 + (20 if family == 4 else 40)
    assert len(sizes) == sent["skbs"].sum() == sent["packets"].sum()
    assert sum(sizes) + headers * len(sizes) == sent["bytes"].sum()
    assert {ifindex} == set(sent["ifindex"])
    assert {family} == set(sent["family"])
    assert {9999} == set(sent["destination_port"])
    assert drained.lost == 0
    send_udp(pod.namespace, (to, 9999), [1, 1])
    again = of(probe.sweep().reports, protocol=17, point=POINT_INGRESS, destination_port=9999)
    assert again["skbs"].sum() == 2


def test_a_tcp_connection_is_reported_with_its_opener_and_end(
    lab: Lab, probe: TrafficProbe, stack: ExitStack
) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    with inside(other.namespace):
        server = socket.create_server(("", 8080))

    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(connection.recv(100))
            assert not connection.recv(1)

    cover(lab, pod, probe, stack)
    answering = threading.Thread(target=answer)
    answering.start()
    with inside(pod.namespace):
        client = socket.create_connection((other.ipv4, 8080), 10)
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    client.close()
    answering.join(10)
    server.close()
    tcp = of(probe.sweep().reports, protocol=6)
    there, back = of(tcp, destination_port=8080), of(tcp, source_port=8080)
    assert {1} == set(there["opener"])
    assert {2} == set(back["opener"])
    assert {1} == set(there["first"])
    assert {0} == set(back["first"])
    assert np.bitwise_or.reduce(there["tcp_flags"]) == 0x1B  # SYN, ACK, PSH, FIN
    assert of(there, cause=1)["tcp_flags"].tolist() == [0x02]
