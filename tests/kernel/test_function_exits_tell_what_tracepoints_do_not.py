"""Probes on the exits of kernel functions, on kernels that allow them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from native_probes.drops import DropProbe, DropSettings
from native_probes.engine import LibbpfEngine
from native_probes.family import Place
from native_probes.netfilter import NetfilterProbe, NetfilterSettings
from native_probes.report import ProbeUnavailableError
from native_probes.sockets import SocketSettings, socket_probe
from native_probes.tcp import TcpEvents
from parsers.probe_drops import DROP_RECORD, HOOKS, VERDICT_RECORD, decided_by
from parsers.probe_tcp import ACCEPT_FAILED, CONNECT_FAILED
from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside, run
from tests.kernel.tracing import address, inode, ip, listening, namespaces, wait_for


@pytest.fixture
def sockets(lab: Lab, pods: tuple[Pod, Pod]) -> Iterator[TcpEvents]:
    try:
        probe = socket_probe(Place(LibbpfEngine(), namespaces=namespaces(lab)), SocketSettings())
    except ProbeUnavailableError as error:
        pytest.skip(f"fexit is refused: {error}")
    try:
        yield probe
    finally:
        probe.close()


def the_one(probe: TcpEvents, kind: int, namespace: str) -> np.void:
    found: list[Columns] = []

    def told() -> int:
        rows = probe.last_drain().records["tcp"]
        found.append(rows[(rows["kind"] == kind) & (rows["netns"] == inode(namespace))])
        return sum(map(len, found))

    wait_for(told)
    (row,) = np.concatenate(found)
    return row  # type: ignore[no-any-return]


@pytest.mark.parametrize("far", ["203.0.113.1", "2001:db8::1"])
def test_a_connection_without_a_route_fails_with_errno(
    pods: tuple[Pod, Pod], sockets: TcpEvents, far: str
) -> None:
    source, _ = pods
    run("ip", "-n", source.namespace, "route", "del", "default")
    with inside(source.namespace), pytest.raises(OSError, match="unreachable"):
        socket.create_connection((far, 443), 10)
    failed = the_one(sockets, CONNECT_FAILED, source.namespace)
    assert (ip(failed["remote_ip"]), failed["remote_port"]) == (far, 443)
    assert failed["error"] == errno.ENETUNREACH


def test_a_server_that_polls_is_no_failure_and_a_closed_one_is(
    pods: tuple[Pod, Pod], sockets: TcpEvents
) -> None:
    _, target = pods
    with listening(target.namespace, target.ipv4, 60201) as server:
        server.setblocking(False)
        for _ in range(5):
            with pytest.raises(BlockingIOError):
                server.accept()
        server.shutdown(socket.SHUT_RD)  # it listens no more
        with pytest.raises(OSError, match="Invalid argument"):
            server.accept()
    failed = the_one(sockets, ACCEPT_FAILED, target.namespace)
    assert (failed["error"], failed["local_port"]) == (errno.EINVAL, 60201)


@pytest.mark.parametrize("family", [4, 6])
def test_a_drop_of_nftables_names_table_and_chain(
    lab: Lab, pods: tuple[Pod, Pod], tmp_path: Path, family: int
) -> None:
    source, target = pods
    place = Place(LibbpfEngine(), namespaces=namespaces(lab))
    rules = tmp_path / "rules"
    rules.write_text(
        "table inet shop { chain guard { type filter hook input priority 0; "
        "udp dport 60202 drop; }; }"
    )
    run("ip", "netns", "exec", target.namespace, "nft", "-f", str(rules))
    try:
        netfilter = NetfilterProbe(place, NetfilterSettings())
    except ProbeUnavailableError as error:
        pytest.skip(f"fexit is refused: {error}")
    drops = DropProbe(place, DropSettings())
    rows, verdicts = np.zeros(0, DROP_RECORD), np.zeros(0, VERDICT_RECORD)
    try:
        with inside(source.namespace):
            kind = socket.AF_INET6 if family == 6 else socket.AF_INET
            with socket.socket(kind, socket.SOCK_DGRAM) as udp:
                udp.sendto(b"hello", (address(target, family), 60202))

        def told() -> bool:
            nonlocal rows, verdicts
            rows = np.concatenate([rows, drops.last_drain().records["drops"]])
            verdicts = np.concatenate([verdicts, netfilter.last_drain().about["verdicts"]])
            return bool(len(verdicts)) and bool((rows["destination_port"] == 60202).any())

        wait_for(told)
    finally:
        drops.close()
        netfilter.close()
    rows = rows[rows["destination_port"] == 60202]
    ((row, words),) = decided_by(rows, verdicts).items()
    assert dict(words) == {"netfilter_table": "shop", "netfilter_chain": "guard"}
    assert HOOKS[rows[row]["hook"]] == "INPUT"
