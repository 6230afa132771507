"""How much memory this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_FLOW_BYTES = 80  # what a flow of the history costs, its share of the tables included
_MOST_FLOWS = 1_000_000


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


def flows_that_fit() -> int:
    """Flows that a history may hold: a million, or what a quarter of the memory holds."""
    return min(_MOST_FLOWS, memory_limit() // 4 // _FLOW_BYTES)
