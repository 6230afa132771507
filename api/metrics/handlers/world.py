"""The flows-to-world handler: what leaves the cluster.

Which entities are the world is worked out once for each; their rows are immutable and
are not used again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.metrics import label_values as say
from api.metrics.classes import MetricClass, MetricClasses
from api.metrics.family import Counters, Labels
from api.metrics.handlers.by_class import ClassColumn, ClassHandler, Select
from api.v1.flow import flow_pb2
from parsers.entities import Entities
from parsers.flow_batch import L4_NONE, REPLY_TRUE, U32, FlowBatch

WORLD = frozenset({"reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"})


def flows_to_world(classes: MetricClasses) -> ClassHandler:
    """Flows with a layer 4 to the world: no replies, and of drops those by policy."""
    family = Counters(
        "hubble_flows_to_world_total",
        "Total number of flows to reserved:world",
        ("protocol", "verdict"),
    )
    return ClassHandler(classes, family, _labels, _select(classes))


def _select(classes: MetricClasses) -> Select:
    candidates = ClassColumn(classes, _is_candidate)
    world = _World()

    def select(batch: FlowBatch, rows: U32) -> U32:
        conversations = batch.tables.conversations
        destination = conversations.destination_entity[batch.conversation]
        return rows[candidates.of(rows) & world.flags(conversations.entities)[destination]]

    return select


class _World:
    """Which entities of a pipeline are the world."""

    __slots__ = ("_entities", "_flags")

    def __init__(self) -> None:
        self._entities: Entities | None = None
        self._flags = np.zeros(0, dtype=np.bool_)

    def flags(self, entities: Entities) -> NDArray[np.bool_]:
        """By entity row."""
        if entities is not self._entities:
            self._entities = entities
            self._flags = np.zeros(1, dtype=np.bool_)  # row 0 is no endpoint
        known = len(self._flags)
        if known < len(entities):
            fresh = [not WORLD.isdisjoint(entities[r].labels) for r in range(known, len(entities))]
            self._flags = np.concatenate([self._flags, np.array(fresh)])
        return self._flags


def _is_candidate(rows: NDArray[Any]) -> NDArray[np.bool_]:
    dropped = rows["verdict"] == flow_pb2.DROPPED
    counted = np.where(
        dropped,
        rows["drop_reason"] == flow_pb2.POLICY_DENIED,
        rows["is_reply"] != REPLY_TRUE,
    )
    wanted: NDArray[np.bool_] = counted & (rows["l4"] != L4_NONE)
    return wanted


def _labels(flow: MetricClass) -> Iterator[Labels]:
    yield say.protocol(flow), say.verdict(flow.verdict)
