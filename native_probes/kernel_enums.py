"""Enumerators of the running kernel, read from its type information (BTF).

No number of a kernel's enum ever stands in our code: they move with each release. One walk
over the types (5 MB, some 30 ms) finds an enum by its name. A kernel without type information
says the names of some in how it prints a tracepoint.

Format: kernel ``Documentation/bpf/btf.rst``. A module's file continues the strings of
vmlinux: places below the length of those belong to vmlinux.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from parsers.kernel_drop_reasons import KernelReasons

BTF = Path("/sys/kernel/btf")
VMLINUX = "vmlinux"

TRACEFS = Path("/sys/kernel/tracing")

_PAIR = re.compile(r'\{ *(\d+), *"(\w+)" *\}')
_SYMBOLIC = re.compile(rf"(?:{_PAIR.pattern}(?:, *)?)+")
_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_ENUM = 6
_MORE = {1: 4, 3: 12, 14: 4, 17: 4}  # bytes behind a type: INT, ARRAY, VAR, DECL_TAG
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # for each member, by kind
_SUBSYSTEMS = (("openvswitch", "ovs_drop_reason"), ("mac80211", "mac80211_drop_reason"))


class _Sections(NamedTuple):
    types: bytes
    strings: bytes


def enum_members(name: str, module: str = VMLINUX, *, folder: Path = BTF) -> dict[int, str]:
    """Enumerators by number; empty when there is no such enum or no type information."""
    try:
        sections = _sections((folder / module).read_bytes())
        base = b"" if module == VMLINUX else _sections((folder / VMLINUX).read_bytes()).strings
    except (OSError, struct.error):
        return {}
    return dict(_members(sections.types, base + sections.strings, name.encode() + b"\0"))


def traced_names(event: str, field: str, *, folder: Path = TRACEFS) -> dict[int, str]:
    """Names of a field's values as a tracepoint prints them, without their prefix.

    Empty when there is no such tracepoint or field, or no tracefs. Format: kernel
    ``Documentation/trace/events.rst`` and ``__print_symbolic`` of its ``trace_events``.
    """
    try:
        text = (folder / "events" / event / "format").read_text()
    except OSError:
        return {}
    _, _, values = text.partition(f"__print_symbolic(REC->{field}, ")
    found = _SYMBOLIC.match(values)
    pairs = _PAIR.findall(found[0]) if found else []
    return {int(number): name for number, name in pairs}


def kernel_reasons(folder: Path = BTF, *, traced: Path = TRACEFS) -> KernelReasons:
    """Names of drop reasons, those of modules that are loaded included."""
    core = enum_members("skb_drop_reason", folder=folder)
    if not core:
        return KernelReasons(traced_names("skb/kfree_skb", "reason", folder=traced))
    others: dict[int, str] = {}
    for module, name in _SUBSYSTEMS:
        found = enum_members(name, folder=folder) or enum_members(name, module, folder=folder)
        others |= {number: member for number, member in found.items() if number >> 16}
    return KernelReasons(core, others)


def _sections(btf: bytes) -> _Sections:
    magic, _, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise struct.error("no BTF")
    return _Sections(
        btf[header + types : header + types + types_size],
        btf[header + strings : header + strings + strings_size],
    )


def _members(types: bytes, strings: bytes, wanted: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    while at < len(types):
        name, info, _ = _TYPE.unpack_from(types, at)
        kind, count = info >> 24 & 31, info & 0xFFFF
        at += _TYPE.size
        if kind == _ENUM and strings.startswith(wanted, name):
            signed = info >> 31
            for place, number in struct.iter_unpack(
                "<Ii" if signed else "<II", types[at : at + 8 * count]
            ):
                yield number, strings[place : strings.index(b"\0", place)].decode()
            return
        at += _MORE.get(kind, 0) + _EACH.get(kind, 0) * count
