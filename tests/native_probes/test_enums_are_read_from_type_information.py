"""Enumerators out of BTF that was put together by hand, as the kernel's documentation says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from native_probes.kernel_enums import enum_members, kernel_reasons, traced_names


class Btf:
    """A file of type information; ``base`` is what a module's continues."""

    def __init__(self, base: Btf | None = None) -> None:
        self.strings = b"\0" if base is None else b""
        self._base = 0 if base is None else len(base.strings)
        self._types = b""

    def text(self, value: str) -> int:
        place = self._base + len(self.strings)
        self.strings += value.encode() + b"\0"
        return place

    def integer(self, name: str) -> None:
        self._types += struct.pack("<IIII", self.text(name), 1 << 24, 4, 32)

    def struct(self, name: str, *members: str) -> None:
        self._types += struct.pack("<III", self.text(name), 4 << 24 | len(members), 8)
        for number, member in enumerate(members):
            self._types += struct.pack("<III", self.text(member), 1, 32 * number)

    def enum(self, name: str, *, signed: bool = False, **members: int) -> None:
        info = 6 << 24 | len(members) | (1 << 31 if signed else 0)
        self._types += struct.pack("<III", self.text(name), info, 4)
        for member, number in members.items():
            self._types += struct.pack("<Ii" if signed else "<II", self.text(member), number)

    def write(self, path: Path) -> None:
        head = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self.strings)
        )
        path.write_bytes(head + self._types + self.strings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vmlinux = Btf()
    vmlinux.integer("int")
    vmlinux.struct("skb_drop", "skb_drop_reason")  # names that only look alike
    vmlinux.enum("sub", signed=True, MINUS=-1, ONE=1)
    vmlinux.enum(
        "skb_drop_reason", SKB_NOT_DROPPED_YET=0, SKB_DROP_REASON_NO_SOCKET=3,
        SKB_DROP_REASON_SUBSYS_MASK=0xFFFF0000,
    )  # fmt: skip
    vmlinux.write(tmp_path / "vmlinux")
    module = Btf(vmlinux)
    module.struct("flow", "key", "mask", "other")
    module.enum("ovs_drop_reason", __OVS_DROP_REASON=0x20000, OVS_DROP_METER=0x20005)
    module.write(tmp_path / "openvswitch")
    return tmp_path


def test_members_are_found_by_number(folder: Path) -> None:
    assert enum_members("skb_drop_reason", folder=folder) == {
        0: "SKB_NOT_DROPPED_YET", 3: "SKB_DROP_REASON_NO_SOCKET",
        0xFFFF0000: "SKB_DROP_REASON_SUBSYS_MASK",
    }  # fmt: skip


def test_signed_enums_have_signed_members(folder: Path) -> None:
    assert enum_members("sub", folder=folder) == {-1: "MINUS", 1: "ONE"}


def test_a_modules_enum_continues_the_strings_of_the_kernel(folder: Path) -> None:
    found = enum_members("ovs_drop_reason", "openvswitch", folder=folder)
    assert found == {0x20000: "__OVS_DROP_REASON", 0x20005: "OVS_DROP_METER"}


def test_reasons_have_short_names_and_those_of_modules_their_own(folder: Path) -> None:
    reasons = kernel_reasons(folder)
    assert reasons.name(3) == "NO_SOCKET"
    assert reasons.name(0x20005) == "OVS_DROP_METER"
    assert reasons.numbers["NO_SOCKET"] == 3


@pytest.mark.parametrize("content", [None, b"", b"not BTF at all, but long enough to be"])
def test_without_type_information_there_are_no_names(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "vmlinux").write_bytes(content)
    assert enum_members("skb_drop_reason", folder=tmp_path) == {}
    assert kernel_reasons(tmp_path, traced=tmp_path).name(7) == "NOT_SPECIFIED"


def test_an_enum_that_is_not_there_is_empty(folder: Path) -> None:
    assert enum_members("nothing_of_that_name", folder=folder) == {}
    assert enum_members("skb_drop", folder=folder) == {}  # a struct's name


def test_without_type_information_a_tracepoint_says_what_it_prints(tmp_path: Path) -> None:
    event = tmp_path / "events" / "skb" / "kfree_skb"
    event.mkdir(parents=True)
    (event / "format").write_text(
        "name: kfree_skb\n\tfield:enum skb_drop_reason reason;\toffset:36;\tsize:4;\n"
        'print fmt: "location=%pS reason: %s %s", REC->location, __print_symbolic(REC->protocol, '
        '{ 8, "IP" }), __print_symbolic(REC->reason, { 2, "NOT_SPECIFIED" }, { 3, "NO_SOCKET" })\n'
    )
    names = {2: "NOT_SPECIFIED", 3: "NO_SOCKET"}
    assert names == traced_names("skb/kfree_skb", "reason", folder=tmp_path)
    assert {8: "IP"} == traced_names("skb/kfree_skb", "protocol", folder=tmp_path)
    assert {} == traced_names("skb/kfree_skb", "location", folder=tmp_path)
    assert {} == traced_names("tcp/tcp_send_reset", "reason", folder=tmp_path)
    reasons = kernel_reasons(tmp_path, traced=tmp_path)
    assert reasons.numbers == {name: number for number, name in names.items()}
