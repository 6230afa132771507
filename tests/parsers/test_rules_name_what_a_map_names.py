"""A policy known by its rules names verdicts as the endpoint's map does, in recorded streams."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

from parsers.details import Policy
from parsers.policies import EGRESS, INGRESS, PolicyRule, PolicyRules, policy_from_labels
from parsers.world import directory_of
from tests.fixtures import release_number, stream_bytes, world
from tests.parsers.recorded import Parser, batches

Policies: TypeAlias = tuple[bool, frozenset[Policy]]
_DIRECTIONS = {"ingress": INGRESS, "egress": EGRESS}


def rule(said: dict[str, Any]) -> PolicyRule:
    return PolicyRule(
        _DIRECTIONS[said["direction"]],
        frozenset([said["identity"]]) if said.get("identity") else None,
        said.get("proto", 0),
        said.get("port", 0),
        0,
        tuple(policy_from_labels(tuple(labels), said["revision"]) for labels in said["rules"]),
        deny=said.get("deny", False),
    )


@pytest.mark.parametrize("release", ["v1.19", "v1.20"])
def test_verdicts_are_named_by_rules_as_by_maps(release: str) -> None:
    known = world(release)
    without = {**known, "endpoints": [{**e, "policy": None} for e in known["endpoints"]]}
    directory = directory_of(without)
    directory.set_policies(
        {e["id"]: PolicyRules(map(rule, e["policy"])) for e in known["endpoints"] if "policy" in e}
    )
    by_rules = Parser(known, release_number(release), directory=directory)
    by_map = Parser(known, release_number(release))
    shown = [named(parser, release) for parser in (by_map, by_rules)]
    assert len(shown[0]) > 40
    assert shown[0] == shown[1]


def named(parser: Parser, release: str) -> list[tuple[int, Policies]]:
    """Numbers of flows with rules, and these."""
    found = []
    for batch in batches(stream_bytes(release, "all")):
        flows = parser.parse(batch).flows
        details = parser.tables.details
        for number, row in zip(flows.sequence.tolist(), flows.detail.tolist(), strict=True):
            match = details[row].policy
            if match is not None:
                found.append((number, (match.denied, frozenset(match.policies))))
    return found
