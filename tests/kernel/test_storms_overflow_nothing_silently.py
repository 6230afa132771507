from __future__ import annotations

import socket

from native_probes.traffic import TrafficSettings
from parsers.probe_records import CAUSE_PACKET, CAUSE_SWEEP, POINT_INGRESS
from tests.kernel import frames
from tests.kernel.covered import counting
from tests.kernel.lab import Lab, inside
from tests.kernel.senders import send_udp

B4 = "10.77.0.3"


def storm(lab: Lab, flows: int, rounds: int = 1) -> int:
    """Packets of so many flows from the first pod to the second; how many were sent."""
    sender, receiver = lab.pods
    addresses = lab.mac(sender.namespace, "eth0"), lab.mac(receiver.namespace, "eth0")
    made = [
        frames.ethernet(*addresses, frames.IPV4,
                        frames.ipv4("10.77.0.2", B4, 17, frames.udp(1024 + n, 9999)))
        for n in range(flows)
    ]  # fmt: skip
    with inside(sender.namespace):
        for _ in range(rounds):
            frames.send_frames("eth0", made)
    return flows * rounds


def test_flows_that_find_no_room_are_booked_as_lost(lab: Lab) -> None:
    with counting(lab, TrafficSettings(flows=1024, ring_bytes=4096)) as pods:
        pods.add_pod()
        pods.add_pod()
        sent = storm(lab, 4000, rounds=3)
        reports = pods.reports()
        told = reports["skbs"].sum()
        counted = pods.totals()["skbs"].sum()
        assert sent <= pods.totals(point=POINT_INGRESS)["skbs"].sum()
        assert 0 < pods.lost == counted - told
        assert pods.probe.statistics().evicted > 0


def test_events_that_find_no_room_are_counted_with_their_flows(lab: Lab) -> None:
    with counting(lab, TrafficSettings(ring_bytes=4096)) as pods:
        sender = pods.add_pod()
        pods.add_pod()
        sent = storm(lab, 2000)
        reports = pods.reports(point=POINT_INGRESS, destination_port=9999)
        assert sent == reports["skbs"].sum()
        assert 0 < (reports["cause"] == CAUSE_SWEEP).sum() < sent
        assert pods.lost == 0
        assert pods.probe.statistics().folded > 1000
        pods.equals_the_interface(sender)


def test_each_packet_is_told_of_if_wanted(lab: Lab) -> None:
    with counting(lab, TrafficSettings(sample=1)) as pods:
        sender, receiver = pods.add_pod(), pods.add_pod()
        send_udp(sender.namespace, (receiver.ipv4, 9999), list(range(100, 150)))
        reports = pods.reports(point=POINT_INGRESS, destination_port=9999)
        assert {1} == set(reports["skbs"])
        assert [size + 42 for size in range(100, 150)] == reports["bytes"].tolist()
        assert 49 == (reports["cause"] == CAUSE_PACKET).sum()  # and the first
        pods.equals_the_interface(sender)


def test_samples_and_counters_together_are_exact(lab: Lab) -> None:
    with counting(lab, TrafficSettings(sample=10)) as pods:
        sender, receiver = pods.add_pod(), pods.add_pod()
        send_udp(sender.namespace, (receiver.ipv4, 9999), [10] * 1000)
        reports = pods.reports(point=POINT_INGRESS, destination_port=9999)
        assert 1000 == reports["skbs"].sum()
        assert 20 < (reports["cause"] == CAUSE_PACKET).sum() < 300
        pods.equals_the_interface(sender)


def test_a_flow_that_was_idle_is_forgotten_and_begins_anew(lab: Lab) -> None:
    with counting(lab, TrafficSettings(idle_seconds=0.0)) as pods:
        sender, receiver = pods.add_pod(), pods.add_pod()
        with inside(sender.namespace):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with udp:
            for count in range(1, 4):
                for _ in range(5):
                    udp.sendto(b"", (receiver.ipv4, 9999))
                seen = pods.reports(point=POINT_INGRESS, destination_port=9999)
                assert 5 * count == seen["skbs"].sum()
        assert 3 == (seen["cause"] == 1).sum()
        assert pods.lost == 0
        assert pods.probe.statistics().evicted == 0
