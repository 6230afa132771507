"""The chain of the ledger holds from the socket to the history, also when a part fails."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import pytest

from api.history import History
from api.history.reclaim import Reclaimer
from api.history.ring import FlowRing
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.metrics.hubble import HubbleMetrics
from bridge.flow_path import FlowPath
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from tests import storm

BATCH = 100


@dataclass
class Way:
    ledger: Ledger
    history: History
    path: FlowPath


@pytest.fixture
def way() -> Way:
    tables, ledger = new_tables(), Ledger()
    pipeline = MonitorPipeline(tables, storm.directory(1000), ledger, release=storm.RELEASE)
    history = History(tables, ledger, 150)
    observer = Observer(history, LocalNode("node"), ledger)
    path = FlowPath(pipeline, HubbleMetrics(), observer.publish, watch=lambda _n, _s: None)
    return Way(ledger, history, path)


@pytest.mark.parametrize(
    ("failing", "method", "stage"),
    [
        (MonitorPipeline, "parse", "parser"),
        (HubbleMetrics, "count", "history"),
        (FlowRing, "append", "history"),
        (Reclaimer, "after", ""),
    ],
)
def test_a_batch_that_a_fault_ends_is_booked_where_it_ended(
    way: Way, failing: type, method: str, stage: str
) -> None:
    way.path.deliver(storm.payloads(0, BATCH))
    fault = RuntimeError("a fault of ours")
    with patch.object(failing, method, side_effect=fault), pytest.raises(RuntimeError):
        way.path.deliver(storm.payloads(BATCH, 2 * BATCH))
    assert way.ledger.imbalance() == {}
    way.path.deliver(storm.payloads(2 * BATCH, 3 * BATCH))
    assert way.ledger.imbalance() == {}
    lost = {name: dict(books.lost) for name, books in way.ledger.stages.items() if books.lost}
    assert lost == ({stage: {"internal_error": BATCH}} if stage else {})
    assert way.ledger.stages["socket"].incoming == 3 * BATCH
