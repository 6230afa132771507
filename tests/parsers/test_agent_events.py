"""Agent notifications mean to us what they mean to Hubble."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from parsers.agent_events import AgentEventDecoder
from parsers.errors import ProtocolError
from tests.fixtures import expected, payloads, release_number, streams
from tests.parsers.event_json import agent_json

AGENT = 130


def records(release: str, mix: str) -> list[tuple[bytes, dict[str, Any]]]:
    lines = zip(payloads(release, mix), expected(release, mix), strict=True)
    return [(p.data, e) for p, e in lines if p.type == 9 and p.data[:1] == bytes([AGENT])]


@pytest.mark.parametrize(("release", "mix"), [*streams(), ("v1.19", "mutated")])
def test_every_recorded_notification_gives_what_hubble_made_of_it(release: str, mix: str) -> None:
    decoder = AgentEventDecoder(release_number(release))
    unequal = []
    for data, line in records(release, mix):
        theirs = line.get("event") or line["class"]
        ours: dict[str, Any] | str
        try:
            ours = agent_json(decoder.decode(data))
        except ProtocolError as error:
            ours = error.error_class
        if "unmarshalable" in theirs:
            continue  # a string that is not UTF-8: Hubble cannot send the event, we can
        if ours != theirs:
            unequal.append((line["i"], ours, theirs))
    assert [] == unequal


def test_the_recordings_hold_every_kind_of_notification() -> None:
    kinds: Counter[str] = Counter()
    for stream in streams():
        for _, line in records(*stream):
            kinds[line.get("event", {}).get("type", "AGENT_EVENT_UNKNOWN")] += 1
    assert 12 == len(kinds)


def test_services_are_unknown_to_agents_since_1_18() -> None:
    data, line = next(r for r in records("v1.17", "all") if "service_upsert" in str(r[1]))
    assert line["event"] == agent_json(AgentEventDecoder((1, 17)).decode(data))
    assert line["event"] == agent_json(AgentEventDecoder().decode(data))
    assert {"type": "11"} == {
        "type": agent_json(AgentEventDecoder((1, 18)).decode(data))["unknown"]["type"]
    }


def test_a_notification_cut_at_any_offset_is_refused_as_gob() -> None:
    decoder = AgentEventDecoder()
    for data, line in records("v1.19", "all")[:12]:
        if line["kind"] == "agent":
            for stop in range(1, len(data)):
                with pytest.raises(ProtocolError) as error:
                    decoder.decode(data[:stop])
                assert "gob" == error.value.error_class


def test_random_mutations_raise_nothing_but_protocol_errors() -> None:
    rng = random.Random(5)
    pool = [data for data, line in records("v1.17", "all") if line["kind"] == "agent"]
    decoder = AgentEventDecoder()
    outcomes: Counter[str] = Counter()
    for _ in range(5_000):
        data = bytearray(rng.choice(pool))
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(1, len(data))] = rng.randrange(256)
        try:
            decoder.decode(bytes(data))
            outcomes["decoded"] += 1
        except ProtocolError as error:
            outcomes[error.error_class] += 1
    assert {"decoded", "gob"} == set(outcomes)


def test_each_byte_that_is_no_utf_8_becomes_one_replacement_character() -> None:
    # As Hubble 1.19 made of record 22208 of ``oracle gen --seed 2832532904 --mix hostile``.
    data = next(d for d, _ in records("v1.19", "all") if b"metadata.name=monitoring" in d)
    changed = data.replace(b"name=monitoring", b"name=\xec\xbdnitoring")
    shown = str(agent_json(AgentEventDecoder().decode(changed)))
    assert "metadata.name=\ufffd\ufffdnitoring" in shown
