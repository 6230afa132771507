"""What comes in goes out, waits, or is lost for a reason; anything else is an imbalance."""

from __future__ import annotations

from parsers.ledger import ERROR_CLASSES, NOT_OBSERVABLE, STAGES, Ledger


def test_an_empty_ledger_balances() -> None:
    assert Ledger().imbalance() == {}
    assert tuple(Ledger().stages) == STAGES


def test_every_event_is_accounted_for() -> None:
    ledger = Ledger()
    ledger.book("parser", incoming=10, outgoing=6)
    ledger.book_lost("parser", "decode", 3)
    assert ledger.imbalance() == {"parser": 1}
    ledger.stages["parser"].waiting = 1
    assert ledger.imbalance() == {}
    ledger.book_lost("parser", "decode", 1)
    assert ledger.imbalance() == {"parser": -1}
    assert ledger.stages["parser"].lost == {"decode": 4}


def test_what_a_stage_puts_out_is_what_the_next_one_gets() -> None:
    ledger = Ledger()
    ledger.chained = True
    ledger.book("socket", incoming=10, outgoing=10)
    ledger.book("framing", incoming=10, outgoing=9)
    ledger.book_lost("framing", "malformed", 1)
    assert ledger.imbalance() == {"framing -> parser": 9}
    ledger.book("parser", incoming=9)
    ledger.book_kinds("parser", flows=6, agent=1, debug=1, lost=1)
    assert ledger.imbalance() == {"parser -> history": 6}
    ledger.book("history", incoming=6)
    ledger.stages["history"].waiting = 6
    assert ledger.imbalance() == {}
    ledger.book("history", incoming=1, outgoing=1)
    assert ledger.imbalance() == {"parser -> history": -1}


def test_a_stage_alone_has_no_neighbours() -> None:
    ledger = Ledger()
    ledger.book("parser", incoming=1)
    ledger.book_kinds("parser", flows=1)
    assert ledger.imbalance() == {}


def test_what_a_failing_stage_had_is_lost_there() -> None:
    ledger = Ledger()
    ledger.chained = True
    ledger.book("socket", incoming=5, outgoing=5)
    ledger.book("framing", incoming=5, outgoing=5)
    ledger.book_failure()
    assert ledger.imbalance() == {}
    assert ledger.stages["parser"].lost == {"internal_error": 5}
    assert ledger.stages["history"].incoming == 0


def test_nothing_lost_is_not_a_reason() -> None:
    ledger = Ledger()
    ledger.book_lost("parser", "decode", 0)
    assert "decode" not in ledger.stages["parser"].lost


def test_what_nobody_can_count_is_counted_by_occasion() -> None:
    ledger = Ledger()
    ledger.book_unobservable("socket", "gap")
    assert ledger.unobservable == {("socket", "gap"): 1}
    assert ("socket", "gap") in NOT_OBSERVABLE
    assert ledger.imbalance() == {}


def test_hubbles_error_classes_are_the_parsers_reasons() -> None:
    from tests.fixtures import expected, streams

    seen = {
        line["class"]
        for stream in streams()
        for line in expected(*stream)
        if line["kind"] == "error" and not line.get("stale")
    }
    assert seen == set(ERROR_CLASSES) - {"unknown-event"}
