"""Which network namespaces are this node's, where the node is not the whole machine.

Tracing programs see all of the machine. In a cluster of containers a node is a network
namespace, and its pods' namespaces are those to which the pods' interfaces lead. The kernel
numbers the namespaces that a namespace's interfaces lead to; here the numbers are matched
with the namespaces that can be opened, by name (``/run/netns``, where container runtimes
keep them) or by a process.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from native_probes.links import Link
from native_probes.rtnetlink import ask, attributes

_GET_NSID = 90  # RTM_GETNSID; attributes of net_namespace.h
_NSID, _FD = 1, 3

_ONLY_INITIAL = Path("/proc/sys/net/core/netdev_budget")
"""A setting of the machine: the kernel shows it in its first network namespace alone."""


def is_whole_machine() -> bool:
    """Whether this thread's network namespace is the machine's own."""
    return _ONLY_INITIAL.exists()


def node_namespaces(
    pod_links: Iterable[Link],
    *,
    named: Path = Path("/run/netns"),
    processes: Path = Path("/proc"),
) -> frozenset[int]:
    """Inode numbers of this thread's namespace and of those to which interfaces lead."""
    wanted = {link.peer_namespace for link in pod_links} - {-1}
    found = {Path("/proc/thread-self/ns/net").stat().st_ino}
    tried = set(found)
    candidates = chain(named.glob("*"), processes.glob("[0-9]*/ns/net"))
    for fd in _opened(candidates):
        if not wanted:
            os.close(fd)
            break
        try:
            inode = os.fstat(fd).st_ino
            if inode not in tried and (number := _number(fd)) in wanted:
                found.add(inode)
                wanted.remove(number)
            tried.add(inode)
        finally:
            os.close(fd)
    return frozenset(found)


def _opened(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        try:
            yield os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # gone, or somebody else's


def _number(fd: int) -> int:
    """What this namespace calls another one; -1 if it has no name for it."""
    body = struct.pack("=B3xHHI", socket.AF_UNSPEC, 8, _FD, fd)
    try:
        _, answer = ask(_GET_NSID, body)
    except OSError:
        return -1  # no network namespace
    return int.from_bytes(attributes(answer[4:]).get(_NSID, b"\xff" * 4), "little", signed=True)
