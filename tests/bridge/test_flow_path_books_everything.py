"""The chain of the ledger holds from the socket to the history, also when a part fails."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import pytest

from api.history import History
from api.history.reclaim import Reclaimer
from api.history.ring import FlowRing
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from bridge.flow_path import FlowPath
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_pipeline import ProbePipeline
from tests import storm
from tests.parsers.test_probe_traffic import CLIENT, WORLD, report

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


def test_what_the_kernel_had_no_room_for_is_booked_told_and_counted(way: Way) -> None:
    batch = ProbeBatch(
        boot_offset=0,
        traffic=np.repeat(report(CLIENT, WORLD), 5),
        lost={("traffic", "map_full"): 3, ("drops", "ring_full"): 4},
        seen={"traffic": 8, "drops": 4},
    )
    way.path.deliver_probes(batch)
    books = way.ledger.stages["probes"]
    assert (books.incoming, books.outgoing) == (12, 5)
    assert books.lost == {"traffic_map_full": 3, "drops_ring_full": 4}
    assert way.ledger.imbalance() == {}
    (event,) = way.history.lost.since(0)
    assert event.event.num_events_lost == 7
    assert event.event.source == flow_pb2.PERF_EVENT_RING_BUFFER
    assert not event.event.HasField("cpu")
    told = b"".join(render(way.path.metrics.families, Format.CLASSIC)).decode()
    assert 'hubble_lost_events_total{source="perf_event_ring_buffer"} 7' in told


def test_a_probe_that_says_less_than_it_had_is_found_out(way: Way) -> None:
    way.path.deliver_probes(ProbeBatch(0, traffic=report(CLIENT, WORLD), seen={"traffic": 2}))
    assert way.ledger.imbalance() == {"probes": 1}


def test_a_fault_in_a_probes_batch_is_booked_where_it_was(way: Way) -> None:
    batch = ProbeBatch(0, traffic=report(CLIENT, WORLD), seen={"traffic": 1})
    fault = RuntimeError("a fault of ours")
    with patch.object(ProbePipeline, "parse", side_effect=fault), pytest.raises(RuntimeError):
        way.path.deliver_probes(batch)
    assert way.ledger.stages["parser"].lost == {"internal_error": 1}
    assert way.ledger.imbalance() == {}
    way.path.deliver(storm.payloads(0, BATCH))
    way.path.deliver_probes(batch)
    assert way.ledger.imbalance() == {}
