"""Probes on the exits of kernel functions, on kernels that allow them."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
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


class Deciders:
    """The drop probe and the netfilter probe, and what they tell of packets to a port."""

    def __init__(self, lab: Lab) -> None:
        place = Place(LibbpfEngine(), namespaces=namespaces(lab))
        try:
            self.netfilter = NetfilterProbe(place, NetfilterSettings())
        except ProbeUnavailableError as error:
            pytest.skip(f"fexit is refused: {error}")
        self._drops = DropProbe(place, DropSettings())
        self._rows, self._verdicts = np.zeros(0, DROP_RECORD), np.zeros(0, VERDICT_RECORD)

    def words(self, port: int, count: int) -> list[dict[str, str | float]]:
        """Of each of so many drops, and of no more: who decided it, and at which hook."""
        wait_for(lambda: len(self._to(port)) >= count)
        time.sleep(0.2)  # for one too many
        rows = self._to(port)
        assert len(rows) == count
        # Nothing else is dropped here, and an emulated processor may be kept waiting between.
        decided = decided_by(rows, self._verdicts, within_ns=10_000_000_000)
        return [
            {"hook": HOOKS[row["hook"]], **dict(decided.get(number, ()))}
            for number, row in enumerate(rows)
        ]

    def _to(self, port: int) -> Columns:
        self._rows = np.concatenate([self._rows, self._drops.last_drain().records["drops"]])
        verdicts = self.netfilter.last_drain().about["verdicts"]
        self._verdicts = np.concatenate([self._verdicts, verdicts])
        found: Columns = self._rows[self._rows["destination_port"] == port]
        return found

    def close(self) -> None:
        self._drops.close()
        self.netfilter.close()


@pytest.fixture
def deciders(lab: Lab) -> Iterator[Callable[[], Deciders]]:
    """To be called when the rules are there, as they load the modules of their functions."""
    made: list[Deciders] = []

    def make() -> Deciders:
        made.append(Deciders(lab))
        return made[-1]

    yield make
    for each in made:
        each.close()


def in_namespace(namespace: str, *command: str) -> str:
    return run("ip", "netns", "exec", namespace, *command)


def nft(namespace: str, rules: str, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(rules)
    in_namespace(namespace, "nft", "-f", str(tmp_path / "rules"))


def send_udp(source: Pod, to: str, port: int, *, count: int = 1) -> None:
    """So many datagrams, each of a port of its own."""
    with inside(source.namespace):
        for _ in range(count):
            kind = socket.AF_INET6 if ":" in to else socket.AF_INET
            with socket.socket(kind, socket.SOCK_DGRAM) as udp:
                udp.sendto(b"hello", (to, port))


def counter_of_tracking(namespace: str, name: str) -> int:
    """A sum over CPUs of the kernel's own counters of connection tracking."""
    head, *rows = in_namespace(namespace, "cat", "/proc/net/stat/nf_conntrack").splitlines()
    at = head.split().index(name)
    return sum(int(row.split()[at], 16) for row in rows)


@pytest.fixture
def way_out(lab: Lab, pods: tuple[Pod, Pod]) -> str:
    """An address of the second pod that the node has to forward to."""
    _, target = pods
    far = "10.99.0.1"
    with inside(lab.node):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    run("ip", "-n", target.namespace, "addr", "add", f"{far}/32", "dev", "lo")
    lab.ip("route", "add", f"{far}/32", "via", target.ipv4)
    return far


@pytest.mark.parametrize("family", [4, 6])
def test_a_drop_of_nftables_names_table_and_chain(
    pods: tuple[Pod, Pod], deciders: Callable[[], Deciders], tmp_path: Path, family: int
) -> None:
    source, target = pods
    nft(
        target.namespace,
        "table inet shop { chain guard { type filter hook input priority 0; "
        "udp dport 60202 drop; }; }",
        tmp_path,
    )
    told = deciders()
    send_udp(source, address(target, family), 60202)
    (words,) = told.words(60202, 1)
    assert words == {"hook": "INPUT", "netfilter_table": "shop", "netfilter_chain": "guard"}


