"""The volume handler, which Hubble does not have: packets and bytes behind the flows.

Own probes tell them; Cilium's records do not, so there its metrics have no series.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from api.metrics import label_values as say
from api.metrics.classes import MetricClass
from api.metrics.family import Counters, Labels
from api.metrics.handlers.by_class import ClassCounter, ClassSeries
from api.metrics.handlers.settings import Settings
from parsers.flow_batch import I64, U32, FlowBatch

_LABELS = ("direction", "protocol", "verdict")


class Volume:
    """Adds up what flows stand for; see ``Handler``."""

    __slots__ = ("_bytes", "_packets", "_series", "families")

    def __init__(self, settings: Settings) -> None:
        self.families: tuple[Counters, ...] = (
            settings.counters(
                "ciliary_flow_packets_total", "Packets of flows", _LABELS, kept=_LABELS
            ),
            settings.counters(
                "ciliary_flow_bytes_total",
                "Bytes of flows, with the link header but for most drops",
                _LABELS,
                kept=_LABELS,
            ),
        )
        self._series = [ClassSeries(settings.classes, f, _volume_labels) for f in self.families]
        self._packets, self._bytes = ClassCounter(settings.classes), ClassCounter(settings.classes)

    def wants(self, flow: MetricClass) -> bool:
        """See ``Handler``."""
        return True

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """See ``Handler``."""
        if batch.packets is not None and batch.bytes is not None:
            self._packets.add(classes, batch.packets.astype(np.int64))
            self._bytes.add(classes, batch.bytes.astype(np.int64))

    def fold(self, counts: I64) -> None:
        """See ``Handler``."""
        for series, counter in zip(self._series, (self._packets, self._bytes), strict=True):
            series.fold(counter.take())


def _volume_labels(flow: MetricClass) -> Iterator[Labels]:
    yield say.at(say.DIRECTIONS, flow.direction), say.protocol(flow), say.verdict(flow.verdict)
