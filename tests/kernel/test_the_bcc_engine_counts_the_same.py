from __future__ import annotations

import os
import socket
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from native_probes.bcc_engine import BccEngine
from native_probes.dns import DnsProbe, DnsSettings
from native_probes.drops import DropProbe, DropSettings
from native_probes.engine import Engine, LibbpfEngine
from native_probes.family import Place
from native_probes.kernel_enums import enum_members, kernel_reasons
from native_probes.report import ProbeUnavailableError
from native_probes.spec import ProbeSpec
from native_probes.tcp import TcpSettings, tcp_probe
from native_probes.traffic import TrafficSettings, traffic_spec
from parsers.probe_records import POINT_INGRESS
from parsers.windows import Columns
from tests.kernel.covered import counting
from tests.kernel.lab import Lab, Pod, inside
from tests.kernel.senders import send_udp
from tests.kernel.tracing import listening, namespaces, wait_for

_PACKAGE = Path("/usr/lib/python3/dist-packages/bcc")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> BccEngine:
    """Skips without bcc, or a tree of kernel headers (any will do for TC programs)."""
    tree = os.environ.get("BCC_KERNEL_SOURCE", f"/lib/modules/{os.uname().release}/build")
    missing = [path for path in (_PACKAGE, Path(tree)) if not path.exists()]
    if missing:
        assert os.environ.get("CI") != "true", f"missing: {missing}"
        pytest.skip(f"the bcc engine wants {', '.join(map(str, missing))}")
    return BccEngine()


@pytest.mark.parametrize("tcx", [True, False])
def test_packets_are_counted_as_by_the_compiled_objects(
    lab: Lab, engine: BccEngine, *, tcx: bool
) -> None:
    counted = {}
    for each in (LibbpfEngine(), engine):
        with counting(lab, TrafficSettings(flows=4096), tcx=tcx, engine=each) as pods:
            sender, receiver = pods.add_pod(), pods.add_pod()
            for to in (receiver.ipv4, receiver.ipv6):
                send_udp(sender.namespace, (to, 9999), [100, 200, 2000])
            seen = pods.reports(
                ifindex=lab.ifindex(sender.interface), point=POINT_INGRESS, protocol=17
            )
            counted[each.name] = sorted(
                (int(r["family"]), int(r["kind"]), int(r["destination_port"]), int(r["skbs"]),
                 int(r["bytes"]), int(r["cause"]))
                for r in seen
            )  # fmt: skip
            pods.equals_the_interface(sender)
            pods.equals_the_interface(receiver)
    assert counted["libbpf"] == counted["bcc"]


def test_dns_messages_are_copied_as_by_the_compiled_objects(lab: Lab, engine: BccEngine) -> None:
    copied = {}
    for each in (LibbpfEngine(), engine):
        with counting(lab, TrafficSettings(flows=4096), engine=each) as pods:
            client, server = pods.add_pod(), pods.add_pod()
            dns = DnsProbe(Place(each, pods.probe), DnsSettings())
            try:
                for to in (server.ipv4, server.ipv6):
                    send_udp(client.namespace, (to, 53), [0, 1, 500, 2000])
                    ask_by_tcp(client.namespace, server.namespace, to)
                pods.reports()  # nothing is under way
                drained = dns.last_drain()
            finally:
                dns.close()
            names = ("protocol", "ip_version", "point", "tcp_flags", "length", "copied")
            copied[each.name] = sorted(
                (*(int(row[name]) for name in names), row["payload"].tobytes()[: row["copied"]])
                for row in drained.records["dns"]
            )
            assert drained.lost == {}
    assert len(copied["libbpf"]) > 4 * 4
    assert copied["libbpf"] == copied["bcc"]


@pytest.fixture
def headers_of_this_kernel(engine: BccEngine) -> None:
    """Skips where they are another's: a program that reads structs wants the right ones."""
    tree = Path(os.environ.get("BCC_KERNEL_SOURCE", f"/lib/modules/{os.uname().release}/build"))
    told = (tree / "include" / "generated" / "utsrelease.h").read_text()
    if os.uname().release not in told:
        pytest.skip("the tree of headers is not of this kernel")


def hide_type_information(monkeypatch: pytest.MonkeyPatch, none: Path) -> None:
    """Simulated: names of the kernel's enums are looked for in a folder that is not there."""
    monkeypatch.setattr("native_probes.drops.kernel_reasons", partial(kernel_reasons, none))
    monkeypatch.setattr("native_probes.tcp.enum_members", partial(enum_members, folder=none))
    monkeypatch.setattr("native_probes.libbpf.KERNEL_BTF", none / "vmlinux")


