from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from native_probes.bcc_engine import BccEngine
from native_probes.dns import DnsProbe, DnsSettings
from native_probes.engine import LibbpfEngine
from native_probes.family import Place
from native_probes.report import ProbeUnavailableError
from native_probes.spec import ProbeSpec
from native_probes.traffic import TrafficSettings, traffic_spec
from parsers.probe_records import POINT_INGRESS
from tests.kernel.covered import counting
from tests.kernel.lab import Lab, inside
from tests.kernel.senders import send_udp
from tests.kernel.tracing import listening

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
    with pytest.raises(ProbeUnavailableError, match="no source of the drops probe"):
        engine.load(ProbeSpec("drops"))
