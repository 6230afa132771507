"""Which policy decided: from a policy verdict to the rules behind it.

An endpoint's realised policy map is not part of the monitor stream; whoever knows it
fills a ``PolicyMap``. Two rules of look-up exist, and which one names the rule the
datapath used depends on the agent's release:

* until 1.19 the verdict's match type shapes one exact key;
* from 1.20 on the best entry that covers the packet is taken, whatever the match type.
  Of an entry for this peer and one for any peer, the more specific wins. (Cilium 1.20.2
  compares the two the wrong way round and names the broader one; we do not.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parsers.details import Policy, PolicyMatch

INGRESS, EGRESS = 1, 2
"""``flow.TrafficDirection``."""

POLICY_DENIED, POLICY_DENY = 133, 181
"""``flow.DropReason``: no rule allowed it; a rule refused it."""

NOT_NAMED, AS_ALLOWING, AS_DENYING = range(3)

_MOST_MAPS = 1 << 10  # of peers, for one policy

_FORWARDED, _DROPPED, _AUDIT, _REDIRECTED = 1, 2, 4, 5  # flow.Verdict
_L3_ONLY, _L4_ONLY, _ALL, _L3_PROTO, _PROTO_ONLY = 1, 3, 4, 5, 6  # match types that shape a key


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One entry; 0 for identity, protocol or port means any. ``last_port``: of a range, else 0."""

    direction: int
    identity: int
    protocol: int
    port: int
    policies: tuple[Policy, ...]
    log: tuple[str, ...] = ()
    deny: bool = False
    last_port: int = 0

    @property
    def prefix_length(self) -> int:
        """How much of protocol and port it fixes: 25, 9 or 1 bits, direction included; of a range
        of ports what its largest part fixes.
        """
        if self.last_port > self.port:
            return 25 - (self.last_port - self.port).bit_length()
        return 25 if self.port else 9 if self.protocol else 1

    def covers(self, protocol: int, port: int) -> bool:
        """Whether protocol and port fall under it."""
        ports = self.port == 0 or self.port <= port <= max(self.port, self.last_port)
        return self.protocol in (0, protocol) and ports


