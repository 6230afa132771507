from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.history import FLOW_BYTES, FlowRing
from parsers.errors import UsageError
from parsers.flow_batch import FlowBatch, FlowTables
from parsers.pipeline import new_tables


def numbered(tables: FlowTables, first: int, count: int) -> FlowBatch:
    """Flows whose every column tells their number."""
    numbers = np.arange(first, first + count)
    return FlowBatch(
        tables,
        numbers.astype(np.int64) * 1000,
        numbers.astype(np.uint64) + np.uint64(2**33),
        numbers.astype(np.uint32),
        numbers.astype(np.uint32),
        (numbers % 65536).astype(np.uint16),
        (numbers % 65536).astype(np.uint16),
        numbers.astype(np.uint32),
    )


def contents(ring: FlowRing, start: int, stop: int, size: int) -> list[int]:
    found: list[int] = []
    for position, piece in ring.pieces(start, stop, size):
        assert len(piece) <= size
        assert (piece.sequence - np.uint64(2**33)).tolist() == (piece.time // 1000).tolist()
        assert piece.flow_class[0] == position
        found += (piece.time // 1000).tolist()
    return found


@given(
    capacity=st.integers(1, 50),
    batches=st.lists(st.integers(0, 120), max_size=12),
    size=st.integers(1, 60),
    span=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_positions_name_the_same_flows_whatever_the_batches_were(
    capacity: int, batches: list[int], size: int, span: tuple[int, int]
) -> None:
    ring = FlowRing(new_tables(), capacity)
    total = 0
    for count in batches:
        ring.append(numbered(ring.tables, total, count))
        total += count
    kept = list(range(max(0, total - capacity), total))
    assert (ring.end, ring.oldest, len(ring)) == (total, total - len(kept), len(kept))
    assert contents(ring, 0, total, size) == kept
    wanted = [n for n in kept if span[0] <= n < span[1]]
    assert contents(ring, *span, size) == wanted
    backwards = [p.time // 1000 for _, p in ring.pieces_backwards(*span, size)][::-1]
    assert np.concatenate([*backwards, np.empty(0)]).tolist() == wanted


@given(
    capacity=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=12),
)
def test_forgotten_flows_are_as_if_overwritten(capacity: int, steps: list[tuple[int, int]]) -> None:
    ring = FlowRing(new_tables(), capacity)
    total, kept = 0, list[int]()
    for count, forgotten in steps:
        ring.append(numbered(ring.tables, total, count))
        kept = [*kept, *range(total, total + count)][-capacity:]
        total += count
        ring.forget(forgotten)
        kept = kept[forgotten:]
        assert (ring.oldest, len(ring)) == (total - len(kept), len(kept))
        assert contents(ring, 0, total, 7) == kept


def test_a_flow_costs_28_bytes() -> None:
    assert FLOW_BYTES == 28


def test_a_ring_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        FlowRing(new_tables(), 0)
