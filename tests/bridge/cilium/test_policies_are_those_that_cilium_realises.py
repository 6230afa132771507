"""Rules behind verdicts, from what Cilium's own policy package says of some rules.

``tests/data/policies/main.go`` made the answers of the agent and the policy map side by side.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.cilium.policies import Endpoint, Selector, policies_of
from parsers.details import Policy
from parsers.policies import EGRESS, INGRESS, PolicyEntry, PolicyRules, policy_from_labels

_MADE = json.loads(
    (Path(__file__).parents[2] / "data" / "policies" / "v1.19.json").read_text(encoding="utf-8")
)
_ENDPOINT = 42
_WHOLE_PORT = 16  # bits
_DIRECTIONS = {"ingress": INGRESS, "egress": EGRESS}
_TCP, _UDP = 6, 17
_DB, _CACHE, _STRANGER = 1005, 1006, 4242
_TWO_SELECTORS = 5432  # the egress filter whose rules are not told apart


def known(endpoints: list[dict[str, Any]] = _MADE["endpoint"]) -> dict[int, PolicyRules]:
    told = policies_of(
        msgspec.json.decode(json.dumps(endpoints), type=list[Endpoint]),
        msgspec.json.decode(json.dumps(_MADE["selectors"]), type=list[Selector]),
    )
    return dict(told)


def policies(entry: dict[str, Any]) -> tuple[Policy, ...]:
    revision = _MADE["endpoint"][0]["status"]["policy"]["realized"]["policy-revision"]
    return tuple(policy_from_labels(tuple(labels), revision) for labels in entry["rules"])


@pytest.mark.parametrize(
    "entry", _MADE["entries"], ids=lambda e: f"{e['direction']}-{e['identity']}-{e['port']}"
)
def test_what_the_map_has_is_named_by_its_rules(entry: dict[str, Any]) -> None:
    rules, direction = known()[_ENDPOINT], _DIRECTIONS[entry["direction"]]
    asked = direction, entry["identity"] or _STRANGER, entry["protocol"], entry["port"]
    expected = () if entry["port"] == _TWO_SELECTORS else policies(entry)
    covering, exact = rules.covering(*asked), rules.exact(*asked, match_type=2)
    if not entry["identity"]:
        exact = rules.exact(*asked, match_type=3)  # any peer
    assert covering is not None
    assert (expected, entry["deny"]) == (covering.policies, covering.deny)
    if entry["port-prefix"] in {0, _WHOLE_PORT}:
        assert covering == exact
    else:  # of a range of ports
        assert exact is None
        assert covering == rules.covering(*asked[:3], 1535)
        assert rules.covering(*asked[:3], 1536) != covering


def test_who_is_in_no_rule_is_named_by_none() -> None:
    rules = known()[_ENDPOINT]
    assert rules.covering(INGRESS, _STRANGER, _TCP, 80) is None
    assert rules.covering(EGRESS, _DB, _UDP, 5432) is None


@pytest.mark.parametrize(
    "endpoint",
    [
        {"id": 1},
        {"id": 1, "status": None},
        {"id": 1, "status": {"policy": None}},
        {"id": 1, "status": {"policy": {"realized": None}}},
        {"id": 1, "status": {"policy": {"realized": {"l4": None}}}},
        {"id": 1, "status": {"policy": {"realized": {"l4": {"ingress": None}}}}},
        {"id": 1, "status": {"policy": {"realized": {"l4": {"egress": [{"rule": "{"}]}}}}},
        {"id": 1, "status": {"policy": {"realized": {"l4": {"egress": "all"}}}}},
    ],
)
def test_an_endpoint_without_a_policy_has_none(endpoint: dict[str, Any]) -> None:
    rules = known([endpoint]).get(1)
    assert rules is None or rules.covering(EGRESS, _CACHE, _TCP, 5432) is None


@pytest.mark.parametrize("said", ['\\"verdict\\":1', '\\"IsDeny\\":true'], ids=["1.19", "before"])
def test_denial_is_told_by_either_word(said: str) -> None:
    text = json.dumps(_MADE["endpoint"])
    assert 1 == text.count('\\"verdict\\":1')
    rules = known(json.loads(text.replace('\\"verdict\\":1', said)))[_ENDPOINT]
    denied = PolicyEntry(INGRESS, 1003, 0, 0, policies(_by_name("deny-bad")), deny=True)
    assert denied == rules.covering(INGRESS, 1003, _TCP, 80)


def _by_name(name: str) -> dict[str, Any]:
    (found,) = [e for e in _MADE["entries"] if name in json.dumps(e["rules"])]
    assert isinstance(found, dict)
    return found
