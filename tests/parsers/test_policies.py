"""The rule that a verdict names is the one the datapath took, as far as the record tells.

Rules: Cilium's documentation of policy maps. The golden tests hold the whole against
Hubble; here are the cases that its 1.20.2 gets wrong.
"""

from __future__ import annotations

import numpy as np
import pytest

from parsers.details import Policy
from parsers.policies import (
    AS_ALLOWING,
    AS_DENYING,
    EGRESS,
    INGRESS,
    NOT_NAMED,
    PolicyEntry,
    PolicyMap,
    naming,
    policy_from_labels,
)

TCP, UDP = 6, 17
PEER, OTHER = 1207, 1300


def entry(identity: int, protocol: int = 0, port: int = 0, *, deny: bool = False) -> PolicyEntry:
    name = f"{identity}/{protocol}/{port}" + ("/deny" if deny else "")
    return PolicyEntry(INGRESS, identity, protocol, port, (Policy(name, "", (), 1, ""),), deny=deny)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry(PEER, TCP, 80), entry(0)], entry(PEER, TCP, 80)),
        ([entry(PEER, TCP), entry(0)], entry(PEER, TCP)),
        ([entry(PEER), entry(0, TCP, 80)], entry(0, TCP, 80)),
        ([entry(PEER), entry(0)], entry(PEER)),
        ([entry(PEER, TCP, 80), entry(0, deny=True)], entry(0, deny=True)),
        ([entry(PEER, deny=True), entry(0, TCP, 80)], entry(PEER, deny=True)),
        ([entry(PEER, deny=True), entry(0, TCP, 80, deny=True)], entry(PEER, deny=True)),
        ([entry(PEER, TCP, 81), entry(0, UDP), entry(OTHER)], None),
        ([entry(PEER), entry(PEER, TCP), entry(PEER, TCP, 80)], entry(PEER, TCP, 80)),
    ],
)
def test_the_more_specific_of_peer_and_anyone_decides_and_denial_above_all(
    entries: list[PolicyEntry], expected: PolicyEntry | None
) -> None:
    for order in (entries, entries[::-1]):
        assert PolicyMap(order).covering(INGRESS, PEER, TCP, 80) == expected
    assert PolicyMap(entries).covering(EGRESS, PEER, TCP, 80) is None


def test_an_unknown_peer_is_anyone() -> None:
    found = PolicyMap([entry(0, TCP, 80), entry(PEER)]).covering(INGRESS, 0, TCP, 80)
    assert found == entry(0, TCP, 80)


@pytest.mark.parametrize(
    ("match_type", "expected"),
    [
        (1, entry(PEER)), (2, entry(PEER, TCP, 80)), (3, entry(0, TCP, 80)), (4, entry(0)),
        (5, entry(PEER, TCP)), (6, entry(0, TCP)),
    ],
)  # fmt: skip
def test_until_1_19_the_match_type_shapes_the_key(match_type: int, expected: PolicyEntry) -> None:
    everything = [entry(i, p, q) for i in (0, PEER) for p, q in ((0, 0), (TCP, 0), (TCP, 80))]
    assert PolicyMap(everything).exact(INGRESS, PEER, TCP, 80, match_type) == expected
    without = PolicyMap(e for e in everything if e != expected)
    assert without.exact(INGRESS, PEER, TCP, 80, match_type) is None


FORWARDED, DROPPED, AUDIT, REDIRECTED, TRACED = 1, 2, 4, 5, 6


@pytest.mark.parametrize(
    ("verdict", "reason", "until_1_19", "since_1_20"),
    [
        (FORWARDED, 0, AS_ALLOWING, AS_ALLOWING), (REDIRECTED, 0, AS_ALLOWING, AS_ALLOWING),
        (DROPPED, 181, AS_DENYING, AS_DENYING), (DROPPED, 133, NOT_NAMED, AS_DENYING),
        (AUDIT, 0, NOT_NAMED, AS_DENYING), (DROPPED, 130, NOT_NAMED, NOT_NAMED),
        (TRACED, 0, NOT_NAMED, NOT_NAMED),
    ],
)  # fmt: skip
def test_which_verdicts_name_rules(
    verdict: int, reason: int, until_1_19: int, since_1_20: int
) -> None:
    row = np.array([verdict], dtype=np.uint8), np.array([reason], dtype=np.uint32)
    assert [until_1_19] == naming(*row, covering=False).tolist()
    assert [since_1_20] == naming(*row, covering=True).tolist()


def test_a_rule_is_named_by_its_labels() -> None:
    labels = (
        "k8s:io.cilium.k8s.policy.derived-from=CiliumNetworkPolicy",
        "k8s:io.cilium.k8s.policy.name=allow=all",
        "k8s:io.cilium.k8s.policy.namespace=shop",
        "k8s:io.cilium.k8s.policy.uid=1",
        "any:io.cilium.k8s.policy.name=other",
    )
    assert policy_from_labels(labels, 7) == Policy(
        "allow=all", "shop", labels, 7, "CiliumNetworkPolicy"
    )
