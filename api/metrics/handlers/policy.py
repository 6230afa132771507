"""The policy handler: verdicts of the datapath, and of the proxies."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from api.metrics import label_values as say
from api.metrics.classes import Classes, MetricClass
from api.metrics.family import Labels
from api.metrics.handlers.by_class import ClassColumn, ClassHandler, Select
from api.metrics.handlers.settings import Settings
from parsers.flow_batch import U32, FlowBatch

IDENTITY_HOST = 1
"""The host may talk to every local endpoint, so its verdicts say nothing."""


def policy(settings: Settings) -> ClassHandler:
    """Policy-verdict flows whose source is not the host, and access-log flows."""
    family = settings.counters(
        "hubble_policy_verdicts_total",
        "Total number of Cilium network policy verdicts",
        ("action", "direction", "match"),
        kept=("action", "direction", "match"),
    )
    classes = settings.classes
    return ClassHandler(classes, family, _labels, _select(classes), _wants)


def _select(classes: Classes) -> Select:
    event_type = ClassColumn(classes, lambda rows: rows["event_type"].copy())

    def select(batch: FlowBatch, rows: U32) -> U32:
        kind = event_type.of(rows)
        verdicts = (kind == say.POLICY_VERDICT).nonzero()[0]
        conversations = batch.tables.conversations
        source = conversations.source_entity[batch.conversation[verdicts]]
        verdicts = verdicts[conversations.entities.identity[source] != IDENTITY_HOST]
        return np.concatenate([rows[verdicts], rows[kind == say.ACCESS_LOG]])

    return select


def _wants(flow: MetricClass) -> bool:
    return flow.event_type in (say.POLICY_VERDICT, say.ACCESS_LOG)


def _labels(flow: MetricClass) -> Iterator[Labels]:
    if flow.event_type == say.ACCESS_LOG:
        match = "l7/" + say.L7_NAMES.get(flow.l7_record, "").lower()
    else:
        match = say.at(say.POLICY_MATCHES, flow.policy_match_type) or "unknown"
    yield say.verdict(flow.verdict).lower(), say.at(say.DIRECTIONS, flow.direction), match
