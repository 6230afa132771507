"""Which rules are behind the policies of this node's endpoints, as Cilium's agent tells.

An endpoint's policy comes as filters, one for a direction, a protocol and ports, each with the
selectors that it lets in or keeps out; which identities a selector has is asked for by itself. At
ingress the rules behind each selector are told. At egress they are told of the filter as a whole:
with several selectors and several rules nobody knows which is whose, so no rule is named.

Sources: the agent's OpenAPI description (``EndpointPolicy``, ``PolicyRule``, ``SelectorCache``);
the text of a filter is JSON that it does not describe (``pkg/policy/l4.go``; a denying selector
says so by ``IsDeny``, since 1.19 by its verdict).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Raw, Struct

from parsers.policies import EGRESS, INGRESS, PolicyRule, PolicyRules, policy_from_labels

_ANYBODY: Final = (
    "&LabelSelector{MatchLabels:map[string]string{},MatchExpressions:[]LabelSelectorRequirement{},}"
)
_PROTOCOLS: Final = {"ANY": 0, "ICMP": 1, "TCP": 6, "UDP": 17, "ICMPV6": 58, "SCTP": 132}
_DENY: Final = 1  # of allow, deny, pass

Labels = tuple[str, ...]

Revision: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""An int64 of Cilium's, which flow.Policy has as uint64."""


class Selector(Struct, frozen=True):
    """SelectorIdentityMapping."""

    selector: str
    identities: tuple[int, ...] | None = None


class _Filter(Struct, frozen=True, rename="kebab"):
    rule: str = ""
    derived_from_rules: tuple[Labels, ...] | None = None
    rules_by_selector: dict[str, tuple[Labels, ...]] | None = None


class _L4(Struct, frozen=True):
    ingress: tuple[_Filter, ...] | None = None
    egress: tuple[_Filter, ...] | None = None


class _Realized(Struct, frozen=True):
    l4: Raw = Raw(b"null")
    policy_revision: Revision = msgspec.field(default=0, name="policy-revision")


class _Policy(Struct, frozen=True):
    realized: _Realized | None = None


class _Status(Struct, frozen=True):
    policy: _Policy | None = None


class Endpoint(Struct, frozen=True):
    """An endpoint of this node."""

    id: int
    status: _Status | None = None


class _Text(Struct, frozen=True):
    """The JSON text of a filter; selectors are keys of single entries."""

    protocol: str
    port: int = 0
    last_port: int = msgspec.field(default=0, name="endPort")
    selectors: tuple[dict[str, dict[str, Any] | None], ...] = msgspec.field(
        default=(), name="l7-rules"
    )


_decode_l4: Final = msgspec.json.Decoder(_L4 | None).decode
_decode_text: Final = msgspec.json.Decoder(_Text).decode


def policies_of(
    endpoints: Iterable[Endpoint], selectors: Iterable[Selector]
) -> Iterator[tuple[int, PolicyRules]]:
    """Endpoints' ids and policies. Endpoints of one identity have one policy, which is made once.

    A rule and a selector of it take 5 µs, so there may be milliseconds between two of these.
    """
    identities = {s.selector: frozenset(s.identities or ()) for s in selectors}
    made: dict[tuple[bytes, int], PolicyRules] = {}
    for endpoint in endpoints:
        policy = endpoint.status.policy if endpoint.status is not None else None
        if policy is None or policy.realized is None:
            continue
        key = bytes(policy.realized.l4), policy.realized.policy_revision
        if key not in made:
            made[key] = PolicyRules(_rules(key[0], key[1], identities))
        yield endpoint.id, made[key]


def _rules(
    realized: bytes, revision: int, identities: Mapping[str, frozenset[int]]
) -> Iterator[PolicyRule]:
    """None of what has another form than it should."""
    try:
        l4 = _decode_l4(realized)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if l4 is None:
        return
    for direction, filters in ((INGRESS, l4.ingress), (EGRESS, l4.egress)):
        for each in filters or ():
            try:
                text = _decode_text(each.rule)
            except msgspec.DecodeError:
                continue
            protocol = _PROTOCOLS.get(text.protocol)
            if protocol is None:
                continue
            said = {name: rest for entry in text.selectors for name, rest in entry.items()}
            for selector, rest in said.items():
                yield PolicyRule(
                    direction,
                    None if selector == _ANYBODY else identities.get(selector, frozenset()),
                    protocol,
                    text.port,
                    text.last_port,
                    tuple(policy_from_labels(r, revision) for r in _behind(each, selector, said)),
                    deny=(rest or {}).get("verdict") == _DENY or bool((rest or {}).get("IsDeny")),
                )


def _behind(each: _Filter, selector: str, said: Mapping[str, object]) -> tuple[Labels, ...]:
    if each.rules_by_selector is not None:
        return each.rules_by_selector.get(selector, ())
    rules = each.derived_from_rules or ()
    return rules if len(said) == 1 or len(rules) == 1 else ()
