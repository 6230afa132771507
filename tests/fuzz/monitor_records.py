"""Invariant: any record has one result, which does not depend on its neighbours.

The first byte of the input chooses what the parser is told of the agent's release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from parsers.world import directory_of
from tests.fixtures import Payload, payloads, streams, world
from tests.parsers.recorded import Facts, Parser, batch_of

HINTS = (None, (1, 14), (1, 16), (1, 18), (1, 19), (1, 20))
DIRECTORY = directory_of(world("v1.19"))
NEIGHBOUR = next(p for p in payloads("v1.19", "steady") if p.data[:1] == b"\x04")


def seeds() -> Iterator[bytes]:
    """A record of each type, length and release."""
    seen: set[tuple[str, int, int]] = set()
    for release, mix in streams():
        for payload in payloads(release, mix):
            key = (release, payload.data[0] if payload.data else 0, len(payload.data) // 16)
            if payload.type == 9 and key not in seen:
                seen.add(key)
                yield bytes([len(seen) % len(HINTS)]) + payload.data


def check(data: bytes) -> None:
    """Parse it alone, and behind another record; print what came of it."""
    if not data:
        return
    hint, record = HINTS[data[0] % len(HINTS)], Payload(data[1:], 0, 0, 9)
    parser = Parser(world("v1.19"), hint, directory=DIRECTORY)
    parsed = parser.parse(batch_of([record]))
    alone = _without_times(dict(parser.facts(parsed))[0])
    for _, make in parser.results(parsed):
        make()
    parser = Parser(world("v1.19"), hint, directory=DIRECTORY)
    together = dict(parser.facts(parser.parse(batch_of([NEIGHBOUR, record]))))
    assert _without_times(together[1]) == alone


def _without_times(facts: Facts) -> Facts:
    """The clock of a world goes on with each record, and so do sequence numbers."""
    if len(facts) > 1:
        return facts[1:]
    return (replace(facts[0], time=0, sequence=0),)
