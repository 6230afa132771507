"""URLs, times, quoted strings and JSON come out as Go's standard library makes them.

``data/go_text.jsonl.xz`` holds byte strings, random changes of valid ones among them, and
what Go 1.26 made of each: ``net/url`` (with urlstrictcolons=0, passwords replaced), ``time``,
``strconv``, ``encoding/json``; null where it refused.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from parsers import go_json
from parsers.go_text import parse_rfc3339, quote
from parsers.go_url import accepts_url, print_url

CASES = Path(__file__).parent.parent / "data" / "go_text.jsonl.xz"


def cases(kind: str) -> list[tuple[bytes, Any]]:
    lines = map(json.loads, lzma.decompress(CASES.read_bytes()).splitlines())
    return [(bytes.fromhex(c["in"]), c["out"]) for c in lines if c["kind"] == kind]


def as_utf8(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode("utf-8", "replace")


def test_urls_are_refused_and_printed_as_go_does() -> None:
    unequal = []
    for text, printed in cases("url"):
        ours = print_url(text) if accepts_url(text) else None
        theirs = None if printed is None else as_utf8(printed)
        if ours != theirs:
            unequal.append((text, ours, theirs))
    assert [] == unequal


def test_times_are_refused_and_read_as_go_does() -> None:
    unequal = []
    for text, time in cases("time"):
        theirs = None if time is None else time[0] * 10**9 + time[1]
        if parse_rfc3339(text) != theirs:
            unequal.append((text, parse_rfc3339(text), theirs))
    assert [] == unequal


def test_strings_are_quoted_as_go_does() -> None:
    assert [] == [c for c in cases("quote") if quote(c[0]) != as_utf8(c[1])]


def test_json_is_accepted_and_printed_as_go_does() -> None:
    unequal = []
    for text, (valid, printed) in cases("json"):
        decoded = text.decode("utf-8", "replace")
        try:
            go_json.parse(decoded)
        except ValueError:
            ours = (False, go_json.quoted(text))
        else:
            ours = (True, go_json.compact(decoded))
        if ours != (valid, as_utf8(printed)):
            unequal.append((text, ours, as_utf8(printed)))
    assert [] == unequal


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('{"ID": 7, "id": 8}', {"id": 8}),  # names in any case, the last one counts
        ('{"id": null, "more": 1}', {}),
        ("null", {}),
    ],
)
def test_members_are_found_as_go_finds_them(text: str, fields: dict[str, int]) -> None:
    assert fields == go_json.fields(go_json.parse(text), {"id": go_json.unsigned(32)})


@pytest.mark.parametrize("text", ['{"id": -1}', '{"id": 4294967296}', '{"id": 1.0}', '{"id": "1"}',
                                  '{"id": true}', "[]", "7"])  # fmt: skip
def test_members_of_another_type_are_refused(text: str) -> None:
    with pytest.raises(go_json.MismatchError):
        go_json.fields(go_json.parse(text), {"id": go_json.unsigned(32)})


def test_a_number_of_thousands_of_digits_is_json_but_fits_nothing() -> None:
    parsed = go_json.parse('{"id": ' + "9" * 5000 + "}")
    with pytest.raises(go_json.MismatchError):
        go_json.fields(parsed, {"id": go_json.unsigned(32)})
