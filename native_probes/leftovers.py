"""Finding and removing clsact filters of ours that outlived their agent."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator

from native_probes.links import all_links
from native_probes.rtnetlink import attributes, dump, text
from native_probes.tc import CLSACT_POINT, HANDLE, PRIORITY, Attachment
from native_probes.traffic import PROGRAMS
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS

_GET_FILTER = 46  # RTM_GETTFILTER
_PARENT = {POINT_INGRESS: 0xFFFFFFF2, POINT_EGRESS: 0xFFFFFFF3}
_KIND, _OPTIONS, _BPF_NAME = 1, 2, 7


def find_leftovers() -> list[Attachment]:
    """Filters with our handle, priority and program names, at this namespace's interfaces."""
    return [
        Attachment(link.ifindex, point, link=-1)
        for link in all_links()
        for point in CLSACT_POINT
        if any(_is_ours(body) for body in _filters(link.ifindex, point))
    ]


def remove(found: Iterable[Attachment]) -> int:
    """How many were removed. The qdiscs stay. Raises ``OSError`` without CAP_NET_ADMIN."""
    count = 0
    for attachment in found:
        attachment.detach()
        count += 1
    return count


def _filters(ifindex: int, point: int) -> Iterator[bytes]:
    try:
        yield from dump(_GET_FILTER, struct.pack("=BxHiIII", 0, 0, ifindex, 0, _PARENT[point], 0))
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENODEV, errno.ENOENT}:
            raise  # those say that there is no such qdisc or interface


def _is_ours(body: bytes) -> bool:
    _, handle, _, info = struct.unpack_from("=4xiIII", body)
    of = attributes(body[20:])
    if handle != HANDLE or info >> 16 != PRIORITY or text(of.get(_KIND, b"")) != "bpf":
        return False
    name = text(attributes(of.get(_OPTIONS, b"")).get(_BPF_NAME, b""))
    return name.startswith(tuple(PROGRAMS.values()))  # libbpf puts the program's id behind
