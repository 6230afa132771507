"""The port-distribution handler: first packets of a conversation by destination port.

Flows are counted by protocol and port, so that the many classes of flows do not multiply
the ports. Protocols without ports are counted by class, under port 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.metrics.classes import MetricClass
from api.metrics.family import Counters, Labels
from api.metrics.handlers.by_class import ClassColumn, ClassSeries
from api.metrics.handlers.packets import PASSED
from api.metrics.handlers.settings import Settings
from api.metrics.label_values import L4_NAMES
from parsers.flow_batch import (
    I64,
    L4_NONE,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    REPLY_FALSE,
    U16,
    U32,
    FlowBatch,
)
from parsers.intern import InternTable

WITH_PORTS: Final = (L4_TCP, L4_UDP, L4_SCTP)

PortLabels: TypeAlias = Callable[[int, int], tuple[Labels, Labels]]
"""Labels and context of a number and a port."""

_KEY: Final = np.dtype([("number", "u4"), ("port", "u4")])
_REMEMBERED: Final = 1 << 16
_PROTOCOLS: Final = 8  # numbers of a layer 4

# By verdict, and by layer 4: numpy's own test of membership is slow for a few rows.
_PASSED: Final = np.zeros(256, dtype=np.bool_)
_PASSED[[*PASSED]] = True
_COUNTED_PROTOCOL: Final = np.zeros(256, dtype=np.uint32)
_COUNTED_PROTOCOL[[*WITH_PORTS]] = WITH_PORTS


class PortSeries:
    """Adds flows to the series of a number and a port; numbers are the caller's, not 0."""

    __slots__ = ("_family", "_generation", "_keys", "_labels_of", "_slots")

    def __init__(self, family: Counters, labels_of: PortLabels) -> None:
        self._family = family
        self._labels_of = labels_of
        self.forget()

    def forget(self) -> None:
        """Numbers mean something else from now on."""
        self._generation = self._family.generation
        self._keys = InternTable(_KEY, 4 * _REMEMBERED)
        self._slots: I64 = np.zeros(0, dtype=np.int64)  # by row of _keys

    def add(self, numbers: U32, ports: U16) -> None:
        """Count one flow for each pair."""
        if len(self._keys) > _REMEMBERED or self._generation != self._family.generation:
            self.forget()
        keys = np.empty(len(numbers), dtype=_KEY)
        keys["number"] = numbers
        keys["port"] = ports
        rows, made = self._keys.lookup(keys)
        if len(made):
            if self._keys.end > len(self._slots):
                grown = np.zeros(2 * self._keys.end, dtype=np.int64)
                grown[: len(self._slots)] = self._slots
                self._slots = grown
            slot, labels_of = self._family.slot, self._labels_of
            self._slots[made] = [slot(*labels_of(*key)) for key in self._keys.rows[made].tolist()]
        np.add.at(self._family.totals, self._slots[rows], 1)


class PortDistribution:
    """Flows that passed, have a layer 4 and are known to be no replies."""

    __slots__ = ("_classes", "_generation", "_portless", "_protocol", "_series", "families")

    def __init__(self, settings: Settings) -> None:
        classes = settings.classes
        family = settings.counters(
            "hubble_port_distribution_total",
            "Numbers of packets distributed by destination port",
            ("port", "protocol"),
            kept=("protocol",),
        )
        self.families: tuple[Counters, ...] = (family,)
        self._classes = classes
        self._generation = classes.generation
        self._portless = ClassSeries(classes, family, _portless_labels)
        self._protocol = ClassColumn(classes, _protocols)
        self._series = PortSeries(family, self._labels_of)

    def wants(self, flow: MetricClass) -> bool:
        """See ``Handler``."""
        return flow.verdict in PASSED and flow.is_reply == REPLY_FALSE and flow.l4 != L4_NONE

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """See ``Handler``."""
        if self._generation != self._classes.generation:
            self._generation = self._classes.generation
            self._series.forget()
        protocol = self._protocol.of(classes)
        counted = (protocol != 0).nonzero()[0]  # numpy is slow to look for numbers
        if not len(counted):
            return
        numbers = self._classes.contexts_of(classes[counted]) * np.uint32(_PROTOCOLS)
        self._series.add(numbers + protocol[counted], batch.destination_port[counted])

    def fold(self, counts: I64) -> None:
        """See ``Handler``."""
        self._portless.fold(counts)

    def _labels_of(self, number: int, port: int) -> tuple[Labels, Labels]:
        context, protocol = divmod(number, _PROTOCOLS)
        return (str(port), L4_NAMES[protocol]), self._classes.context(context)


def _protocols(rows: NDArray[Any]) -> NDArray[np.uint32]:
    """The layer 4 of a class that is counted by port; 0 for others."""
    counted = _PASSED[rows["verdict"]] & (rows["is_reply"] == REPLY_FALSE)
    protocols: NDArray[np.uint32] = _COUNTED_PROTOCOL[rows["l4"]] * counted
    return protocols


def _portless_labels(flow: MetricClass) -> Iterator[Labels]:
    without = flow.l4 not in {L4_NONE, *WITH_PORTS}
    if without and flow.verdict in PASSED and flow.is_reply == REPLY_FALSE:
        yield "0", L4_NAMES[flow.l4]
