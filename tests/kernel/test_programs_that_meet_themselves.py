"""The kernel runs no tracing program within itself, and counts what it left out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_probes import drops, syscalls, tcp
from native_probes.drops import DropProbe, DropSettings
from native_probes.engine import LibbpfEngine
from native_probes.event_counters import RecursionMisses
from native_probes.family import Place
from native_probes.libbpf import BpfObject
from native_probes.tcp import TcpSettings, tcp_probe

GETPPID = {"x86_64": 110, "aarch64": 173}[os.uname().machine]

# What prints hits the tracepoint of printing, on which it hangs.
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

SEC("raw_tp/bpf_trace_printk")
int within_itself(void *context)
{
	if (bpf_get_current_pid_tgid() >> 32 == PROCESS)
		bpf_printk("again");
	return 0;
}

/* registers and the number of a system call */
SEC("raw_tp/sys_enter")
int start(struct bpf_raw_tracepoint_args *context)
{
	if (bpf_get_current_pid_tgid() >> 32 == PROCESS && context->args[1] == GETPPID)
		bpf_printk("once");
	return 0;
}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[BpfObject]:
    if "trace_printk_lock" in Path("/proc/kallsyms").read_text():
        pytest.skip("this kernel holds a lock while it tells of printing")
    source, made = tmp_path / "within.c", tmp_path / "within.o"
    source.write_text(SOURCE)
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    names = (f"-DPROCESS={os.getpid()}", f"-DGETPPID={GETPPID}")
    flags = ("-O2", "-g", "-target", "bpf", include, *names)
    subprocess.run(["clang", *flags, "-c", source, "-o", made], check=True)
    loaded = BpfObject(made.read_bytes())
    try:
        loaded.load()
        yield loaded
    finally:
        loaded.close()


def test_what_was_left_out_is_counted_once(loaded: BpfObject) -> None:
    program = loaded.program_fd("within_itself")
    misses = RecursionMisses([program])
    loaded.attach("within_itself")
    loaded.attach("start")
    assert misses.new() == 0
    for _ in range(5):
        os.getppid()
    assert misses.new() == 5
    assert misses.new() == 0
    printed = Path(f"/proc/self/fdinfo/{program}").read_text()
    assert "recursion_misses:\t5\n" in printed


@pytest.mark.parametrize("family", ["drops", "tcp"])
def test_what_was_left_out_is_booked(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "recursion_misses", lambda program: 7)
    place = Place(LibbpfEngine(), namespaces=frozenset())
    probe = (
        DropProbe(place, DropSettings()) if family == "drops" else tcp_probe(place, TcpSettings())
    )
    try:
        drained = probe.last_drain()
        programs = drops.PROGRAMS if family == "drops" else tcp.PROGRAMS
        assert drained.lost == {"recursion": 7 * len(programs)}
        assert drained.seen == 7 * len(programs)
        assert probe.last_drain().lost == {}
    finally:
        probe.close()
