"""Debug messages read as Hubble writes them."""

from __future__ import annotations

from typing import Any

import pytest

from parsers.debug_events import TEMPLATES, decode_debug_event
from parsers.errors import ProtocolError
from tests.fixtures import expected, payloads, streams
from tests.parsers.event_differences import DEBUG_MESSAGES
from tests.parsers.event_json import debug_json

DEBUG = 2


def compare(release: str, mix: str) -> tuple[list[Any], set[str], set[int]]:
    """What is not equal, the differences that explained something, and the sub types seen."""
    unequal: list[Any] = []
    fired: set[str] = set()
    seen: set[int] = set()
    for payload, line in zip(payloads(release, mix), expected(release, mix), strict=True):
        if payload.type != 9 or payload.data[:1] != bytes([DEBUG]):
            continue
        theirs = line.get("event") or line["class"]
        ours: dict[str, Any] | str
        try:
            ours = debug_json(decode_debug_event(payload.data, payload.cpu))
        except ProtocolError as error:
            ours = error.error_class
        if isinstance(ours, dict):
            seen.add(payload.data[1])
            for entry in DEBUG_MESSAGES:
                rule = entry.event if entry.holds_for(release) else None
                if rule and rule(ours, payload.data, {}):
                    fired.add(entry.name)
        if isinstance(theirs, dict) and isinstance(ours, dict):
            # Older APIs had no names for the newest numbers.
            theirs = {k: v for k, v in theirs.items() if k not in ("source", "type")} | (
                {"source": {"ID": theirs["source"]["ID"]}} if "source" in theirs else {}
            )
            ours = {k: v for k, v in ours.items() if k != "type"}
        if ours != theirs:
            unequal.append((line["i"], ours, theirs))
    return unequal, fired, seen


@pytest.mark.parametrize(("release", "mix"), streams())
def test_every_recorded_message_reads_as_hubbles(release: str, mix: str) -> None:
    unequal, _, _ = compare(release, mix)
    assert [] == unequal


def test_the_recordings_hold_every_message_there_is() -> None:
    assert set(TEMPLATES) <= compare("v1.20", "all")[2]


def test_every_difference_between_releases_is_needed() -> None:
    fired = set().union(*(compare(*stream)[1] for stream in streams()))
    assert {entry.name for entry in DEBUG_MESSAGES} == fired


@pytest.mark.parametrize("release", ["v1.19", "v1.20"])
def test_types_have_the_names_of_the_newest_api(release: str) -> None:
    for payload, line in zip(payloads(release, "all"), expected(release, "all"), strict=True):
        if line["kind"] == "debug":
            ours = debug_json(decode_debug_event(payload.data, payload.cpu))
            assert line["event"].get("type") == ours.get("type")


def test_a_record_cut_short_is_refused() -> None:
    for length in range(1, 20):
        with pytest.raises(ProtocolError) as error:
            decode_debug_event(bytes([DEBUG]) + bytes(length - 1), 0)
        assert "decode" == error.value.error_class
