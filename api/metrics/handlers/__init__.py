"""Hubble's metric handlers: which flows each counts, under which labels.

Three kinds, by what the labels need: the class of a flow alone (``by_class.py``, and
``packets.py``, ``policy.py``, ``volume.py``, ``world.py`` on it), its port (``ports.py``), its
L7 record (``l7.py``). ``BY_NAME`` and ``RECORDERS`` hold them under the names of Hubble's option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from api.metrics.classes import MetricClass
from api.metrics.family import Counters
from api.metrics.handlers import l7, packets, policy, ports, volume, world
from api.metrics.handlers.settings import Settings
from parsers.flow_batch import I64, U32, FlowBatch


class Handler(Protocol):
    """Counts batches into its own store, and moves that to its families' totals."""

    families: tuple[Counters, ...]

    def wants(self, flow: MetricClass) -> bool:
        """Whether flows of a class may be counted; others need not be offered."""

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """Count a batch; ``classes`` are the flows' rows of its ``Settings.classes``."""

    def fold(self, counts: I64) -> None:
        """Bring the totals up to date; ``counts`` are all flows offered since, by class."""


BY_NAME: Final[Mapping[str, Callable[[Settings], Handler]]] = {
    "drop": packets.drop,
    "flow": packets.flow,
    "flows-to-world": world.FlowsToWorld,
    "icmp": packets.icmp,
    "policy": policy.policy,
    "port-distribution": ports.PortDistribution,
    "sctp": packets.sctp,
    "tcp": packets.tcp,
    "volume": volume.Volume,
}

RECORDERS: Final[Mapping[str, Callable[[Settings], l7.Recorder]]] = {
    "dns": l7.DnsRecorder,
    "http": l7.HttpRecorder,
    "httpV2": l7.HttpV2Recorder,
    "kafka": l7.KafkaRecorder,
}