@pytest.mark.usefixtures("headers_of_this_kernel")
def test_drops_and_tcp_events_are_told_as_by_the_compiled_objects(
    lab: Lab,
    pods: tuple[Pod, Pod],
    engine: BccEngine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source, target = pods
    compiled = Telling(LibbpfEngine(), lab)
    hide_type_information(monkeypatch, tmp_path / "btf")
    told = Telling(engine, lab)
    try:
        for to in (target.ipv4, target.ipv6):
            send_udp(source.namespace, (to, 60301), [10, 20, 9000])
            with inside(source.namespace), pytest.raises(ConnectionRefusedError):
                socket.create_connection((to, 60301), 10)
            ask_by_tcp(source.namespace, target.namespace, to)
        wait_for(compiled.ended)
        wait_for(told.ended)
        time.sleep(0.2)  # for one too many
        assert compiled.ended()
        assert told.ended()
    finally:
        told.close()
        compiled.close()
    assert len(compiled.of("drops")) >= 2 * 3
    assert len(compiled.of("tcp")) > 2 * 4
    assert compiled.of("drops") == told.of("drops")
    assert compiled.of("tcp") == told.of("tcp")
    for reason in ("NO_SOCKET", "NETFILTER_DROP"):
        assert compiled.drops.reasons.numbers[reason] == told.drops.reasons.numbers[reason]


STATE_CHANGE, CLOSED, UDP = 4, 7, 17


class Telling:
    """The drop and the TCP probe of an engine, and what they have told."""

    def __init__(self, engine: Engine, lab: Lab) -> None:
        place = Place(engine, namespaces=namespaces(lab))
        self.drops = DropProbe(place, DropSettings())
        self.tcp = tcp_probe(place, TcpSettings())
        self._told: dict[str, list[Columns]] = {"drops": [], "tcp": []}

    def ended(self) -> bool:
        """By each family, two ends and one refused have closed, and datagrams are dropped."""
        for probe in (self.drops, self.tcp):
            for name, rows in probe.last_drain().records.items():
                self._told[name].append(rows)
        events, drops = np.concatenate(self._told["tcp"]), np.concatenate(self._told["drops"])
        closed = (events["kind"] == STATE_CHANGE) & (events["state"] == CLOSED)
        return bool(closed.sum() >= 2 * 3 and (drops["protocol"] == UDP).sum() >= 2 * 3)

    def of(self, name: str) -> list[tuple[object, ...]]:
        """Records but for their times, and hooks, which only one engine's programs know."""
        rows = np.concatenate(self._told[name])
        fields = [f for f in rows.dtype.names or () if f not in {"time_ns", "duration_ns", "hook"}]
        return sorted(
            tuple(v.tobytes() if isinstance(v, np.ndarray) else v for v in row)
            for row in rows[fields].tolist()
        )

    def close(self) -> None:
        self.drops.close()
        self.tcp.close()


def ask_by_tcp(client: str, server: str, address: str) -> None:
    """A connection to port 53 that asks and is answered, and is closed by both."""
    with listening(server, address, 53) as listener, inside(client):
        with socket.create_connection((address, 53), 10) as asking:
            answering, _ = listener.accept()
            with answering:
                asking.sendall(b"question")
                answering.sendall(answering.recv(100).upper())
                asking.recv(100)


def test_the_samples_of_the_settings_are_those_of_the_program(lab: Lab, engine: BccEngine) -> None:
    with counting(lab, TrafficSettings(sample=1, ring_bytes=1 << 16), engine=engine) as pods:
        sender, receiver = pods.add_pod(), pods.add_pod()
        send_udp(sender.namespace, (receiver.ipv4, 9999), [10] * 20)
        assert [1] * 20 == pods.reports(point=POINT_INGRESS, destination_port=9999)["skbs"].tolist()


def test_what_does_not_compile_is_a_sentence(
    engine: BccEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "traffic.bcc.c").write_text("this is no C\n")
    monkeypatch.setattr("native_probes.bcc_engine._sources", lambda: tmp_path)
    with pytest.raises(ProbeUnavailableError, match="bcc does not compile") as raised:
        engine.load(traffic_spec(TrafficSettings()))
    assert "\n" not in str(raised.value)


def test_a_probe_without_such_a_source_is_a_sentence(engine: BccEngine) -> None:
    with pytest.raises(ProbeUnavailableError, match="no source of the sockets probe"):
        engine.load(ProbeSpec("sockets"))


def test_headers_of_another_kernel_are_refused_for_programs_that_read_structs(
    engine: BccEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "include" / "generated").mkdir(parents=True)
    told = tmp_path / "include" / "generated" / "utsrelease.h"
    told.write_text('#define UTS_RELEASE "4.0.0-other"\n')
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    with pytest.raises(ProbeUnavailableError, match="reads this kernel's structs") as raised:
        DropProbe(Place(engine), DropSettings())
    assert os.uname().release in raised.value.remedy