@pytest.mark.parametrize("family", [4, 6])
def test_a_drop_of_iptables_legacy_names_the_table(
    pods: tuple[Pod, Pod], deciders: Callable[[], Deciders], family: int
) -> None:
    source, target = pods
    program = "iptables-legacy" if family == 4 else "ip6tables-legacy"
    for table, chain, port in (("filter", "INPUT", 60203), ("raw", "PREROUTING", 60204)):
        rule = ("-t", table, "-A", chain, "-p", "udp", "--dport", str(port), "-j", "DROP")
        in_namespace(target.namespace, program, *rule)
    told = deciders()
    for table, chain, port in (("filter", "INPUT", 60203), ("raw", "PREROUTING", 60204)):
        send_udp(source, address(target, family), port)
        (words,) = told.words(port, 1)
        assert words == {"hook": chain, "netfilter_table": table, "netfilter_chain": chain}


def test_a_drop_of_address_translation_names_function_and_chain(
    lab: Lab,
    pods: tuple[Pod, Pod],
    way_out: str,
    deciders: Callable[[], Deciders],
    tmp_path: Path,
) -> None:
    source, target = pods
    # there is no address to hide behind, and so none that answers for the gateway
    run("ip", "-n", source.namespace, "neigh", "replace", "10.77.0.1", "dev", "eth0",
        "lladdr", lab.mac(lab.node, "br0"), "nud", "permanent")  # fmt: skip
    lab.ip("addr", "del", "10.77.0.1/24", "dev", "br0")
    lab.ip("route", "add", "10.77.0.0/24", "dev", "br0")
    lab.ip("route", "replace", f"{way_out}/32", "via", target.ipv4)
    nft(
        lab.node,
        "table ip hide { chain behind { type nat hook postrouting priority 100; "
        "udp dport 60205 masquerade; }; }",
        tmp_path,
    )
    told = deciders()
    send_udp(source, way_out, 60205, count=3)
    assert told.words(60205, 3) == 3 * [
        {
            "hook": "POSTROUTING",
            "netfilter_function": "nf_nat_inet_fn",
            "netfilter_table": "hide",
            "netfilter_chain": "behind",
        }
    ]


def test_a_connection_that_cannot_be_added_is_a_drop_of_tracking(
    lab: Lab,
    pods: tuple[Pod, Pod],
    way_out: str,
    deciders: Callable[[], Deciders],
    tmp_path: Path,
) -> None:
    source, target = pods
    nft(
        lab.node,
        "table ip hide { chain behind { type nat hook postrouting priority 100; "
        "tcp dport 60206 masquerade to :1000-1000; }; }",
        tmp_path,
    )
    told = deciders()
    before = counter_of_tracking(lab.node, "insert_failed")
    with listening(target.namespace, way_out, 60206), inside(source.namespace):
        with socket.create_connection((way_out, 60206), 10), socket.socket() as second:
            second.setblocking(False)
            with suppress(BlockingIOError):
                second.connect((way_out, 60206))
            wait_for(lambda: counter_of_tracking(lab.node, "insert_failed") > before)
            second.close()  # no SYN is sent again
            failed = counter_of_tracking(lab.node, "insert_failed") - before
            assert told.words(60206, failed) == failed * [
                {"hook": "POSTROUTING", "netfilter_function": "__nf_conntrack_confirm"}
            ]


def test_a_full_table_is_a_drop_of_tracking(
    pods: tuple[Pod, Pod], deciders: Callable[[], Deciders], tmp_path: Path
) -> None:
    source, target = pods
    nft(
        target.namespace,
        "table ip watch { chain each { type filter hook input priority 0; "
        "ct state new accept; }; }",
        tmp_path,
    )
    told = deciders()
    most = Path("/proc/sys/net/netfilter/nf_conntrack_max")
    before, usual = counter_of_tracking(target.namespace, "drop"), most.read_text()
    most.write_text("1")
    try:
        send_udp(source, target.ipv4, 60207, count=10)
        dropped = counter_of_tracking(target.namespace, "drop") - before
    finally:
        most.write_text(usual)
    assert dropped > 0
    tracking: dict[str, str | float] = {
        "hook": "PREROUTING",
        "netfilter_function": "nf_conntrack_in",
    }
    words = told.words(60207, 10)  # the others come to a closed port
    assert dropped == words.count(tracking)
    assert 10 - dropped == words.count({"hook": ""})
