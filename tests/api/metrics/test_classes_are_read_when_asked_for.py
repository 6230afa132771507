"""A metric class costs what it alone costs, however many others there are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from api.metrics import classes as metric
from api.metrics.classes import MetricClasses
from parsers.flow_batch import FLOW_CLASS, FlowBatch
from parsers.pipeline import new_tables


def test_one_is_read_of_many_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tables, many = new_tables(), np.zeros(5000, dtype=FLOW_CLASS)
    many["drop_reason"], many["origin"] = np.arange(5000), 1
    none = np.zeros(5000, dtype=np.uint16)
    batch = FlowBatch(
        tables, np.zeros(5000, np.int64), np.zeros(5000, np.uint64), tables.classes.lookup(many)[0],
        np.zeros(5000, np.uint32), none, none, np.zeros(5000, np.uint32),
    )  # fmt: skip
    rows = (classes := MetricClasses()).of(batch)
    read: list[int] = []
    plain = metric.metric_classes

    def counted(rows: np.ndarray[Any, Any]) -> Any:
        read.append(len(rows))
        return plain(rows)

    monkeypatch.setattr(metric, "metric_classes", counted)
    for _ in range(2):
        assert 4321 == classes[int(rows[4321])].flow.drop_reason
    assert [1] == read
