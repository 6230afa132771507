"""Which network namespaces tracing programs report of: ``bpf/namespaces.h``.

Tracing programs see the whole machine. A node that is a machine of its own wants just that.
A node that is a container on a shared machine lists the namespaces that are its own.
"""

from __future__ import annotations

import numpy as np

from native_probes import syscalls


class NamespaceList:
    """The list in the kernel, by the inode numbers of ``/proc/<pid>/ns/net``."""

    __slots__ = ("_fd", "_listed")

    def __init__(self, map_fd: int) -> None:
        self._fd = map_fd
        self._listed: frozenset[int] = frozenset()

    def become(self, inodes: frozenset[int]) -> None:
        """Add what is new, and remove what is not there any more."""
        for inode in inodes - self._listed:
            syscalls.put(self._fd, np.array([inode], "<u4"), np.ones(1, "u1"))
        for inode in self._listed - inodes:
            syscalls.delete(self._fd, np.array([inode], "<u4"))
        self._listed = inodes
