from __future__ import annotations

from typing import Any

import numpy as np

from api.history import History
from parsers.flow_batch import FlowBatch, FlowTables
from parsers.ledger import Ledger
from tests.api.hubble.from_json import batch_of, flows_of, new_tables

FLOWS = flows_of("v1.20", "steady")
DROPS = [flow for flow in FLOWS if flow.get("verdict") == "DROPPED"]


def filled(capacity: int, drop_capacity: int, flows: list[dict[str, Any]]) -> History:
    tables = new_tables()
    history = History(tables, Ledger(), capacity, drop_capacity)
    batch = batch_of(flows, tables)
    for start in range(0, len(batch), 100):
        history.append(batch.select(np.arange(start, min(start + 100, len(batch)))))
    return history


def sequences(pieces: Any) -> list[int]:
    return [int(s) for _, piece in pieces for s in piece.sequence]


def test_rows_in_use_survive_and_the_others_are_freed() -> None:
    history = filled(50, 10, FLOWS)
    tables: FlowTables = history.tables
    ((_, kept),) = history.flows.pieces(history.flows.oldest, history.flows.end, 1000)
    before = [tables.conversations.rows[r].tobytes() for r in kept.conversation]
    details = [tables.details[int(r)] for r in kept.detail]
    generation = tables.conversations.generation
    assert history.reclaim() > 0
    assert [tables.conversations.rows[r].tobytes() for r in kept.conversation] == before
    assert [tables.details[int(r)] for r in kept.detail] == details
    assert len(tables.conversations) <= 50 + 10 + 1
    assert len(tables.details) <= 50 + 10 + 1
    assert tables.conversations.generation > generation


def test_drops_outlive_the_other_flows() -> None:
    history = filled(50, len(DROPS), FLOWS)
    assert history.drops is not None
    all_drops = sequences(history.drops.pieces(0, history.drops.end, 1 << 20))
    main = sequences(history.flows.pieces(0, history.flows.end, 1 << 20))
    older = sequences(history.drops.pieces(0, history.older_drops(), 1 << 20))
    assert all_drops == [int(f["uuid"][-12:], 16) for f in DROPS]
    assert older == [s for s in all_drops if s < main[0]]


def test_the_ledger_balances_and_overwriting_is_no_loss() -> None:
    tables = new_tables()
    ledger = Ledger()
    history = History(tables, ledger, 30)
    batch: FlowBatch = batch_of(FLOWS[:100], tables)
    for start in range(0, 100, 7):
        history.append(batch.select(np.arange(start, min(start + 7, 100))))
        assert ledger.imbalance() == {}
    account = ledger.stages["history"]
    assert (account.incoming, account.waiting, account.outgoing) == (100, 30, 70)
    assert not account.lost
