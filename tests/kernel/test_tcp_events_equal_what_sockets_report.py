from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from native_probes.engine import LibbpfEngine
from native_probes.family import Place
from native_probes.kernel_enums import enum_members
from native_probes.tcp import TcpEvents, TcpSettings, tcp_probe
from parsers.probe_tcp import TCP_RECORD, event_name, state_name
from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside, run
from tests.kernel.netem import losing
from tests.kernel.tracing import address, inode, ip, listening, namespaces, wait_for

ACTIVE, PASSIVE = 1, 2
SYN, SYN_ACK = 0x02, 0x12
_SLOW = ("rate", "4kbit", "burst", "2k", "latency", "60s")
_TOTAL_RETRANSMITS = 100  # offset in struct tcp_info


class Told:
    """What a probe has told so far."""

    def __init__(self, probe: TcpEvents) -> None:
        self.probe = probe
        self.rows = np.zeros(0, TCP_RECORD)
        self.lost: dict[str, int] = {}
        self.foreign = 0

    def of(self, namespace: str, event: str, port: int = 0) -> Columns:
        """Events of a namespace; those of a port on either end, if one is said."""
        drained = self.probe.last_drain()
        self.lost |= drained.lost
        self.foreign += drained.ignored.get("foreign", 0)
        self.rows = np.concatenate([self.rows, drained.records["tcp"]])
        rows = self.rows[self.rows["netns"] == inode(namespace)]
        if port:
            rows = rows[(rows["local_port"] == port) | (rows["remote_port"] == port)]
        names = [event_name(r["kind"], r["old_state"], r["state"]) for r in rows]
        found: Columns = rows[np.array([name == event for name in names], np.bool_)]
        return found

    def the_one(self, namespace: str, event: str, port: int = 0) -> np.void:
        wait_for(lambda: len(self.of(namespace, event, port)))
        (found,) = self.of(namespace, event, port)
        return found  # type: ignore[no-any-return]


@pytest.fixture
def told(lab: Lab, pods: tuple[Pod, Pod]) -> Iterator[Told]:
    probe = tcp_probe(Place(LibbpfEngine(), namespaces=namespaces(lab)), TcpSettings())
    try:
        yield Told(probe)
    finally:
        probe.close()


