"""Names of the kernel's functions by addresses in them, for programs that cannot ask for them.

``/proc/kallsyms`` is walked when an address comes that is new, and not kept: some 200,000 lines
in 0.2 s, for the few places at which a kernel drops packets. It has addresses only for a process
with CAP_SYSLOG (or with ``kernel.kptr_restrict`` 0); others get no names.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KALLSYMS = Path("/proc/kallsyms")
_MOST = 4096
_TEXT = b"tTwW"  # kinds of symbols that are code


class KernelSymbols:
    """Names that were asked for, by address."""

    __slots__ = ("_known", "_path")

    def __init__(self, path: Path = KALLSYMS) -> None:
        self._path = path
        self._known: dict[int, bytes] = {}

    def names(self, addresses: Iterable[int]) -> dict[int, bytes]:
        """Of each address the function that it lies in; b"" where nobody tells."""
        wanted = set(addresses)
        if len(self._known) + len(wanted) > _MOST:
            self._known.clear()
        unknown = np.array(sorted(wanted - self._known.keys()), np.uint64)
        if len(unknown):
            self._known |= dict(zip(unknown.tolist(), self._find(unknown), strict=True))
        return {address: self._known[address] for address in wanted}

    def _find(self, addresses: NDArray[np.uint64]) -> list[bytes]:
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            lines = []
        first: dict[int, bytes] = {}  # of several at one address, as the kernel shows it
        for line in lines:
            start, kind, name, *_ = line.split(None, 3)
            if kind in _TEXT:
                first.setdefault(int(start, 16), name)
        first.pop(0, None)  # hidden
        starts = np.array(sorted(first), np.uint64)
        at = np.searchsorted(starts, addresses, "right")
        return [first[int(starts[i - 1])] if i else b"" for i in at.tolist()]
