"""Programs before and behind ours, as another agent or a network plugin would have them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from native_probes import libbpf, syscalls
from parsers.probe_records import POINT_INGRESS
from tests.kernel.covered import Counting, counting
from tests.kernel.lab import Lab, Pod, inside, run
from tests.kernel.senders import send_udp
from tests.kernel.tracing import wait_for

OK, SHOT, NEXT = 0, 2, -1
_PROG_LOAD, _MAP_CREATE, _SCHED_CLS, _ARRAY = 5, 0, 3, 2
_BEFORE, _AFTER = 1 << 3, 1 << 4


class Counter:
    """A program that counts its packets and returns what it is told to."""

    def __init__(self, result: int) -> None:
        attributes = bytearray(struct.pack("IIII", _ARRAY, 4, 8, 1)) + bytearray(64)
        self._map = syscalls.bpf(_MAP_CREATE, attributes)
        instructions = (
            (0x62, 10, -4, 0),  # the key on the stack: 0
            (0xBF, 2 | 10 << 4, 0, 0),
            (0x07, 2, 0, -4),
            (0x18, 1 | 1 << 4, 0, self._map),
            (0x00, 0, 0, 0),
            (0x85, 0, 0, 1),  # look it up
            (0x15, 0, 2, 0),
            (0xB7, 1, 0, 1),
            (0xDB, 0 | 1 << 4, 0, 0),  # add 1
            (0xB7, 0, 0, result),
            (0x95, 0, 0, 0),
        )
        code = np.frombuffer(b"".join(struct.pack("<BBhi", *i) for i in instructions), "u1")
        text = np.frombuffer(b"GPL\0", "u1")
        load = bytearray(128)
        struct.pack_into(
            "IIQQ", load, 0, _SCHED_CLS, len(code) // 8, code.ctypes.data, text.ctypes.data
        )
        self.program = syscalls.bpf(_PROG_LOAD, load)

    def count(self) -> int:
        value = np.zeros(1, "<u8")
        assert syscalls.look_up(self._map, np.zeros(1, "<u4"), value)
        return int(value[0])


@pytest.fixture
def pods(lab: Lab) -> Iterator[Counting]:
    with counting(lab) as counted:
        yield counted


def attach(lab: Lab, pod: Pod, counter: Counter, place: int) -> int:
    """At the ingress of a pod's interface, first or last; the fd of its link."""
    ifindex = lab.ifindex(pod.interface)
    with inside(lab.node):
        attributes = struct.pack("IIIIIIQ", counter.program, ifindex, syscalls.TCX_INGRESS, place,
                                 0, 0, 0)  # fmt: skip
        return syscalls.bpf(28, bytearray(attributes))


def ours(counting: Counting, pod: Pod) -> int:
    """Packets that came to our program, as far as they have come."""
    ifindex = counting.lab.ifindex(pod.interface)
    seen = counting.reports_now(ifindex=ifindex, point=POINT_INGRESS, destination_port=9999)
    return int(seen["skbs"].sum())


def delivered(pod: Pod) -> int:
    """UDP datagrams that came for a port that nobody has opened."""
    text = run("ip", "netns", "exec", pod.namespace, "cat", "/proc/net/snmp")
    names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
    return int(values[names.index("NoPorts")])


@pytest.mark.parametrize("result", [NEXT, OK])
def test_programs_before_and_behind_see_every_packet(pods: Counting, result: int) -> None:
    sender, receiver = pods.add_pod(), pods.add_pod()
    before, behind = Counter(NEXT), Counter(result)
    first = attach(pods.lab, sender, before, _BEFORE)
    last = attach(pods.lab, sender, behind, _AFTER)
    with inside(pods.lab.node):
        assert 3 == len(syscalls.attached(pods.lab.ifindex(sender.interface), syscalls.TCX_INGRESS))
    had = before.count(), behind.count()
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 20)
    wait_for(lambda: delivered(receiver) >= 20)
    assert (20, 20) <= (before.count() - had[0], behind.count() - had[1])
    assert before.count() - had[0] == behind.count() - had[1]
    assert 20 == ours(pods, sender)
    os.close(first)
    os.close(last)


def test_a_program_behind_ours_that_drops_still_drops(pods: Counting) -> None:
    sender, receiver = pods.add_pod(), pods.add_pod()
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 5)  # neighbours are known now
    wait_for(lambda: delivered(receiver) == 5)
    last = attach(pods.lab, sender, shooting := Counter(SHOT), _AFTER)
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 20)
    wait_for(lambda: shooting.count() >= 20)
    assert 25 == ours(pods, sender)
    os.close(last)
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 5)
    wait_for(lambda: delivered(receiver) == 10)


def test_a_program_before_ours_that_answers_for_the_packet_is_left_alone(pods: Counting) -> None:
    sender, receiver = pods.add_pod(), pods.add_pod()
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 5)  # neighbours are known now
    wait_for(lambda: delivered(receiver) == 5)
    had = ours(pods, sender)
    first = attach(pods.lab, sender, counter := Counter(OK), _BEFORE)
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 20)
    wait_for(lambda: delivered(receiver) == 25)
    assert counter.count() >= 20
    assert had == ours(pods, sender)  # it ended the chain, and we do not force our way
    os.close(first)


def test_filters_of_clsact_count_the_same_beside_ours(lab: Lab) -> None:
    with counting(lab, tcx=False) as pods:
        sender = pods.add_pod()
        receiver = pods.add_pod()
        behind = Counter(OK)
        with inside(lab.node):
            libbpf.attach_clsact(lab.ifindex(sender.interface), 1, behind.program, 1, 60000)
        had = behind.count()
        send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 20)
        wait_for(lambda: delivered(receiver) == 20)
        assert 20 == ours(pods, sender)
        assert behind.count() - had >= 20
    assert "prio" not in lab.tc("filter", "show", "dev", sender.interface, "egress")
    left = lab.tc("filter", "show", "dev", sender.interface, "ingress")
    assert "pref 60000" in left
    assert "ciliary" not in left


def test_rules_of_iptables_count_the_same_beside_ours(pods: Counting) -> None:
    sender, receiver = pods.add_pod(), pods.add_pod()
    inner = ("ip", "netns", "exec", receiver.namespace)
    run(*inner, "nft", "add table inet t; add chain inet t in { type filter hook input priority 0 ;"
        " } ; add rule inet t in udp dport 9999 counter accept")  # fmt: skip
    send_udp(sender.namespace, (receiver.ipv4, 9999), [50] * 20)
    wait_for(lambda: delivered(receiver) == 20)
    assert "packets 20" in run(*inner, "nft", "list", "ruleset")
    assert 20 == ours(pods, sender)
    pods.equals_the_interface(receiver)