class PolicyMap:
    """The realised policy of one endpoint."""

    __slots__ = ("_by_key", "_by_peer")

    def __init__(self, entries: Iterable[PolicyEntry]) -> None:
        self._by_key: dict[tuple[int, int, int, int], PolicyEntry] = {}
        self._by_peer: dict[tuple[int, int], list[PolicyEntry]] = {}
        for entry in entries:
            key = (entry.direction, entry.identity, entry.protocol, entry.port)
            if not entry.last_port:
                self._by_key[key] = entry
            self._by_peer.setdefault(key[:2], []).append(entry)

    def exact(
        self, direction: int, identity: int, protocol: int, port: int, match_type: int
    ) -> PolicyEntry | None:
        """The entry whose key the match type shapes (agents until 1.19)."""
        if match_type in (_L4_ONLY, _PROTO_ONLY, _ALL):
            identity = 0
        if match_type in (_L3_ONLY, _ALL):
            protocol = 0
        if match_type in (_L3_ONLY, _ALL, _L3_PROTO, _PROTO_ONLY):
            port = 0
        return self._by_key.get((direction, identity, protocol, port))

    def covering(
        self, direction: int, identity: int, protocol: int, port: int
    ) -> PolicyEntry | None:
        """The best entry that covers the packet (agents from 1.20 on)."""
        peer = self._best(direction, identity, protocol, port) if identity else None
        anyone = self._best(direction, 0, protocol, port)
        if peer is None or anyone is None:
            return peer or anyone
        if peer.deny != anyone.deny:
            return peer if peer.deny else anyone
        if peer.deny or peer.prefix_length >= anyone.prefix_length:
            return peer
        return anyone

    def _best(self, direction: int, identity: int, protocol: int, port: int) -> PolicyEntry | None:
        entries = self._by_peer.get((direction, identity), ())
        covering = [e for e in entries if e.covers(protocol, port)]
        return max(covering, key=lambda e: e.prefix_length, default=None)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule by what it selects: as ``PolicyEntry``, for many ``identities``; None: for any."""

    direction: int
    identities: frozenset[int] | None
    protocol: int
    port: int
    last_port: int
    policies: tuple[Policy, ...]
    deny: bool = False


class PolicyRules:
    """The realised policy of an endpoint where its rules are known and not its map.

    What a peer's map has is worked out when it is first asked for, as few peers ever are.
    """

    __slots__ = ("_maps", "_rules")

    def __init__(self, rules: Iterable[PolicyRule]) -> None:
        self._rules = tuple(rules)
        self._maps: dict[int, PolicyMap] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PolicyRules) and self._rules == other._rules

    __hash__ = None  # type: ignore[assignment]

    def exact(
        self, direction: int, identity: int, protocol: int, port: int, match_type: int
    ) -> PolicyEntry | None:
        """As ``PolicyMap.exact``."""
        return self._map_of(identity).exact(direction, identity, protocol, port, match_type)

    def covering(
        self, direction: int, identity: int, protocol: int, port: int
    ) -> PolicyEntry | None:
        """As ``PolicyMap.covering``."""
        return self._map_of(identity).covering(direction, identity, protocol, port)

    def _map_of(self, identity: int) -> PolicyMap:
        found = self._maps.get(identity)
        if found is None:
            if len(self._maps) >= _MOST_MAPS:
                self._maps.clear()
            found = self._maps[identity] = PolicyMap(self._entries(identity))
        return found

    def _entries(self, identity: int) -> Iterator[PolicyEntry]:
        """One for each key, with all rules behind it; a denying one takes it from all others."""
        by_key: dict[tuple[int, int, int, int, int], list[PolicyRule]] = {}
        for rule in self._rules:
            if rule.identities is None or identity in rule.identities:
                peer = 0 if rule.identities is None else identity
                key = rule.direction, peer, rule.protocol, rule.port, rule.last_port
                by_key.setdefault(key, []).append(rule)
        for (direction, peer, protocol, port, last_port), rules in by_key.items():
            deny = any(rule.deny for rule in rules)
            behind = {p for rule in rules if rule.deny == deny for p in rule.policies}
            policies = tuple(sorted(behind, key=lambda policy: policy.labels))
            yield PolicyEntry(
                direction, peer, protocol, port, policies, deny=deny, last_port=last_port
            )


def naming(
    verdict: NDArray[np.uint8], drop_reason: NDArray[np.uint32], *, covering: bool
) -> NDArray[np.uint8]:
    """Whether the rules behind policy verdicts are named: ``NOT_NAMED``, ``AS_...``."""
    dropped = verdict == _DROPPED
    denying = dropped & (drop_reason == POLICY_DENY)
    if covering:
        denying |= (verdict == _AUDIT) | (dropped & (drop_reason == POLICY_DENIED))
    allowing = (verdict == _FORWARDED) | (verdict == _REDIRECTED)
    named: NDArray[np.uint8] = allowing * np.uint8(AS_ALLOWING) + denying * np.uint8(AS_DENYING)
    return named


def match_of(entry: PolicyEntry, *, denied: bool) -> PolicyMatch:
    """What a flow shows of an entry."""
    return PolicyMatch(entry.policies, denied, entry.log)


def policy_from_labels(labels: tuple[str, ...], revision: int) -> Policy:
    """A rule named by the ``io.cilium.k8s.policy.*`` labels it was derived with."""
    found = {"name": "", "namespace": "", "derived-from": ""}
    for label in labels:
        key, equals, value = label.partition("=")
        short = key.removeprefix("k8s:io.cilium.k8s.policy.")
        if equals and short != key and short in found:
            found[short] = value
    return Policy(found["name"], found["namespace"], labels, revision, found["derived-from"])
