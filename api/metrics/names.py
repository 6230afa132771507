"""``ciliary_*``: sides of flows without a name, and names that came late."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from parsers.directory import KNOWN, REASONS
from parsers.flow_batch import FlowBatch


class UnnamedSides(Collector):
    """Counts a batch at a time."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << 8, dtype=np.int64)  # by ``Conversations.unknown``

    def count(self, flows: FlowBatch) -> None:
        """Count the sides of some flows, by why they have no name."""
        unknown = flows.tables.conversations.unknown[flows.conversation]
        self._counts += np.bincount(unknown, minlength=len(self._counts))

    def collect(self) -> Iterator[Metric]:
        """The family with the values of now."""
        family = CounterMetricFamily(
            "ciliary_unnamed_sides",
            "Sources and destinations of flows without a name when they were read, by why.",
            labels=("reason",),
        )
        of_both = self._counts.reshape(16, 16)
        counts = of_both.sum(axis=0) + of_both.sum(axis=1)
        for code, reason in enumerate(REASONS):
            if code != KNOWN:
                family.add_metric((reason,), int(counts[code]))
        yield family


class CorrectedFlows(Collector):
    """``count`` tells how many flows got other names."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """The family with the value of now."""
        family = CounterMetricFamily(
            "ciliary_corrected_flows",
            "Flows of the history that got other names when these were heard late.",
        )
        family.add_metric((), self._count())
        yield family
