"""How much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes: the limit of the control group (version 2 or 1), or what the machine has.

    Inside a container the mount shows the container's own group.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            return min(int(text), machine)
    return machine
