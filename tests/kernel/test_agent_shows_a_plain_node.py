"""The whole agent on a node without Cilium, looked at with Hubble's own command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from native_probes.syscalls import TCX_EGRESS, TCX_INGRESS, attached
from tests import fixtures
from tests.kernel.lab import Lab, inside, run
from tests.kernel.name_server import dig, dnsmasq
from tests.kernel.senders import send_udp
from tests.programs import built

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
RIGHTS = ",+bpf,+perfmon,+net_admin"  # and no others
UDP_PORT, CLOSED_PORT = 9999, 81


def until(condition: Callable[[], Any]) -> Any:
    """What becomes true, when it does."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


@dataclass(slots=True)
class RunningAgent:
    """An agent in the node's namespace; ``said`` has its log lines."""

    lab: Lab
    directory: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def has_said(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self.said)

    def page(self, port: int, path: str) -> str:
        """What a page says, be it that something is wrong."""
        with inside(self.lab.node):
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.connect()
        with closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def samples(self, port: int, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.page(port, "/metrics"))
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def observe(self, *options: str) -> list[dict[str, Any]]:
        hubble = built("hubble", "CILIARY_HUBBLE")
        server = f"unix://{self.directory}/hubble.sock"
        told = run(str(hubble), "observe", "--server", server, "-o", "json", *options)
        return [json.loads(line)["flow"] for line in told.splitlines() if '"flow"' in line]


