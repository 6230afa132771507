"""Rows of objects are shared, freed in pieces and used again."""

from __future__ import annotations

import numpy as np
import pytest

from parsers import object_table
from parsers.details import Detail, DetailTable
from parsers.entities import Entities, Entity
from parsers.object_table import ObjectTable


def test_equal_objects_share_a_row_and_added_ones_do_not() -> None:
    table = ObjectTable("")
    assert table.intern("a") == table.intern("a")
    assert table.add("a") not in {0, table.intern("a")}
    assert len(table) == 3


def test_rows_are_freed_piece_by_piece_and_used_again() -> None:
    table = ObjectTable("")
    rows = {name: table.intern(name) for name in map(str, range(100))}
    in_use = np.zeros(table.end, dtype=np.bool_)
    in_use[[row for name, row in rows.items() if name.endswith("7")]] = True
    generation = table.generation
    assert sum(table.reclaim(in_use, at, at + 8) for at in range(0, table.end, 8)) == 90
    assert table.generation == generation + 1
    assert [table[rows[name]] for name in ("7", "97")] == ["7", "97"]
    with pytest.raises(IndexError):
        table[rows["8"]]
    again = {table.intern(name) for name in map(str, range(100))}
    assert len(again) == 100
    assert table.end == 101
    assert {rows["7"], rows["97"]} <= again


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_table, "REMEMBERED", 10)
    table = ObjectTable("")
    first = table.intern("first")
    for name in map(str, range(50)):
        assert table.intern(name) == table.intern(name)
    again = table.intern("first")
    assert again != first
    assert table[again] == table[first] == "first"
    assert table.reclaim(np.zeros(table.end, dtype=np.bool_)) == 52
    assert table[table.intern("first")] == "first"


def test_an_entity_of_nothing_is_not_the_absent_one_but_an_empty_detail_is() -> None:
    assert Entities().intern(Entity()) != 0
    assert DetailTable().intern(Detail()) == 0
