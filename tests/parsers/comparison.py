"""Hubble's results of a stream against ours, but for the differences of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parsers.redaction import DEFAULT_REDACTION, Redaction
from tests.fixtures import Payload, release_number, split_stream
from tests.parsers.hubble_differences import FILLER, print_as, read_as
from tests.parsers.recorded import Result, World, batches, differences, made_by_hand, results_of

Unexplained = tuple[int, list[tuple[str, Any, Any]]]
"""Payload number and what differs: path, wanted, got."""


def compare(
    release: str,
    stream: bytes,
    expected: Sequence[Result],
    world: World,
    fired: set[str],
    redaction: Redaction = DEFAULT_REDACTION,
) -> list[Unexplained]:
    """What the table leaves unexplained; the names of entries that were needed go to ``fired``.

    Lines marked stale are skipped.
    """
    hint, sent = release_number(release), split_stream(stream)
    read = [p._replace(data=read_as(release, p.data, world, fired)) for p in sent]
    whole = batches(stream) if read == sent else made_by_hand(read)
    ours = results_of(whole, world, hint, redaction)
    differing = {}
    for want in expected:
        number = want["i"]
        if not want.get("stale"):
            found = _compare(release, want, ours[number](), sent[number], world, fired)
            if found:
                differing[number] = (want, found)
    # Only where the answers differ: what if the filler behind the packet counts as packet?
    filled = [p._replace(data=_filled(p.data)) if n in differing else p for n, p in enumerate(read)]
    ours = results_of(made_by_hand(filled), world, hint, redaction) if differing else {}
    unexplained = []
    for number, (want, found) in differing.items():
        again = _compare(release, want, ours[number](), sent[number], world, fired)
        if filled[number] == read[number] or again:
            unexplained.append((number, found))
        else:
            fired.add(FILLER.name)
    return unexplained


def _compare(
    release: str, want: Result, ours: Result, sent: Payload, world: World, fired: set[str]
) -> list[tuple[str, Any, Any]]:
    wanted = {name: want[name] for name in ("kind", "event", "class") if name in want}
    if "event" in ours:
        print_as(release, ours, sent.data, world, fired)
    return differences(wanted, ours)


def _filled(data: bytes) -> bytes:
    changed = bytearray(data)
    assert FILLER.record is not None
    FILLER.record(changed, {})
    return bytes(changed)