def connect(source: str, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Client's and server's end."""
    with inside(source):
        client = socket.create_connection(server.getsockname()[:2], 10)
    accepted, _ = server.accept()
    return client, accepted


def retransmitted(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    found: int = struct.unpack_from("I", info, _TOTAL_RETRANSMITS)[0]
    return found


def drop(namespace: str, rule: str, tmp_path: Path) -> None:
    """Until ``undo_drop``."""
    rules = tmp_path / "rules"
    rules.write_text(
        "table inet ciliary { chain input { type filter hook input priority 0; "
        f"{rule} counter drop; }}; }}"
    )
    run("ip", "netns", "exec", namespace, "nft", "-f", str(rules))


def undo_drop(namespace: str) -> None:
    run("ip", "netns", "exec", namespace, "nft", "delete", "table", "inet", "ciliary")


@contextmanager
def unheard(
    source: Pod, target: Pod, family: int, tmp_path: Path
) -> Iterator[tuple[socket.socket, socket.socket, int]]:
    """Both ends of a connection and the client's port; what the client sends is dropped."""
    with listening(target.namespace, address(target, family)) as server:
        client, accepted = connect(source.namespace, server)
        with client, accepted:
            port = client.getsockname()[1]
            drop(target.namespace, f"tcp sport {port}", tmp_path)
            yield client, accepted, port


@pytest.mark.parametrize("family", [4, 6])
def test_both_ends_tell_of_an_open_and_of_a_close(
    pods: tuple[Pod, Pod], told: Told, family: int
) -> None:
    source, target = pods
    with listening(target.namespace, address(target, family)) as server:
        port = server.getsockname()[1]
        client, accepted = connect(source.namespace, server)
        with client, accepted:
            client.sendall(b"ping")
            accepted.recv(10)
            accepted.sendall(b"pong")
            client.recv(10)
            client_port = client.getsockname()[1]
    opened = told.the_one(source.namespace, "open", port)
    assert (ip(opened["local_ip"]), opened["local_port"]) == (address(source, family), client_port)
    assert (ip(opened["remote_ip"]), opened["remote_port"]) == (address(target, family), port)
    assert (opened["role"], opened["ip_version"]) == (ACTIVE, family)
    accepted_open = told.the_one(target.namespace, "open", client_port)
    assert (accepted_open["role"], accepted_open["local_port"]) == (PASSIVE, port)
    for namespace, role, local in (
        (source.namespace, ACTIVE, client_port),
        (target.namespace, PASSIVE, port),
    ):
        closed = told.the_one(namespace, "close", client_port)
        assert (closed["role"], closed["local_port"]) == (role, local)
        assert closed["duration_ns"] > 0
        assert closed["rtt_us"] > 0
        assert closed["retransmitted"] == 0
    assert told.lost == {}


@pytest.mark.parametrize("family", [4, 6])
def test_ipv4_in_a_socket_of_both_families_is_ipv4(
    pods: tuple[Pod, Pod], told: Told, family: int
) -> None:
    source, target = pods
    with inside(target.namespace):
        server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with server, inside(source.namespace):
        port = server.getsockname()[1]
        socket.create_connection((address(target, family), port), 10).close()
        opened = told.the_one(target.namespace, "open", port)
    assert (opened["ip_version"], ip(opened["remote_ip"])) == (family, address(source, family))


@pytest.mark.parametrize("family", [4, 6])
def test_a_refused_connection_is_a_reset_there_and_back(
    pods: tuple[Pod, Pod], told: Told, family: int
) -> None:
    source, target = pods
    with inside(source.namespace), pytest.raises(ConnectionRefusedError):
        socket.create_connection((address(target, family), 60101), 10)
    failed = told.the_one(source.namespace, "open_failed", 60101)
    assert failed["role"] == ACTIVE
    received = told.the_one(source.namespace, "reset_received", 60101)
    assert ip(received["remote_ip"]) == address(target, family)
    if not enum_members("sk_rst_reason"):
        return  # before 6.10 the kernel says nothing of a reset that no socket sends
    sent = told.the_one(target.namespace, "reset_sent", 60101)
    assert (ip(sent["local_ip"]), sent["local_port"]) == (address(target, family), 60101)
    assert (ip(sent["remote_ip"]), sent["remote_port"]) == (
        address(source, family), failed["local_port"],
    )  # fmt: skip
    assert sent["ip_version"] == family


@pytest.mark.parametrize("family", [4, 6])
def test_a_reset_of_what_is_left_of_a_closed_socket_has_nothing_of_a_whole_one(
    pods: tuple[Pod, Pod], told: Told, family: int
) -> None:
    if not enum_members("sk_rst_reason"):
        return  # before 6.10 the kernel says nothing of a reset that no socket sends
    source, target = pods
    with listening(target.namespace, address(target, family)) as server:
        client, accepted = connect(source.namespace, server)
        with accepted:
            port = client.getsockname()[1]
            client.close()
            told.the_one(source.namespace, "close", port)  # its end is acknowledged
            accepted.send(b"to nobody")
            sent = told.the_one(source.namespace, "reset_sent", port)
    assert state_name(int(sent["state"])) == "TIME_WAIT"
    assert (sent["local_port"], ip(sent["remote_ip"])) == (port, address(target, family))
    assert (sent["rtt_us"], sent["retransmitted"]) == (0, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_an_aborted_connection_is_a_reset(pods: tuple[Pod, Pod], told: Told, family: int) -> None:
    source, target = pods
    with listening(target.namespace, address(target, family)) as server:
        client, accepted = connect(source.namespace, server)
        with accepted:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            port = client.getsockname()[1]
            client.close()
            sent = told.the_one(source.namespace, "reset_sent", port)
            received = told.the_one(target.namespace, "reset_received", port)
    assert (sent["local_port"], received["remote_port"]) == (port, port)
    assert (sent["role"], received["role"]) == (ACTIVE, PASSIVE)


@pytest.mark.parametrize("family", [4, 6])
def test_retransmits_equal_what_the_socket_reports(
    pods: tuple[Pod, Pod], told: Told, tmp_path: Path, family: int
) -> None:
    source, target = pods
    with unheard(source, target, family, tmp_path) as (client, accepted, port):
        client.sendall(bytes(20_000))
        wait_for(lambda: retransmitted(client) >= 3)
        undo_drop(target.namespace)
        received = 0
        while received < 20_000:
            received += len(accepted.recv(20_000))
        accepted.sendall(b"done")
        client.recv(10)
        expected = retransmitted(client)
        client.close()
        closed = told.the_one(source.namespace, "close", port)
    events = told.of(source.namespace, "retransmit", port)
    assert expected == closed["retransmitted"]
    assert expected == events["segments"].sum()
    assert {port} == set(events["local_port"])
    assert {address(target, family)} == {ip(event["remote_ip"]) for event in events}
    assert told.lost == {}


@pytest.mark.parametrize("family", [4, 6])
def test_retransmits_under_netem_equal_what_the_socket_reports(
    lab: Lab, pods: tuple[Pod, Pod], told: Told, family: int
) -> None:
    source, target = pods
    lab.introduce(source)
    with listening(target.namespace, address(target, family)) as server:
        client, accepted = connect(source.namespace, server)
        with client, accepted:
            port = client.getsockname()[1]
            with losing(source.namespace, 30):
                while retransmitted(client) < 5:
                    client.sendall(bytes(1000))
                    assert 1000 == len(accepted.recv(1000, socket.MSG_WAITALL))
            accepted.sendall(b"done")
            client.recv(10)
            expected = retransmitted(client)
            client.close()
            closed = told.the_one(source.namespace, "close", port)
    events = told.of(source.namespace, "retransmit", port)
    assert expected == closed["retransmitted"] == events["segments"].sum()
    assert told.lost == {}


@pytest.mark.parametrize("family", [4, 6])
def test_a_segment_that_waits_to_be_sent_is_not_sent_again(
    pods: tuple[Pod, Pod], told: Told, family: int
) -> None:
    source, target = pods
    qdisc = ("tc", "-n", source.namespace, "qdisc")
    with listening(target.namespace, address(target, family)) as server:
        client, accepted = connect(source.namespace, server)
        with client, accepted:
            port = client.getsockname()[1]
            run(*qdisc, "add", "dev", "eth0", "root", "tbf", *_SLOW)
            client.sendall(bytes(3_000))  # takes three seconds, and some timeouts
            received = 0
            while received < 3_000:
                received += len(accepted.recv(3_000))
            run(*qdisc, "del", "dev", "eth0", "root")
            accepted.sendall(b"done")
            client.recv(10)
            expected = retransmitted(client)
            client.close()
            told.the_one(source.namespace, "close", port)
    events = told.of(source.namespace, "retransmit", port)
    assert expected == events["segments"].sum()
    assert set(events["error"]) <= {0}
    assert told.lost == {}


@pytest.mark.parametrize("family", [4, 6])
def test_a_try_without_a_route_sends_nothing_again(
    pods: tuple[Pod, Pod], told: Told, tmp_path: Path, family: int
) -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 17):
        pytest.skip("before 6.17 the kernel does not tell of tries that failed")
    source, target = pods
    with unheard(source, target, family, tmp_path) as (client, _, port):
        client.sendall(b"lost")
        wait_for(lambda: retransmitted(client) >= 2)
        run("ip", "-n", source.namespace, f"-{family}", "route", "flush", "table", "main")
        expected = retransmitted(client)
        wait_for(lambda: len(told.of(source.namespace, "retransmit", port)) > expected)
        assert expected == retransmitted(client)
    events = told.of(source.namespace, "retransmit", port)
    assert expected == events["segments"].sum()
    assert {errno.EHOSTUNREACH} == set(events["error"][expected:])
    assert told.lost == {}


@pytest.mark.parametrize("family", [4, 6])
def test_a_lost_syn_is_sent_again(
    pods: tuple[Pod, Pod], told: Told, tmp_path: Path, family: int
) -> None:
    source, target = pods
    drop(target.namespace, "tcp dport 60102", tmp_path)
    with inside(source.namespace):
        client = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
    with client:
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect((address(target, family), 60102))
        wait_for(lambda: len(told.of(source.namespace, "retransmit", 60102)))
    again = told.of(source.namespace, "retransmit", 60102)[0]
    assert (again["tcp_flags"], again["segments"], again["ip_version"]) == (SYN, 1, family)


@pytest.mark.parametrize("family", [4, 6])
def test_a_lost_answer_to_a_syn_is_sent_again(
    pods: tuple[Pod, Pod], told: Told, tmp_path: Path, family: int
) -> None:
    source, target = pods
    drop(source.namespace, "tcp flags & (syn|ack) == (syn|ack)", tmp_path)
    with listening(target.namespace, address(target, family), 60103), inside(source.namespace):
        client = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
        with client:
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect((address(target, family), 60103))
            wait_for(lambda: len(told.of(target.namespace, "retransmit", 60103)))
    again = told.of(target.namespace, "retransmit", 60103)[0]
    assert (again["local_port"], again["tcp_flags"], again["role"]) == (60103, SYN_ACK, PASSIVE)
    assert ip(again["remote_ip"]) == address(source, family)


def test_every_state_is_told_where_that_is_wanted(lab: Lab, pods: tuple[Pod, Pod]) -> None:
    source, target = pods
    place = Place(LibbpfEngine(), namespaces=namespaces(lab))
    probe = tcp_probe(place, TcpSettings(all_states=True))
    told = Told(probe)
    try:
        with listening(target.namespace, target.ipv4) as server:
            client, accepted = connect(source.namespace, server)
            port = client.getsockname()[1]
            client.close()
            accepted.recv(1)
            accepted.close()
            told.the_one(target.namespace, "close", port)
        states = [
            (int(row["old_state"]), int(row["state"]))
            for row in told.rows
            if row["netns"] == inode(target.namespace) and row["remote_port"] == port
        ]
    finally:
        probe.close()
    # SYN_RECV, ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE
    assert states[-4:] == [(3, 1), (1, 8), (8, 9), (9, 7)]


def test_events_of_foreign_namespaces_are_counted_and_not_told(pods: tuple[Pod, Pod]) -> None:
    source, target = pods
    own = frozenset({inode(source.namespace)})
    probe = tcp_probe(Place(LibbpfEngine(), namespaces=own), TcpSettings())
    told = Told(probe)
    try:
        with listening(target.namespace, target.ipv4) as server:
            client, accepted = connect(source.namespace, server)
            port = client.getsockname()[1]
            client.close()
            accepted.close()
        told.the_one(source.namespace, "close", port)
        wait_for(lambda: len(told.of(source.namespace, "close", port)) and told.foreign)
        assert 0 == len(told.of(target.namespace, "open"))
    finally:
        probe.close()


def test_times_are_those_of_the_boot_clock(pods: tuple[Pod, Pod], told: Told) -> None:
    source, target = pods
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with listening(target.namespace, target.ipv4) as server:
        client, accepted = connect(source.namespace, server)
        port = client.getsockname()[1]
        with client, accepted:
            opened = told.the_one(source.namespace, "open", port)
    assert before < opened["time_ns"] < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
