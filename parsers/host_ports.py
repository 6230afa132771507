"""Pods behind ports of their node: those in the host's network, and those with a hostPort.

An address of a node does not tell them apart, a port of a protocol does: both are one number,
``L4_* << 16 | port``. Ports and buckets of addresses are looked up first, for all flows of a batch
at once, as few flows are such.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from parsers.address_table import ADDRESS, BUCKETS, buckets_of
from parsers.flow_batch import U32
from parsers.timeline import FOREVER, Timeline

_PORT = 0xFFFF


class HostPorts:
    """Numbers of owners by address (16 bytes), port and time (ns)."""

    __slots__ = ("_at", "_buckets", "_late", "_ports")

    def __init__(self) -> None:
        self._at: dict[tuple[bytes, int], Timeline[int]] = {}
        self._buckets = np.zeros(BUCKETS, dtype=np.bool_)
        self._ports = np.zeros(1 << 16, dtype=np.bool_)
        self._late: dict[tuple[bytes, int], int] = {}

    def __len__(self) -> int:
        """Ports at addresses that some pod has or had."""
        return len(self._at)

    def set(self, address: bytes, port: int, number: int, since: int) -> None:
        """From ``since`` on the port is ``number``'s for good; 0: nobody's, until the next."""
        timeline = self._at.setdefault((address, port), Timeline())
        if number:
            timeline.cut(since)
        timeline.set(number or None, since)
        self._late[address, port] = min(since, self._late.get((address, port), FOREVER))
        self._ports[port & _PORT] = True
        self._buckets[buckets_of(np.frombuffer(address, dtype=ADDRESS))] = True

    def may_have(self, buckets: NDArray[np.uint16], ports: U32) -> NDArray[np.bool_]:
        """Where ``at`` is worth asking."""
        found: NDArray[np.bool_] = self._ports[ports & _PORT] & self._buckets[buckets]
        return found

    def take_late(self) -> dict[tuple[bytes, int], int]:
        """Addresses and ports that changed since this was asked last, and since when (ns) they
        differ; for the one who corrects what was named too early.
        """
        late, self._late = self._late, {}
        return late

    def at(self, address: bytes, port: int, time: int) -> int:
        """Whose the port was; 0: nobody's."""
        timeline = self._at.get((address, port))
        return (timeline.at(time) or 0) if timeline is not None else 0

    def forget(self, before: int) -> None:
        """Drop what no event after ``before`` needs."""
        for key, timeline in list(self._at.items()):
            timeline.forget(before)
            if timeline.is_over(before):
                del self._at[key]

    def numbers(self) -> Iterator[int]:
        """All that are in use."""
        for timeline in self._at.values():
            yield from filter(None, timeline.values())
