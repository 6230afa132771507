"""Kubernetes label selectors whose keys may name a label source (``k8s:app=web``).

A key without a source, or with the source ``any``, is looked for under every source.
``cidr:10.0.0.0/8`` also finds the labels of narrower prefixes. Values and keys follow
Kubernetes' syntax; a colon after the first is therefore refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from parsers.errors import UsageError

_OPERATORS = frozenset(("=", "==", "!=", "(", ")", ",", "<", ">"))
_SPECIAL = _OPERATORS | {"!"}
_TOKEN = re.compile(r"==|!=|[=!(),<>]|[^\s=!(),<>]+")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_KEY = re.compile(
    r"(?:(?:[a-z0-9](?:[-a-z0-9]*[a-z0-9])?\.)*[a-z0-9](?:[-a-z0-9]*[a-z0-9])?/)?"
    r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class Label:
    """A label of an endpoint; ``source`` is empty when it names none."""

    source: str
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """One of the conditions a comma joins."""

    source: str
    key: str
    operator: str  # exists, !, in, notin, >, <
    values: frozenset[str] = frozenset()

    def matches(self, labels: Iterable[Label]) -> bool:
        """Whether labels fulfil it; a missing key fulfils ``!``, ``notin`` and ``!=``."""
        value = next((label.value for label in labels if self._names(label)), None)
        if self.operator == "!":
            return value is None
        if self.operator == "notin":
            return value not in self.values
        if value is None:
            return False
        if self.operator == "in":
            return value in self.values
        if self.operator in {">", "<"}:
            return self._compare(value)
        return True

    def _names(self, label: Label) -> bool:
        if self.source not in ("any", label.source):
            return False
        if label.key == self.key:
            return True
        if self.source != "cidr" or label.source != "cidr":
            return False
        wide, narrow = _network(self.key), _network(label.key)
        return (
            wide is not None
            and narrow is not None
            and wide.version == narrow.version
            and narrow.subnet_of(wide)  # type: ignore[arg-type]
        )

    def _compare(self, value: str) -> bool:
        try:
            number, bound = int(value), int(next(iter(self.values)))
        except ValueError:
            return False
        return number > bound if self.operator == ">" else number < bound


Selector = Callable[[tuple[str, ...]], bool]


def selector(text: str) -> Selector:
    """A test of an endpoint's labels; raises ``UsageError`` for a text that is none."""
    requirements = tuple(_Parser(text).requirements())

    def matches(labels: tuple[str, ...]) -> bool:
        parsed = parse_labels(labels)
        return all(requirement.matches(parsed) for requirement in requirements)

    return matches


@lru_cache(maxsize=4096)
def parse_labels(labels: tuple[str, ...]) -> tuple[Label, ...]:
    """``source:key=value`` each; the value may be missing."""
    return tuple(map(_label, labels))


def _label(text: str) -> Label:
    if text.startswith("$"):  # how old agents wrote reserved labels
        return Label("reserved", text[1:], "")
    source, colon, rest = text.partition(":")
    if not colon or "=" in source:
        source, rest = "", text
    key, _, value = rest.partition("=")
    return Label(source, key, value)


def _network(key: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(key.replace("-", ":"), strict=False)  # a label cannot hold colons
    except ValueError:
        return None


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def requirements(self) -> Iterable[Requirement]:
        while self._peek():
            try:
                yield self._requirement()
            except UsageError as error:
                raise UsageError(f"unable to parse requirement: {error}") from None
            if not self._peek():
                return
            if (comma := self._next()) != ",":
                raise self._error("',' or 'end of string'", comma)
            if not self._peek():
                raise self._error("identifier after ','", "")

    def _requirement(self) -> Requirement:
        negated = self._peek() == "!"
        if negated:
            self._next()
        source, key = self._key()
        operator = self._peek()
        if operator in ("", ",") or negated:
            return Requirement(source, key, "!" if negated else "exists")
        self._next()
        if operator in {"in", "notin"}:
            return Requirement(source, key, operator, frozenset(self._set()))
        if operator in {"=", "==", "!=", ">", "<"}:
            value = self._value()
            if operator in {">", "<"} and not re.fullmatch(r"[+-]?[0-9]+", value):
                raise UsageError(f"values: Invalid value: '{value}': for 'Gt', 'Lt' an integer")
            meaning = {"=": "in", "==": "in", "!=": "notin"}.get(operator, operator)
            return Requirement(source, key, meaning, frozenset((value,)))
        raise self._error("in, notin, =, ==, !=, gt, lt", operator)

    def _key(self) -> tuple[str, str]:
        word = self._next()
        if word in _OPERATORS:  # as Hubble has put the source before the key already
            raise UsageError("key: Invalid value: 'any.': there must be a name")
        if not word or word == "!":
            raise self._error("identifier", word)
        source, colon, key = word.partition(":")
        if not colon:
            source, key = "any", word
        if not _KEY.fullmatch(f"{source}.{key}"):
            raise UsageError(f"key: Invalid value: '{word}'")
        return source or "any", key

    def _set(self) -> Iterable[str]:
        opening = self._next()
        if opening != "(":
            raise self._error("'('", opening)
        if not self._peek() or self._peek() in _SPECIAL - {",", ")"}:
            raise self._error("',', ')' or identifier", self._peek())
        while True:
            yield "" if self._peek() in {",", ")"} else self._checked(self._next())
            closing = self._next()
            if closing == ")":
                return
            if closing != ",":
                raise self._error("',' or ')'", closing)

    def _value(self) -> str:
        return "" if self._peek() in {"", ","} else self._checked(self._next())

    def _checked(self, value: str) -> str:
        if not value or value in _SPECIAL:
            raise self._error("identifier", value)
        if not _VALUE.fullmatch(value):
            raise UsageError(f"values: Invalid value: '{value}'")
        return value

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _error(self, expected: str, found: str) -> UsageError:
        return UsageError(f"found '{found}', expected: {expected}")
