"""Which labels of a pod count for its identity: Cilium's ``labels`` option.

A pattern is ``[SOURCE:][!]EXPRESSION``, the expression being matched at the beginning of a
label's key. With ``!`` it excludes. Of the patterns that match a key, the longest match of an
including one must be longer than the shortest of an excluding one; a key that none matches
counts unless some given pattern includes. The defaults always hold beside those given.

Source: Cilium's documentation, "Limiting Identity-Relevant Labels" (1.14 to 1.20).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import re2

from parsers.errors import UsageError

SOURCE: Final = "k8s"
"""The source of all labels that come from Kubernetes."""

DEFAULTS: Final = (
    "reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"app\.kubernetes\.io",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    "!pod-template-generation",
    "!pod-template-hash",
    "!controller-revision-hash",
    "!annotation.*",
    "!controller-uid",
    "!etcd_node",
)

_REMEMBERED = 1 << 14  # keys


class _Match(Protocol):
    def end(self) -> int: ...


class _Expression(Protocol):
    def match(self, text: str, /) -> _Match | None: ...


@dataclass(frozen=True, slots=True)
class _Pattern:
    source: str
    expression: _Expression
    excludes: bool

    @classmethod
    def of(cls, text: str) -> _Pattern:
        source, colon, rest = text.partition(":")
        if not colon:
            source, rest = SOURCE, text
        excludes = rest.startswith("!")
        options = re2.Options()
        options.log_errors = False
        try:
            expression = re2.compile(rest[excludes:], options)
        except re2.error as error:
            reason = error.args[0].decode("utf-8", "replace")
            raise UsageError(f"label pattern '{text}' is no regular expression: {reason}") from None
        return cls(source, expression, excludes)


class LabelFilter:
    """Tells which keys count; ``patterns`` are those given beside the defaults."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        given = [_Pattern.of(text) for text in patterns]
        every = (*map(_Pattern.of, DEFAULTS), *given)
        self._patterns = [pattern for pattern in every if pattern.source == SOURCE]
        self._only_included = not all(pattern.excludes for pattern in given)
        self.counts = lru_cache(maxsize=_REMEMBERED)(self._counts)

    def _counts(self, key: str) -> bool:
        included = excluded = 0
        for pattern in self._patterns:
            match = pattern.expression.match(key)
            if match is None:
                continue
            if pattern.excludes:
                excluded = min(excluded or match.end(), match.end())
            else:
                included = max(included, match.end())
        return included > excluded or (not excluded and not self._only_included)
