"""Which network namespaces tracing programs report of: ``bpf/namespaces.h``.

Tracing programs see the whole machine. A node that is a machine of its own wants just that.
A node that is a container on a shared machine lists the namespaces that are its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from native_probes import syscalls


def list_namespaces(map_fd: int, inodes: Iterable[int]) -> None:
    """Add namespaces to the list, by the inode numbers of ``/proc/<pid>/ns/net``."""
    for inode in inodes:
        syscalls.put(map_fd, np.array([inode], "<u4"), np.ones(1, "u1"))
