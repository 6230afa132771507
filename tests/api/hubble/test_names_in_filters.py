"""The rules of Hubble's filter package for pods, DNS names, nodes, ports, status codes and
regular expressions. What is said about those was printed by Go's package regexp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from api.hubble import patterns
from parsers.errors import UsageError


@pytest.mark.parametrize(
    ("text", "namespace", "name", "matches"),
    [
        ("xwing", "default", "xwing-1", True),
        ("xwing", "other", "xwing-1", False),
        ("kube-system/coredns-", "kube-system", "coredns-x", True),
        ("kube-system/coredns-", "kube-system", "dns", False),
        ("kube-system/", "kube-system", "", True),
        ("/xwing", "any", "xwing", True),
        ("/", "", "name", True),
        ("/", "", "", False),
        ("a/b/c", "a", "bd", True),
        ("a/*", "a", "x", False),
    ],
)
def test_pods_go_by_namespace_and_prefix(
    text: str, namespace: str, name: str, matches: bool
) -> None:
    assert patterns.name_prefix(text)(namespace, name) is matches


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("example.com", "example.com", True),
        (" Example.COM. ", "example.com", True),
        ("example.com", "www.example.com", False),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*", "", True),
        ("*", "under_score", False),
        ("*.cluster.local*", "x.svc.cluster.local", True),
        ("ex.mple.com", "example.com", False),
    ],
)
def test_a_star_in_a_dns_name_is_any_run_of_its_characters(
    text: str, name: str, matches: bool
) -> None:
    assert bool(patterns.fqdn(text).fullmatch(name)) is matches


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("node-a", "node-a", True),
        ("node-a", "prod/node-a", True),
        ("default/node-a", "node-a", True),
        ("default/node-a", "prod/node-a", False),
        ("prod/", "prod/any-node.x", True),
        ("prod/", "any", False),
        ("node-*", "prod/node-7", True),
        ("*", "", False),
    ],
)
def test_a_node_may_be_named_with_its_cluster(text: str, name: str, matches: bool) -> None:
    absolute = patterns.absolute_node_name(name)
    assert bool(patterns.node_name(text).fullmatch(absolute)) is matches


@pytest.mark.parametrize(
    ("text", "codes"), [("404", {404}), ("4+", {400, 404}), ("40+", {400, 404}), ("2+", {200})]
)
def test_a_status_code_is_exact_or_a_prefix(text: str, codes: set[int]) -> None:
    matches = patterns.status_code(text)
    assert {code for code in (0, 200, 400, 404, 503) if matches(code)} == codes


@pytest.mark.parametrize(
    ("compile_it", "text", "message"),
    [
        (patterns.name_prefix, "", "name must not be empty"),
        (patterns.fqdn, "", "empty pattern"),
        (patterns.fqdn, "a..", "multiple trailing dots in pattern"),
        (patterns.fqdn, ".", "empty pattern"),
        (patterns.fqdn, "a b", "' ': invalid rune in pattern"),
        (patterns.node_name, "a/b/c", "too many slashes in pattern"),
        (patterns.status_code, "600", 'invalid status code prefix: "600"'),
        (patterns.status_code, "5++", "invalid status code prefix"),
        (patterns.status_code, "+", "invalid status code prefix"),
        (patterns.status_code, "4xx", "invalid status code prefix"),
        (patterns.port, "65536", "value out of range"),
        (patterns.port, "-1", "invalid syntax"),
        (patterns.port, "80-90", "invalid syntax"),
        (patterns.port, "9" * 5000, "value out of range"),
    ],
)
def test_what_names_nothing_is_refused(
    compile_it: Callable[[str], Any], text: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compile_it(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(", "missing closing ): `(`"),
        ("a(b", "missing closing ): `a(b`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        (r"(a)\1", r"invalid escape sequence: `\1`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        (r"\Qa\E\\\C", r"invalid escape sequence: `\C`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (")", "unexpected ): `)`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        ("[a", "missing closing ]: `[a`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
    ],
)
def test_an_expression_is_refused_in_the_words_of_go(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        patterns.expression(text)
    assert str(caught.value) == f"error parsing regexp: {message}"


@pytest.mark.parametrize(
    ("text", "found", "not_found"),
    [
        ("b", "abc", "ac"),
        ("^a$", "a", "a\n"),  # where Python's would find it
        ("a.c", "abc", "a\nc"),
        (r"(?i)É", "é", "e"),
        (r"\pN", "x7", "x"),
        (r"a\z", "ba", "ab"),
        (r"\Qa.b\C\E", r"a.b\C", "axb"),
        (r"\\C", r"\C", "C"),
        ("(a*)*c", "a" * 5000 + "c", "a" * 5000),
    ],
)
def test_an_expression_is_searched_for_as_go_does(text: str, found: str, not_found: str) -> None:
    compiled = patterns.expression(text)
    assert compiled.search(found)
    assert not compiled.search(not_found)


def test_stars_in_a_name_cost_no_more_than_its_length() -> None:
    assert not patterns.fqdn("*a" * 100).fullmatch("a" * 5000 + "b")
