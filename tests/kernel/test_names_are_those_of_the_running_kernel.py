"""Enumerators whose numbers are part of the kernel's interface, as its headers have them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_probes.kernel_enums import enum_members, kernel_reasons, traced_names
from native_probes.kernel_symbols import KALLSYMS, KernelSymbols
from tests.kernel.lab import run


@pytest.fixture
def tracefs(tmp_path: Path) -> Iterator[Path]:
    run("mount", "-t", "tracefs", "nodev", str(tmp_path))
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_numbers_that_never_change_are_read_right() -> None:
    types = enum_members("bpf_map_type")  # include/uapi/linux/bpf.h
    assert (types[1], types[27]) == ("BPF_MAP_TYPE_HASH", "BPF_MAP_TYPE_RINGBUF")


def test_the_kernel_has_reasons_or_says_that_it_has_none() -> None:
    reasons = kernel_reasons()
    if enum_members("skb_drop_reason"):
        assert {"NO_SOCKET", "NETFILTER_DROP"} <= set(reasons.numbers)
    else:
        assert reasons.name(0) == "NOT_SPECIFIED"


@pytest.mark.parametrize(
    ("event", "enum", "prefix"),
    [
        ("skb/kfree_skb", "skb_drop_reason", "SKB_DROP_REASON_"),
        ("tcp/tcp_send_reset", "sk_rst_reason", "SK_RST_REASON_"),
    ],
)
def test_a_tracepoint_prints_the_names_that_type_information_has(
    tracefs: Path, event: str, enum: str, prefix: str
) -> None:
    typed = {number: name.removeprefix(prefix) for number, name in enum_members(enum).items()}
    traced = traced_names(event, "reason", folder=tracefs)
    assert bool(typed) is bool(traced)
    assert traced == {number: typed[number] for number in traced}


def test_functions_are_found_by_what_the_kernel_lists() -> None:
    listed = dict(line.split()[2::-2] for line in KALLSYMS.read_text().splitlines())
    addresses = {int(listed[name], 16): name for name in ("udp_rcv", "tcp_v4_rcv")}
    assert KernelSymbols().names(addresses) == {
        address: name.encode() for address, name in addresses.items()
    }
