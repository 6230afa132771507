"""Equal details share a row; those with an L7 record have one each; freed rows are reused."""

from __future__ import annotations

import numpy as np
import pytest

from parsers.details import Detail, DetailTable, DropSite, Extensions, Service
from parsers.flow_batch import L7_HTTP
from parsers.gob_values import read_texts
from parsers.l7 import L7Record
from parsers.l7_content import AccessLogL7

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


def test_extensions_that_are_kept_together_are_read_one_by_one() -> None:
    table = DetailTable()
    given_back = [table.add(SERVICE), table.add(SERVICE)]
    kept = table.add(SITE)
    table.reclaim(np.arange(table.end) == kept)
    records = np.array([(3,), (5,), (7,)], dtype=[("rtt_us", "<u4")])
    extensions = Extensions(records, lambda record: (("rtt_us", float(record["rtt_us"])),))
    before = table.nbytes
    rows = table.add_extensions(extensions, np.array([0, 2, 1]))
    assert set(given_back) < set(rows.tolist())  # rows that are free come first
    assert [table[row].extension for row in rows] == [
        (("rtt_us", 3.0),),
        (("rtt_us", 7.0),),
        (("rtt_us", 5.0),),
    ]
    assert table.record(int(rows[0])) is None
    assert table.nbytes > before
    assert table.reclaim(np.arange(table.end) == kept) == 3
    assert (table.nbytes, table[kept]) == (before, SITE)
    again = table.add_extensions(extensions, np.array([1]))
    assert table[int(again[0])].extension == (("rtt_us", 5.0),)


def test_details_added_together_have_rows_of_their_own_and_weigh_as_much() -> None:
    """Records among them are kept, and found, as what they are."""
    record = AccessLogL7(1, 0, "0" * 32, None, ((L7_HTTP, b"GET", read_texts),))
    values: list[Detail | L7Record | Extensions] = [
        SITE, record, SERVICE, Detail(record), record, SITE,
    ]  # fmt: skip
    table, other = DetailTable(), DetailTable()
    for one in (table, other):
        given_back = [one.add(SERVICE), one.add(SERVICE)]
        one.reclaim(np.zeros(one.end, dtype=np.bool_))
    rows = table.add_each(values).tolist()
    singly = [other.add(value) for value in values]
    assert sorted(singly) == sorted(rows)
    assert len(set(rows)) == len(values)
    assert set(given_back) < set(rows)
    assert [other[row] for row in singly] == [table[row] for row in rows]
    assert table.nbytes == other.nbytes > 0
    assert table.records(rows) == [None, record, None, record, record, None]
    assert [] == table.add_each([]).tolist()
