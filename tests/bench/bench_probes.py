"""What the traffic program costs a packet, by the kernel's own test runs.

``python -m tests.bench.bench_probes``, as root. Figures are ns of a run, less those of a
program that does nothing; 256 UDP flows, one after the other. A run is timed by the kernel,
which runs the program on a made-up packet in this process: caches are warmer than in
traffic, but nothing else is in the figure.

* hit: the flow is known, and is counted
* told: the flow is known, and an event is sent (sampling set to each packet)
* insert: the flow is new, so it is inserted and an event is sent
* silent insert: the same, while nobody empties the ring
* miss: the interface is not covered, so nothing is counted
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

from native_probes import syscalls
from native_probes.engine import LibbpfEngine
from native_probes.traffic import TrafficProbe, TrafficSettings
from parsers.probe_records import POINT_INGRESS
from tests.kernel.frames import IPV4, IPV6, ethernet, ipv4, ipv6, udp

_FLOWS, _ROUNDS = 256, 40
_LOOPBACK = 1  # where a test run's packet is
_MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_PROG_LOAD, _SCHED_CLS = 5, 3


def empty_program() -> int:
    """The fd of ``return TCX_NEXT``."""
    code = np.frombuffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0), "u1")
    text = np.frombuffer(b"GPL\0", "u1")
    attributes = bytearray(128)
    struct.pack_into("IIQQ", attributes, 0, _SCHED_CLS, 2, code.ctypes.data, text.ctypes.data)
    return syscalls.bpf(_PROG_LOAD, attributes)


def packets(family: int) -> Iterator[bytes]:
    """Of ever new flows."""
    number = 0
    while True:
        body = udp(1024 + number % 60000, 53000 + number // 60000, bytes(32))
        if family == socket.AF_INET:
            yield ethernet(*_MACS, IPV4, ipv4("10.0.0.1", "10.0.0.2", 17, body))
        else:
            yield ethernet(*_MACS, IPV6, ipv6("fd00::1", "fd00::2", 17, body))
        number += 1


def cost(program: int, flows: list[bytes], repeat: int, rounds: int = _ROUNDS) -> float:
    """Median over rounds of the mean ns of a run."""
    return median(
        sum(syscalls.test_run(program, packet, repeat)[1] for packet in flows) / len(flows)
        for _ in range(rounds)
    )


def insert_cost(program: int, new: Iterator[bytes], between: Callable[[], object]) -> float:
    """Median over rounds of the mean ns of the first run of each of 256 new flows."""
    figures = []
    for _ in range(_ROUNDS):
        between()
        figures.append(cost(program, [next(new) for _ in range(_FLOWS)], 1, 1))
    return median(figures)


def measure(family: int) -> dict[str, float]:
    """Figures by case, less the empty program's."""
    engine, nothing = LibbpfEngine(), empty_program()
    new = packets(family)
    flows = [next(new) for _ in range(_FLOWS)]
    once, often = cost(nothing, flows, 1), cost(nothing, flows, 100)
    found = {}
    for sample in (0, 1):
        probe = TrafficProbe(engine, TrafficSettings(sample=sample))
        program = probe.program(POINT_INGRESS, link_header=True)
        found["miss"] = cost(program, flows, 100) - often
        probe.cover(_LOOPBACK)
        cost(program, flows, 1, 1)
        if sample:
            probe.events()
            figures = []
            for _ in range(_ROUNDS):
                probe.events()
                figures.append(cost(program, flows, 40, 1))
            found["told"] = median(figures) - often
        else:
            found["hit"] = cost(program, flows, 100) - often
            found["insert"] = insert_cost(program, new, probe.sweep) - once
            cost(program, [next(new) for _ in range(12000)], 1, 1)
            found["silent insert"] = insert_cost(program, new, lambda: None) - once
        probe.close()
    return found


def main() -> None:
    """Write a table."""
    cases = ("hit", "told", "insert", "silent insert", "miss")
    sys.stdout.write("ns a packet  " + "".join(f"{case:>15}" for case in cases) + "\n")
    for name, family in (("IPv4", socket.AF_INET), ("IPv6", socket.AF_INET6)):
        figures = measure(family)
        row = "".join(f"{figures[case]:>15.0f}" for case in cases)
        sys.stdout.write(f"{name:<13}{row}\n")


if __name__ == "__main__":
    main()
