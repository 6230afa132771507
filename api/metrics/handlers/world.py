"""The flows-to-world handler: what leaves the cluster.

Which entities are the world is worked out once for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.hubble.row_test import Mask, RowTest, each
from api.metrics import label_values as say
from api.metrics.classes import SYN, MetricClass
from api.metrics.family import Counters, Labels
from api.metrics.handlers.by_class import ClassColumn, ClassCounter, ClassSeries
from api.metrics.handlers.ports import WITH_PORTS, PortSeries
from api.metrics.handlers.settings import Settings
from api.metrics.options import ANY_DROP, PORT, SYN_ONLY
from api.v1.flow import flow_pb2
from parsers.conversations import Conversations
from parsers.flow_batch import FLOW_CLASS, I64, L4_NONE, L4_TCP, REPLY_TRUE, U32, FlowBatch

WORLD = frozenset({"reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"})


class FlowsToWorld:
    """Flows with a layer 4 to the world: no replies, and of drops those by policy.

    Options: drops of any reason; only SYN, which leaves TCP; a label for the port.
    """

    __slots__ = (
        "_any_drop", "_candidates", "_classes", "_generation", "_is_world", "_own", "_ports",
        "_series", "_syn_only", "families",
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        port = PORT in settings.options
        family = settings.counters(
            "hubble_flows_to_world_total",
            "Total number of flows to reserved:world",
            ("port", "protocol", "verdict") if port else ("protocol", "verdict"),
            kept=("protocol", "verdict"),
        )
        self.families: tuple[Counters, ...] = (family,)
        self._any_drop = ANY_DROP in settings.options
        self._syn_only = SYN_ONLY in settings.options
        self._classes = settings.classes
        self._generation = self._classes.generation
        self._candidates = ClassColumn(self._classes, self._are_candidates)
        self._is_world = _World()
        self._own = ClassCounter(self._classes)
        self._series = ClassSeries(self._classes, family, _labels)
        self._ports = PortSeries(family, self._port_labels) if port else None

    def wants(self, flow: MetricClass) -> bool:
        """See ``Handler``."""
        row = np.zeros(1, dtype=FLOW_CLASS)
        for name, value in flow._asdict().items():
            row[name] = value
        return bool(self._are_candidates(row)[0])

    def count(self, batch: FlowBatch, classes: U32) -> None:
        """See ``Handler``."""
        counted = self._candidates.of(classes).nonzero()[0]
        counted = counted[self._is_world(batch, counted)]
        if self._ports is None:
            self._own.add(classes[counted])
            return
        if self._generation != self._classes.generation:
            self._generation = self._classes.generation
            self._ports.forget()
        self._ports.add(classes[counted], batch.destination_port[counted])

    def fold(self, counts: I64) -> None:
        """See ``Handler``."""
        self._series.fold(self._own.take())

    def _are_candidates(self, rows: NDArray[Any]) -> NDArray[np.bool_]:
        dropped = rows["verdict"] == flow_pb2.DROPPED
        no_reply = rows["is_reply"] != REPLY_TRUE
        by_policy = self._any_drop | (rows["drop_reason"] == flow_pb2.POLICY_DENIED)
        wanted: NDArray[np.bool_] = np.where(dropped, by_policy, no_reply)
        wanted &= rows["l4"] != L4_NONE
        if self._syn_only:
            wanted &= no_reply & (rows["l4"] == L4_TCP) & (rows["tcp_flags"] & SYN != 0)
        return wanted

    def _port_labels(self, row: int, port: int) -> tuple[Labels, Labels]:
        flow, context = self._classes[row]
        protocol, verdict = say.protocol(flow), say.verdict(flow.verdict)
        return (str(port) if flow.l4 in WITH_PORTS else "", protocol, verdict), context


class _World:
    """Whether the destinations of flows are the world, by the places of flows in a batch."""

    __slots__ = ("_conversations", "_test")

    def __init__(self) -> None:
        self._conversations: Conversations | None = None

    def __call__(self, batch: FlowBatch, places: NDArray[np.intp]) -> Mask:
        conversations = batch.tables.conversations
        if conversations is not self._conversations:
            self._conversations = conversations
            entities = conversations.entities
            self._test = RowTest(
                each(lambda row: not WORLD.isdisjoint(entities[row].labels)),
                lambda: conversations.generation,
            )
        return self._test(conversations.destination_entity[batch.conversation[places]])


def _labels(flow: MetricClass) -> Iterator[Labels]:
    yield say.protocol(flow), say.verdict(flow.verdict)
