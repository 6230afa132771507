"""Equal details share a row; those with an L7 record have one each; freed rows are reused."""

from __future__ import annotations

import numpy as np
import pytest

from parsers.details import Detail, DetailTable, DropSite, Service

SITE, SERVICE = Detail(drop_site=DropSite("bpf_lxc.c", 7)), Detail(source_service=Service("a", "b"))


def test_the_empty_detail_is_row_0() -> None:
    table = DetailTable()
    assert table.intern(Detail()) == 0
    assert table[0] == Detail()


def test_equal_details_share_a_row() -> None:
    table = DetailTable()
    first = table.intern(SITE)
    assert table.intern(Detail(drop_site=DropSite("bpf_lxc.c", 7))) == first
    assert table.intern(SERVICE) != first
    assert table[first] == SITE
    assert len(table) == 3


def test_details_that_nobody_repeats_have_a_row_each() -> None:
    table = DetailTable()
    assert table.add(SITE) != table.add(SITE)


def test_reclaim_frees_what_is_not_in_use() -> None:
    table = DetailTable()
    kept, freed = table.intern(SITE), table.intern(SERVICE)
    in_use = np.zeros(table.end, dtype=np.bool_)
    in_use[kept] = True
    generation = table.generation
    assert table.reclaim(in_use) == 1
    assert table.generation > generation
    assert (table.intern(SITE), table[0]) == (kept, Detail())
    with pytest.raises(IndexError):
        table[freed]
    assert table.intern(Detail(ip_trace_id=1)) == freed
    assert table.intern(SERVICE) not in (freed, kept)
    assert (len(table), table.end) == (4, 4)
