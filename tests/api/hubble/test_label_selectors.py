"""Kubernetes' selector rules, and Hubble's label sources in front of the keys."""

from __future__ import annotations

import pytest

from api.hubble.label_selector import selector
from parsers.errors import UsageError

LABELS = (
    "cidr:10.1.0.0/16",
    "k8s:app=web",
    "k8s:io.kubernetes.pod.namespace=shop",
    "k8s:replicas=3",
    "reserved:host",
    "container:app=other",
    "k8s:empty=",
)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing!=web", True),
        ("k8s:app=web", True),
        ("any:app=web", True),
        ("container:app=web", False),
        ("container:app=other", True),
        ("app", True),
        ("!app", False),
        ("missing", False),
        ("!missing", True),
        ("app in (web, db)", True),
        ("app in (db)", False),
        ("app notin (web)", False),
        ("missing notin (web)", True),
        ("app=web,replicas", True),
        ("app=web,!replicas", False),
        ("app=web,app!=web", False),
        ("replicas>2", True),
        ("replicas > 3", False),
        ("replicas<4", True),
        ("app>1", False),
        ("empty=", True),
        ("empty in (,x)", True),
        ("reserved:host", True),
        ("reserved:world", False),
        ("k8s:io.kubernetes.pod.namespace=shop", True),
        ("cidr:10.1.0.0/16", True),
        ("cidr:10.0.0.0/8", True),
        ("cidr:10.1.2.0/24", False),
        ("App=web", False),
    ],
)
def test_a_selector_matches_or_not(text: str, matches: bool) -> None:
    assert selector(text)(LABELS) is matches


@pytest.mark.parametrize(
    "text",
    [
        "a in (", "a in b", "=x", "a=b=c", "a b", "a,,b", "a,", "a in (x y)", "a=b:c", "a:b:c=d",
        "a>x", "a=-x", "/x", "!", "(", "!a=b",
    ],
)  # fmt: skip
def test_a_text_that_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^(unable to parse requirement: )?(found '|\w+: )"):
        selector(text)


def test_nothing_of_a_selector_raises_on_odd_labels() -> None:
    odd = ("", ":", "=", "a", "k8s:", "cidr:nonsense", "$host", "k8s:a=b=c", "x=y:z")
    assert selector("!q,cidr:10.0.0.0/8")(odd) is False
    assert selector("reserved:host")(odd) is True
    assert selector("a")(odd) is True
    assert selector("x")(odd) is True
