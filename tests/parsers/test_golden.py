"""Hubble's own parser and ours make the same of every recorded payload, field by field.

Lines marked stale are skipped: there Hubble showed a layer of an earlier packet.
"""

from __future__ import annotations

from functools import cache

import pytest

from tests.fixtures import (
    RELEASES,
    expected,
    payloads,
    release_number,
    stream_bytes,
    streams,
    world,
)
from tests.parsers.comparison import Unexplained, compare
from tests.parsers.hubble_differences import FILLER, TABLE, policy_rule_of_1_20
from tests.parsers.recorded import batches, differences, facts_of, results_of

RARE = ("v1.19", "rare")
"""A stream of odd packets; made by tests/conformance/make_rare_fixture.py."""


@cache
def explained(release: str, mix: str) -> tuple[list[Unexplained], frozenset[str]]:
    """What the table does not explain, and the entries that explained something."""
    fired: set[str] = set()
    data, lines = stream_bytes(release, mix), expected(release, mix)
    return compare(release, data, lines, world(release), fired), frozenset(fired)


@pytest.mark.parametrize(("release", "mix"), [*streams(), RARE])
def test_every_record_gives_what_hubble_gives(release: str, mix: str) -> None:
    unexplained, _ = explained(release, mix)
    assert unexplained[:3] == []


@pytest.mark.parametrize("release", RELEASES)
def test_every_difference_of_the_table_is_needed_for_each_release_it_names(release: str) -> None:
    table = [e for e in (FILLER, *TABLE) if not e.rare or release == RARE[0]]
    named = {entry.name for entry in table if entry.holds_for(release)}
    fired: set[str] = set()
    for stream in [*streams(), RARE]:
        if stream[0] == release:
            fired |= explained(*stream)[1]
    assert fired == named


@pytest.mark.parametrize("mix", ["all", "steady"])
@pytest.mark.parametrize("release", RELEASES)
def test_an_unknown_release_is_read_by_length_and_content(release: str, mix: str) -> None:
    data, known, sent = stream_bytes(release, mix), world(release), payloads(release, mix)
    hint = release_number(release)
    told, untold = (facts_of(batches(data), known, number) for number in (hint, None))
    differing = [n for n in told if told[n] != untold[n]]
    assert (release, mix) == ("v1.20", "steady") or differing
    shown = results_of(batches(data), known, None)
    by_release = cache(lambda number: results_of(batches(data), known, number))
    for number in differing:
        record = sent[number].data
        taken_for = _looks_like(record, hint)
        want, got = by_release(taken_for)[number](), shown[number]()
        if record[0] == 5 and taken_for < (1, 20):
            policy_rule_of_1_20(wrong_way_round=False)(want["event"], record, known)
        assert differences(want, got) == []


def _looks_like(record: bytes, release: tuple[int, int]) -> tuple[int, int]:
    """The release that a record seems to come from, where that is not the real one.

    A drop's version stands for the newest release that sends it, whose names of files
    hold. A verdict without room for the header of 1.19 is one of before. Of policies the
    newest rule holds in any case.
    """
    if record[0] == 1:
        return {1: (1, 17), 2: (1, 18), 3: (1, 19)}[record[14]]
    captured = int.from_bytes(record[12:14], "little")
    return (1, 18) if record[0] == 5 and len(record) - captured < 40 else release
