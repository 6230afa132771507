"""An intern table is a dictionary from key to row number that never forgets unasked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.errors import UsageError
from parsers.intern import InternTable

KEY = np.dtype([("a", "u4"), ("b", "u2"), ("c", "u2"), ("d", "u8")])


def keys_of(numbers: list[int]) -> np.ndarray:
    keys = np.zeros(len(numbers), dtype=KEY)
    keys["a"] = [n % 7 for n in numbers]
    keys["d"] = [n // 7 << 40 for n in numbers]
    return keys


lookups = st.lists(st.integers(0, 3000), min_size=1, max_size=200)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.one_of(lookups, st.integers(0, 2**32)), max_size=12))
def test_equal_keys_have_equal_rows_whatever_came_and_went(steps: list[list[int] | int]) -> None:
    table = InternTable(KEY)
    row_of: dict[int, int] = {0: 0}
    for step in steps:
        if isinstance(step, int):  # forget some
            kept = {n: r for n, r in row_of.items() if n == 0 or (n * 2654435761 ^ step) & 8}
            in_use = np.zeros(table.capacity, dtype=np.bool_)
            in_use[list(kept.values())] = True
            piece = 1 + step % 700
            freed = [table.reclaim(in_use, at, at + piece) for at in range(0, table.end, piece)]
            assert sum(freed) == len(row_of) - len(kept)
            row_of = kept
        else:
            rows, made = table.lookup(keys_of(step))
            new = set(step) - row_of.keys()
            assert len(made) == len(new)
            for number, row in zip(step, rows.tolist(), strict=True):
                assert row_of.setdefault(number, row) == row
            assert {row_of[n] for n in new} == set(made.tolist())
        assert len(set(row_of.values())) == len(row_of) == len(table)
        numbers, rows_in_use = list(row_of), list(row_of.values())
        np.testing.assert_array_equal(table.rows[rows_in_use], keys_of(numbers))
        assert sorted(table.live_rows().tolist()) == sorted(rows_in_use)


def test_a_storm_of_new_keys_is_found_again() -> None:
    table = InternTable(KEY)
    keys = keys_of(list(range(50_000)))
    first, made = table.lookup(keys)
    assert len(made) == 49_999  # the zero key was there
    again, none = table.lookup(keys[::-1].copy())
    np.testing.assert_array_equal(again[::-1], first)
    assert len(none) == 0
    assert (len(table), table.end) == (50_000, 50_000)


def test_churn_needs_no_more_rows_than_live_at_once() -> None:
    table = InternTable(KEY)
    told: list[int] = []
    table.before_free.append(lambda rows: told.extend(rows.tolist()))
    for start in range(1, 200_001, 1000):
        rows, made = table.lookup(keys_of(list(range(start, start + 1000))))
        assert len(made) == 1000
        zero, _ = table.lookup(keys_of([0, start]))
        assert zero.tolist() == [0, rows[0]]  # freed rows are zero as well
        in_use = np.zeros(table.end, dtype=np.bool_)
        in_use[rows] = True
        table.reclaim(in_use)
    assert len(table) == 1001
    assert table.end <= 2001
    assert len(told) == 199_000
    assert table.nbytes() < 200_000


def test_a_growing_table_finds_every_key_while_it_moves() -> None:
    table = InternTable(KEY)
    known: list[int] = []
    for start in range(1, 60_001, 1500):
        batch = keys_of(list(range(start, start + 1500)))
        rows, _ = table.lookup(batch)
        known += rows.tolist()
        found, made = table.lookup(keys_of(list(range(1, start + 1500))))
        assert found.tolist() == known
        assert len(made) == 0
    assert sorted(known) == list(range(1, 60_001))


def test_freed_rows_are_used_again() -> None:
    table = InternTable(KEY)
    table.lookup(keys_of(list(range(1000))))
    before = table.capacity
    table.reclaim(np.zeros(before, dtype=np.bool_))
    assert len(table) == 1
    rows, _ = table.lookup(keys_of(list(range(2000, 2999))))
    assert table.capacity == before
    assert sorted(rows.tolist()) == list(range(1, 1000))
    assert table.generation == 1


def test_an_empty_batch_is_no_lookup() -> None:
    rows, made = InternTable(KEY).lookup(keys_of([]))
    assert (len(rows), len(made)) == (0, 0)


def test_a_full_table_says_so_and_stays_usable() -> None:
    table = InternTable(KEY, limit=10)
    known, _ = table.lookup(keys_of(list(range(10))))
    with pytest.raises(UsageError, match="more than 10 distinct rows"):
        table.lookup(keys_of([1, 2, 77]))
    again, made = table.lookup(keys_of(list(range(10))))
    np.testing.assert_array_equal(again, known)
    assert len(made) == 0


def test_keys_are_whole_words() -> None:
    with pytest.raises(UsageError, match="12 bytes"):
        InternTable(np.dtype([("a", "u4", (3,))]))
