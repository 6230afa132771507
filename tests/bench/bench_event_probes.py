"""What the probes of drops, TCP and DNS cost an event: in the kernel, and on the way to flows.

``python -m tests.bench.bench_event_probes``, as root. In namespaces of its own it makes
datagrams that nobody takes, TCP connections, and DNS queries. The kernel times each run of a
program (``BPF_ENABLE_STATS``, which adds some 50 ns to each); of DNS, which runs at TC, a test
run is timed as well. Flows are made of what came, a batch of 1,000 at a time.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Callable

import numpy as np

from native_probes import syscalls
from native_probes.dns import DnsProbe, DnsSettings
from native_probes.drops import DropProbe, DropSettings
from native_probes.engine import LibbpfEngine, LoadedProbe
from native_probes.family import Family, Place
from native_probes.tcp import TcpSettings, tcp_probe
from native_probes.traffic import TrafficProbe, TrafficSettings
from parsers.directory import Directory
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_dns import DNS_RECORD
from parsers.probe_pipeline import ProbePipeline
from parsers.windows import Columns
from tests.bench.bench_probes import cost, empty_program
from tests.kernel.frames import IPV4, ethernet, ipv4, udp
from tests.kernel.lab import Lab, inside

_EVENTS, _BATCH = 5000, 1000
_ENABLE_STATS = 32
_INFO_BYTES, _RUN_TIME_AT, _RUN_COUNT_AT = 232, 192, 200
_QUERY = bytes.fromhex("123401000001000000000000") + b"\3www\4shop\4test\0\0\1\0\1"


def runs(loaded: LoadedProbe, program: str) -> tuple[int, int]:
    """Total ns and number of a program's runs."""
    info = np.zeros(_INFO_BYTES, "u1")
    syscalls.bpf(
        15,
        bytearray(struct.pack("IIQ", loaded.program_fd(program), _INFO_BYTES, info.ctypes.data)),
    )
    spent, count = struct.unpack_from("<QQ", info.tobytes(), _RUN_TIME_AT)
    return spent, count


def in_kernel(loaded: LoadedProbe, program: str, work: Callable[[], None]) -> float:
    """Mean ns of a program's runs while something is done."""
    fd = syscalls.bpf(_ENABLE_STATS, bytearray(struct.pack("I", 0)))
    try:
        before = runs(loaded, program)
        work()
        after = runs(loaded, program)
    finally:
        os.close(fd)
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def to_flows(field: str, records: Columns, **about: object) -> float:
    """Ns a record on the way to flows, once everything has been seen."""
    tables = new_tables()
    monitor = MonitorPipeline(tables, Directory(), Ledger())
    pipeline = ProbePipeline(monitor.assembler, monitor.numbers, monitor.ledger)
    best = float("inf")
    for _ in range(5):
        began = time.process_time_ns()
        for start in range(0, len(records), _BATCH):
            part = {field: records[start : start + _BATCH], **about}
            pipeline.parse(ProbeBatch(0, **part))  # type: ignore[arg-type]
        best = min(best, (time.process_time_ns() - began) / len(records))
    return best


def send_datagrams(namespace: str) -> None:
    """To a port of the same namespace that nobody listens on."""
    with inside(namespace):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for _ in range(_EVENTS):
            sender.sendto(b"x", ("127.0.0.1", 9))


def make_connections(namespace: str) -> None:
    """Opened and closed, one after the other."""
    with inside(namespace):
        server = socket.create_server(("127.0.0.1", 0), backlog=16)
        with server:
            for _ in range(_EVENTS // 10):
                with socket.create_connection(server.getsockname()):
                    server.accept()[0].close()


def gathered(probe: Family, field: str, work: Callable[[], None]) -> Columns:
    """What a probe has to tell of some work."""
    probe.last_drain()
    work()
    return probe.last_drain().records[field]


def row(name: str, kernel: float, user: float) -> None:
    """One line of the table."""
    sys.stdout.write(f"{name:<28}{kernel:>14.0f}{user:>18.0f}\n")


def main() -> None:
    """Write a table."""
    sys.stdout.write(f"{'ns an event':<28}{'in the kernel':>14}{'to flows':>18}\n")
    lab = Lab()
    place = Place(LibbpfEngine())
    try:
        with inside(lab.node):
            namespace = lab.node
        drops = DropProbe(place, DropSettings())
        told = gathered(drops, "drops", lambda: send_datagrams(namespace))
        kernel = in_kernel(drops.loaded, "drop_packet", lambda: send_datagrams(namespace))
        row("drop", kernel, to_flows("drops", told, drop_reasons=drops.reasons))
        drops.close()
        quiet = DropProbe(place, DropSettings(quiet=("NO_SOCKET",)))
        kernel = in_kernel(quiet.loaded, "drop_packet", lambda: send_datagrams(namespace))
        row("drop that is quiet", kernel, 0)
        quiet.close()
        tcp = tcp_probe(place, TcpSettings())
        told = gathered(tcp, "tcp", lambda: make_connections(namespace))
        kernel = in_kernel(tcp.loaded, "tcp_state_change", lambda: make_connections(namespace))
        row("change of a TCP state", kernel, to_flows("tcp", told))
        tcp.close()
        traffic = TrafficProbe(place.engine, TrafficSettings())
        dns = DnsProbe(Place(place.engine, traffic), DnsSettings(ring_bytes=1 << 24))
        macs = ("02:00:00:00:00:01", "02:00:00:00:00:02")
        packet = ethernet(*macs, IPV4, ipv4("10.0.0.1", "10.0.0.2", 17, udp(40000, 53, _QUERY)))
        program = dns.loaded.program_fd("dns_tc_in")
        kernel = cost(program, [packet], 20) - cost(empty_program(), [packet], 20)
        told = np.zeros(_EVENTS, DNS_RECORD)
        told[:] = dns.last_drain().records["dns"][0]
        told["time_ns"] = told["source_port"] = np.arange(_EVENTS)
        row("DNS query", kernel, to_flows("dns", told))
        dns.close()
        traffic.close()
    finally:
        lab.close()


if __name__ == "__main__":
    main()