@contextmanager
def agent(
    lab: Lab, directory: Path, *, rights: str = RIGHTS, **sections: Any
) -> Iterator[RunningAgent]:
    config = {
        "cilium": {"socket": f"{directory}/monitor.sock", "release": "1.18"},
        "hubble": {"unix_socket": f"{directory}/hubble.sock"},
        "history": {"flows": 100_000},
        **sections,
    }
    file = directory / "agent.yaml"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "bridge", "agent", "--config", str(file)]
    with subprocess.Popen(
        ["ip", "netns", "exec", lab.node, "setpriv", f"--bounding-set=-all{rights}", *command],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        running = RunningAgent(lab, directory, process)
        assert process.stderr is not None
        reader = Thread(target=running.said.extend, args=(process.stderr,))
        reader.start()
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            reader.join()


def fields_of(flow: dict[str, Any]) -> dict[str, Any]:
    extensions = flow["extensions"]
    assert extensions["@type"] == "type.googleapis.com/google.protobuf.Struct"
    fields: dict[str, Any] = extensions["value"]
    return fields


def knock(namespace: str, address: str) -> None:
    """Try to connect where nobody listens."""
    with inside(namespace):
        tcp = socket.socket()
    with tcp, pytest.raises(ConnectionRefusedError):
        tcp.connect((address, CLOSED_PORT))


def test_flows_and_drops_of_pods_are_seen_by_hubble_and_counted_by_metrics(
    lab: Lab, tmp_path: Path
) -> None:
    client, server = lab.add_pod(), lab.add_pod()
    indices = [lab.ifindex(pod.interface) for pod in lab.pods]
    with inside(server.namespace):
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((server.ipv4, UDP_PORT))
    with listener, agent(lab, tmp_path) as node:
        until(lambda: node.has_said("source.changed", "probes"))
        until(lambda: node.samples(10093, "ciliary_interfaces_covered") == len(lab.pods))
        sizes = [10, 100, 1000]
        port = send_udp(client.namespace, (server.ipv4, UDP_PORT), sizes)
        knock(client.namespace, server.ipv4)

        def sent() -> list[dict[str, Any]]:
            flows = node.observe("--last", "10000", "--from-ip", client.ipv4, "--protocol", "udp")
            told = sum(fields_of(flow)["packets"] for flow in flows)
            return flows if told >= len(sizes) else []

        flows = until(sent)
        # One observation point, though two veths have seen them.
        assert sum(fields_of(flow)["packets"] for flow in flows) == len(sizes)
        assert sum(fields_of(flow)["bytes"] for flow in flows) == sum(sizes) + len(sizes) * 42
        for flow in flows:
            assert flow["IP"]["destination"] == server.ipv4
            assert flow["l4"]["UDP"] == {"source_port": port, "destination_port": UDP_PORT}
            assert flow["interface"] == {"index": indices[0], "name": client.interface}
            assert flow["verdict"] == "FORWARDED"
            assert flow["traffic_direction"] == "EGRESS"
            assert flow["is_reply"] is False

        def dropped() -> list[dict[str, Any]]:
            return node.observe(
                "--last", "10000", "--verdict", "DROPPED", "--to-ip", server.ipv4,
                "--from-ip", client.ipv4,
            )  # fmt: skip

        (drop,) = until(dropped)
        assert drop["l4"]["TCP"]["destination_port"] == CLOSED_PORT
        assert fields_of(drop)["drop_reason"] == "NO_SOCKET"
        assert drop["Summary"].endswith("NO_SOCKET")

        assert node.samples(9965, "hubble_drop_total", protocol="TCP", reason="NO_SOCKET") >= 1
        udp = {"protocol": "UDP", "verdict": "FORWARDED", "direction": "egress"}
        assert node.samples(9965, "ciliary_flow_packets_total", **udp) == len(sizes)
        seen = {"interface": server.interface, "direction": "egress"}
        # Interfaces are read with the sweep.
        until(lambda: node.samples(10093, "ciliary_interface_packets_total", **seen) >= len(sizes))
        books = json.loads(node.page(10094, "/debug/ledger"))
        assert books["balanced"]
        assert books["stages"]["probes"]["in"] > 0
        assert node.page(10094, "/readyz") == "ok\n"
        for probe in ("traffic", "drops", "tcp", "dns"):
            working = {"probe": probe, "state": "works"}
            assert node.samples(10093, "ciliary_probe_state", **working) == 1
    assert node.process.returncode == 0
    with inside(lab.node):
        assert [attached(i, hook) for i in indices for hook in (TCX_INGRESS, TCX_EGRESS)] == [
            [], [], [], [],
        ]  # fmt: skip


def test_both_sides_of_a_plain_host_have_an_identity(lab: Lab, tmp_path: Path) -> None:
    outside = lab.add_uplink("up1")
    lab.ip("route", "add", "default", "via", outside.ipv4)
    lab.ip("-6", "route", "add", "default", "via", outside.ipv6)
    with agent(lab, tmp_path) as node:
        until(lambda: node.has_said("source.changed", "probes"))
        until(lambda: node.samples(10093, "ciliary_interfaces_covered") == 1)
        for source, destination in (
            (lab.node, outside.ipv4), (outside.namespace, "10.88.1.1"), (lab.node, outside.ipv6),
        ):  # fmt: skip
            send_udp(source, (destination, UDP_PORT), [100])

        def told() -> list[dict[str, Any]]:
            flows = node.observe("--last", "1000", "--protocol", "udp", "--type", "trace")
            return flows if len(flows) >= 3 else []

        host, world = (
            {"identity": number, "labels": [f"reserved:{name}"]}
            for number, name in ((1, "host"), (2, "world"))
        )
        for flow in until(told):
            sent = flow["IP"]["source"] in {"10.88.1.1", "fd88:1::1"}
            assert (flow["source"], flow["destination"]) == (
                (host, world) if sent else (world, host)
            )
            assert flow["traffic_direction"] == ("EGRESS" if sent else "INGRESS")
        assert not node.samples(10093, "ciliary_unnamed_sides_total")


def test_names_and_connections_of_pods_are_seen_by_hubble_and_counted_by_metrics(
    lab: Lab, tmp_path: Path
) -> None:
    client, server = lab.add_pod(), lab.add_pod()
    with agent(lab, tmp_path) as node:
        until(lambda: node.has_said("source.changed", "probes"))
        until(lambda: node.samples(10093, "ciliary_interfaces_covered") == len(lab.pods))
        with dnsmasq(server):
            at = f"@{server.ipv4}"
            assert "192.0.2.7" in dig(client, at, "+tcp", "www.shop.test", "A")
            assert "NXDOMAIN" in dig(client, at, "+notcp", "nothing.shop.test", "AAAA")

        def named() -> list[dict[str, Any]]:
            flows = node.observe("--last", "10000", "--type", "l7", "--protocol", "dns")
            return flows if len(flows) >= 4 else []

        summaries = [flow["Summary"] for flow in until(named)]
        assert summaries[0] == "DNS Query www.shop.test. A"
        assert summaries[1].startswith('DNS Answer "192.0.2.')
        assert summaries[2] == "DNS Query nothing.shop.test. AAAA"
        assert summaries[3].startswith("DNS Answer RCode: Non-Existent Domain")
        asked = {"qtypes": "AAAA"}
        assert node.samples(9965, "hubble_dns_queries_total", **asked) == 1
        answered = {**asked, "rcode": "Non-Existent Domain"}
        assert node.samples(9965, "hubble_dns_responses_total", **answered) == 1

        def of_socket() -> set[str]:
            flows = node.observe("--last", "10000", "--type", "trace-sock", "--port", "53")
            told = {fields_of(flow)["tcp_event"] for flow in flows}
            return told if {"open", "close"} <= told else set()

        until(of_socket)
        books = json.loads(node.page(10094, "/debug/ledger"))
        assert books["balanced"]
    assert node.process.returncode == 0


def test_cilium_that_comes_and_goes_is_followed(lab: Lab, tmp_path: Path) -> None:
    client, server = lab.add_pod(), lab.add_pod()
    recording = tmp_path / "stream"
    recording.write_bytes(fixtures.stream_bytes("v1.18", "steady"))
    replay = [sys.executable, "-m", "bridge", "replay", str(recording), f"{tmp_path}/monitor.sock"]
    with agent(lab, tmp_path) as node:
        until(lambda: node.has_said("source.changed", "probes"))
        with subprocess.Popen(
            [*replay, "--loop", "--rate", "500"],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
        ) as cilium:  # fmt: skip
            try:
                until(lambda: node.has_said("source.changed", "cilium"))
                until(lambda: node.samples(10093, "ciliary_events_passed_total", stage="framing"))
                until(lambda: not node.samples(10093, "ciliary_interfaces_covered"))
                probed = node.samples(10093, "ciliary_events_passed_total", stage="probes")
                send_udp(client.namespace, (server.ipv4, UDP_PORT), [100])
                until(
                    lambda: node.samples(9965, "hubble_flows_processed_total", type="Trace") > 100
                )
                after = node.samples(10093, "ciliary_events_passed_total", stage="probes")
                assert after == probed
            finally:
                cilium.terminate()
        until(lambda: node.samples(10093, "ciliary_interfaces_covered") == len(lab.pods))
        books = json.loads(node.page(10094, "/debug/ledger"))
        assert books["balanced"]
        gaps = {entry["stage"]: entry["occasions"] for entry in books["not_observable"]
                if entry["reason"] == "gap"}  # fmt: skip
        assert gaps == {"socket": 1, "probes": 1}
    assert node.process.returncode == 0


def test_an_agent_without_rights_says_what_it_wants_and_lives(lab: Lab, tmp_path: Path) -> None:
    with agent(lab, tmp_path, rights="") as node:
        until(lambda: node.has_said("part.degraded", "probes", "CAP_BPF"))
        assert node.observe("--last", "1") == []
        cilium, probes = sorted(node.page(10094, "/readyz").splitlines())
        assert cilium.startswith("cilium: waiting: there is no socket")
        assert probes.startswith("probes: ")
        assert "CAP_BPF" in probes
    assert not node.has_said("Traceback")
    assert node.process.returncode == 0
