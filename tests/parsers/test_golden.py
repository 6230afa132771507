"""Hubble's own parser and ours make the same of every recorded payload, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures import RELEASES, Payload, expected, payloads, release_number, stream_bytes, streams, world
from tests.parsers import recorded
from tests.parsers.hubble_differences import FILLER, TABLE, as_printed_by, as_read_by

NOT_YET = {2, 129, 130}


def _differing(release: str, mix: str, fired: set[str]) -> list[Any]:
    """Payload numbers and differences that the table does not explain."""
    known = world(release)
    hint = release_number(release)
    sent = payloads(release, mix)
    read = [p._replace(data=as_read_by(release, p.data, known, fired)) for p in sent]
    ours = (
        recorded.of_stream(stream_bytes(release, mix), known, hint)
        if read == sent
        else recorded.of_payloads(read, known, hint)
    )
    open_: dict[int, Any] = {}
    for want in expected(release, mix):
        number = want["i"]
        if want.get("stale") or (sent[number].type == 9 and sent[number].data[:1] and sent[number].data[0] in NOT_YET):
            continue
        differences = _compare(release, want, ours[number](), sent[number], known, fired)
        if differences:
            open_[number] = (want, differences)
    if not open_:
        return []
    filled = [Payload(_filled(read[n].data), *sent[n][1:]) if n in open_ else read[n] for n in range(len(sent))]
    ours = recorded.of_payloads(filled, known, hint)
    unexplained = []
    for number, (want, plain) in open_.items():
        differences = _compare(release, want, ours[number](), sent[number], known, fired)
        if filled[number] != read[number] and not differences:
            fired.add(FILLER.name)
        else:
            unexplained.append((number, plain, sent[number].data[:140].hex()))
    return unexplained


def _filled(data: bytes) -> bytes:
    changed = bytearray(data)
    assert FILLER.record is not None
    FILLER.record(changed, {})
    return bytes(changed)


def _compare(
    release: str, want: dict[str, Any], ours: dict[str, Any], sent: Payload,
    known: dict[str, Any], fired: set[str],
) -> list[Any]:  # fmt: skip
    wanted = {name: want[name] for name in ("kind", "event", "class") if name in want}
    if ours["kind"] == "flow":
        ours = {**ours, "event": as_printed_by(release, ours["event"], sent.data, known, fired)}
    return recorded.differences(wanted, ours)
