from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from api.history import FLOW_BYTES, History, reclaim
from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
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


def flow_of(batch: FlowBatch, index: int) -> str:
    return str(FlowMessages(batch.tables, LocalNode("node")).flow(batch, index))


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


def test_rows_are_freed_while_appending_a_bounded_number_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reclaim, "_FEWEST", (64,) * 5)
    for name, most in (("MARKED", 9), ("SWEPT", 11), ("SWEPT_OBJECTS", 13)):
        monkeypatch.setattr(reclaim, name, most)
    tables = new_tables()
    history = History(tables, Ledger(), 20, 0)
    flows = batch_of(FLOWS, new_tables())  # how many rows there are in all
    whole = len(flows.tables.conversations), len(flows.tables.details)
    assert min(whole) > 200
    sizes = []
    for start in range(0, 1000, 4):
        batch = batch_of(FLOWS[start : start + 4], tables)
        before = len(tables.conversations), len(tables.details), len(tables.classes)
        history.append(batch)
        after = len(tables.conversations), len(tables.details), len(tables.classes)
        assert max(b - a for b, a in zip(before, after, strict=True)) <= 13
        sizes.append(after)
    assert history.statistics().reclaims > 1
    assert max(size[0] for size in sizes) < whole[0] // 2
    ((_, kept),) = history.flows.pieces(history.flows.oldest, history.flows.end, 1000)
    said = [flow_of(kept, i) for i in range(len(kept))]
    assert said == [flow_of(flows, i) for i in range(980, 1000)]


def test_a_history_keeps_to_its_bytes_by_forgetting_the_oldest_flows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reclaim, "MARKED", 200)
    l7_flows = flows_of("v1.20", "l7")[:120]
    tables, ledger = new_tables(), Ledger()
    history = History(tables, ledger, 10_000)
    history.byte_limit = 500_000
    seen, fills = 0, []
    for _ in range(200):
        batch = batch_of(l7_flows[:40], tables)
        history.append(batch)
        seen += len(batch)
        fills.append((history.nbytes(), len(history.flows)))
        assert ledger.imbalance() == {}
    assert max(b for b, _ in fills) < 2 * history.byte_limit
    assert min(n for _, n in fills[5:]) > 40  # and not more than needed
    account = ledger.stages["history"]
    assert (account.incoming, account.waiting) == (seen, len(history.flows))
    assert not account.lost
    # What is left is the newest, and whole.
    ((position, kept),) = history.flows.pieces(0, history.flows.end, 1 << 20)
    assert (position, position + len(kept)) == (history.flows.oldest, seen)
    alone = batch_of(l7_flows[:40], new_tables())
    said = [flow_of(kept, i) for i in range(len(kept) - 40, len(kept))]
    assert said == [flow_of(alone, i) for i in range(40)]
    assert history.statistics().bytes >= len(kept) * FLOW_BYTES


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
