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
from api.metrics.classes import MetricClass, MetricClasses
from api.metrics.family import Counters, Labels
from api.metrics.handlers.by_class import ClassColumn, ClassHandler, Select
from api.v1.flow import flow_pb2
from parsers.entities import Conversations
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
    is_world = _World()

    def select(batch: FlowBatch, rows: U32) -> U32:
        return rows[candidates.of(rows) & is_world(batch)]

    return select


class _World:
    """Whether the destinations of flows are the world."""

    __slots__ = ("_conversations", "_test")

    def __init__(self) -> None:
        self._conversations: Conversations | None = None

    def __call__(self, batch: FlowBatch) -> Mask:
        conversations = batch.tables.conversations
        if conversations is not self._conversations:
            self._conversations = conversations
            entities = conversations.entities
            self._test = RowTest(
                each(lambda row: not WORLD.isdisjoint(entities[row].labels)),
                lambda: conversations.generation,
            )
        return self._test(conversations.destination_entity[batch.conversation])


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
