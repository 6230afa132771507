"""Enumerators whose numbers are part of the kernel's interface, as its headers have them."""

from __future__ import annotations

from native_probes.kernel_enums import enum_members, kernel_reasons


def test_numbers_that_never_change_are_read_right() -> None:
    types = enum_members("bpf_map_type")  # include/uapi/linux/bpf.h
    assert (types[1], types[27]) == ("BPF_MAP_TYPE_HASH", "BPF_MAP_TYPE_RINGBUF")


def test_the_kernel_has_reasons_or_says_that_it_has_none() -> None:
    reasons = kernel_reasons()
    if enum_members("skb_drop_reason"):
        assert {"NO_SOCKET", "NETFILTER_DROP"} <= set(reasons.numbers)
    else:
        assert reasons.name(0) == "NOT_SPECIFIED"
