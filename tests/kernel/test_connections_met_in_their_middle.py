from __future__ import annotations

import socket

import pytest

from parsers.flow_batch import REPLY_FALSE, REPLY_TRUE
from parsers.probe_traffic import traffic_flows
from tests.kernel.covered import counting
from tests.kernel.lab import Lab, inside


@pytest.mark.parametrize("client_speaks_first", [True, False])
def test_their_direction_is_told_by_their_ports(lab: Lab, *, client_speaks_first: bool) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    with inside(other.namespace):
        server = socket.create_server(("", 8080))
    with inside(pod.namespace):
        client = socket.create_connection((other.ipv4, 8080), 20)
    accepted, _ = server.accept()
    with counting(lab) as pods, server, client, accepted:
        pods.cover(pod)
        pods.cover(other)
        speakers = (client, accepted) if client_speaks_first else (accepted, client)
        speakers[0].sendall(b"first")
        assert speakers[1].recv(5) == b"first"
        speakers[1].sendall(b"second")
        assert speakers[0].recv(6) == b"second"
        reports = pods.reports_now(ifindex=lab.ifindex(pod.interface), protocol=6)
    found = traffic_flows(
        reports, frozenset(), frozenset(), frozenset({lab.ifindex(pod.interface)})
    )
    replies = found.flows.flow_class["is_reply"]
    assert {REPLY_FALSE} == set(replies[found.flows.destination_port == 8080])
    assert {REPLY_TRUE} == set(replies[found.flows.source_port == 8080])
    assert {0} == set(reports["opener"])  # nothing proved it
