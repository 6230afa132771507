from __future__ import annotations

import json

from bridge.event_log import EventLog


def test_an_event_is_held_back_after_its_burst_and_the_rest_is_counted() -> None:
    now = 1_700_000_000.0
    lines: list[str] = []
    log = EventLog(write=lines.append, clock=lambda: now, burst=3, line_format="json")
    for number in range(1000):
        log.info("peer.odd", number=number)
    log.info("peer.other")
    now += 60
    log.info("peer.odd", number=1000)
    told = [json.loads(line) for line in lines]
    assert [0, 1, 2, None, 1000] == [line.get("number") for line in told]
    assert 997 == told[-1]["suppressed"]


def test_a_peers_bytes_cannot_move_the_cursor() -> None:
    lines: list[str] = []
    EventLog(write=lines.append).warning("peer.said", text="\x1b[2J\nfake line")
    assert 1 == len(lines)
    assert lines[0].isprintable()


def test_events_below_the_level_are_not_written() -> None:
    lines: list[str] = []
    log = EventLog(write=lines.append, level="warning")
    log.info("quiet")
    log.warning("loud")
    log.set_level("debug")
    log.debug("heard")
    assert ["loud", "heard"] == [line.split()[2] for line in lines]
