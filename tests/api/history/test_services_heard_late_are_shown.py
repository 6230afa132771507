"""Flows that were read before their services were known are shown as those read after it.

The latter are what Hubble shows, by the tests of recorded streams.
"""

from __future__ import annotations

from typing import Any

import pytest

from api.history import History, corrector, reclaim
from api.history.corrector import Corrector
from api.v1.flow import flow_pb2
from parsers.addresses import parse_address
from parsers.details import Service
from parsers.ledger import Ledger
from parsers.world import directory_of
from tests.fixtures import release_number, stream_bytes, world
from tests.parsers.recorded import Parser, batches

RELEASE, MIX = "v1.20", "all"


def services_of(known: dict[str, Any]) -> dict[tuple[bytes, int], Service]:
    return {
        (parse_address(each["ip"]) or b"", each["port"]): Service(each["name"], each["namespace"])
        for each in known["services"]
    }


def kept(history: History, parser: Parser) -> dict[int, flow_pb2.Flow]:
    """What is shown of the flows of a history, by payload."""
    return {
        int(piece.sequence[row]): parser.messages.flow(piece, row)
        for _, piece in history.flows.pieces(0, history.flows.end, 1000)
        for row in range(len(piece))
        if piece.attribute("flow_type")[row] != flow_pb2.SOCK
    }


def fill(known: dict[str, Any]) -> tuple[History, Parser, Corrector]:
    directory = directory_of(known)
    parser = Parser(known, release_number(RELEASE), directory=directory)
    history = History(parser.tables, Ledger(), 1 << 16, 0)
    correct = Corrector(history, directory)
    for batch in batches(stream_bytes(RELEASE, MIX)):
        history.append(parser.parse(batch).flows)
    return history, parser, correct


def test_in_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrector, "SERVED", 7)
    monkeypatch.setattr(reclaim, "_FEWEST", (4,) * 5)
    whole = world(RELEASE)
    want = kept(*fill(whole)[:2])
    history, parser, correct = fill(whole | {"services": []})
    before = kept(history, parser)
    parser.pipeline.directory.set_services(services_of(whole))
    for _ in correct.sweep(0):
        pass
    history.reclaim()  # what nothing refers to
    got = kept(history, parser)
    assert [(n, got[n]) for n in want if got[n] != want[n]][:2] == []
    changed = [n for n in want if before[n] != want[n]]
    assert len(changed) > 20
    assert correct.corrected >= len(changed)
    assert not any(1 for _ in correct.sweep(0))
