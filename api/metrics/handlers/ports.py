"""The port-distribution handler: first packets of a conversation by destination port.

A table over protocol and port gives the slot of each flow's series, so that a flow adds
straight to its total. Protocols without ports are counted by class, under port 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.metrics.classes import MetricClass, MetricClasses
from api.metrics.family import Counters, Labels
from api.metrics.handlers.by_class import ClassColumn, ClassSeries
from api.metrics.handlers.packets import PASSED
from api.metrics.label_values import L4_NAMES
from parsers.flow_batch import (
    I64,
    L4_NONE,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    REPLY_FALSE,
    U32,
    FlowBatch,
)

_WITH_PORTS = (L4_TCP, L4_UDP, L4_SCTP)
_PORTS = 1 << 16


class PortDistribution:
    """Flows that passed, have a layer 4 and are known to be no replies."""

    __slots__ = ("_base", "_portless", "_slots", "families")

    def __init__(self, classes: MetricClasses) -> None:
        family = Counters(
            "hubble_port_distribution_total",
            "Numbers of packets distributed by destination port",
            ("port", "protocol"),
        )
        self.families: tuple[Counters, ...] = (family,)
        self._portless = ClassSeries(classes, family, _portless_labels)
        self._base = ClassColumn(classes, _base)
        # By protocol and port, the first block unused; -1 is "no series yet".
        self._slots = np.full((1 + len(_WITH_PORTS)) * _PORTS, -1, dtype=np.int32)

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """See ``Handler``."""
        base = self._base.of(classes)
        counted = base.nonzero()[0]
        keys = base[counted] + batch.destination_port[counted]
        slots = self._slots[keys]
        if len(slots) and slots.min() < 0:
            self._admit(np.unique(keys[slots < 0]))
            slots = self._slots[keys]
        np.add.at(self.families[0].totals, slots, 1)

    def fold(self, counts: I64) -> None:
        """See ``Handler``."""
        self._portless.fold(counts)

    def _admit(self, keys: NDArray[Any]) -> None:
        for key in keys.tolist():
            block, port = divmod(key, _PORTS)
            labels = (str(port), L4_NAMES[_WITH_PORTS[block - 1]])
            self._slots[key] = self.families[0].slot(labels)


def _base(rows: NDArray[Any]) -> NDArray[np.uint32]:
    """Where the ports of a class begin in the table of slots; 0 for not counted."""
    base = np.zeros(len(rows), dtype=np.uint32)
    counted = np.isin(rows["verdict"], PASSED) & (rows["is_reply"] == REPLY_FALSE)
    for block, l4 in enumerate(_WITH_PORTS, start=1):
        base[counted & (rows["l4"] == l4)] = block * _PORTS
    return base


def _portless_labels(flow: MetricClass) -> Iterator[Labels]:
    without = flow.l4 not in {L4_NONE, *_WITH_PORTS}
    if without and flow.verdict in PASSED and flow.is_reply == REPLY_FALSE:
        yield "0", L4_NAMES[flow.l4]
