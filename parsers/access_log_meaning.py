"""What the values of an access log mean; equal answers are the same object.

The ends of a connection, the kinds of records and the labels that metrics count are few,
and each is made once: those who come after look them up by identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parsers.addresses import address_text, parse_address
from parsers.dns_names import type_name
from parsers.flow_batch import L4_NONE, L4_SCTP, L4_TCP, L4_UDP
from parsers.go_text import text
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels
from parsers.l7_content import REQUEST, RESPONSE, SAMPLE, UINT32
from parsers.redaction import DEFAULT_REDACTION, Redaction


@dataclass(frozen=True, slots=True, eq=False)
class AccessLogSide:
    """One endpoint of a record, without its port."""

    endpoint_id: int  # as Hubble prints it, 32 bits
    identity: int
    address: bytes  # 16 bytes, network order, IPv4 mapped; empty when there is none
    address_text: str  # only where it differs from the text of ``address``, else empty
    labels: tuple[str, ...]  # sorted, ``source:key=value``
    cluster_name: str


@dataclass(frozen=True, slots=True, eq=False)
class AccessLogKind:
    """What a record has in common with many. Enumerations have the Flow API's numbers."""

    type: int  # flow.L7FlowType
    direction: int  # flow.TrafficDirection
    ip_version: int  # flow.IPVersion
    verdict: int  # flow.Verdict
    l4: int  # L4_*
    l7_record: int  # L7_*

    @property
    def is_reply(self) -> bool:
        """Only responses are."""
        return self.type == RESPONSE


Labels = HttpLabels | DnsLabels | KafkaLabels

TYPES = {b"Request": REQUEST, b"Response": RESPONSE, b"Sample": SAMPLE}
VERDICTS = {b"Forwarded": 1, b"Denied": 2, b"Error": 3, b"Redirected": 5}
DIRECTIONS = {b"Ingress": 1, b"Egress": 2}
TRANSPORTS = {6: L4_TCP, 17: L4_UDP, 132: L4_SCTP}

_LONGEST_INTERNED = 512  # bytes and numbers in the key of a label object
_LONGEST_SIDE = 4096  # bytes of texts; longer sides are made for each record
_MOST_INTERNED = 8192  # label objects and sides, each; then the table starts anew


class AccessLogMeanings:
    """Makes what a record refers to. ``query_labels``: whether ``DnsLabels`` have the query."""

    __slots__ = ("_kinds", "_labels", "_redaction", "_sides", "query_labels")

    def __init__(self, redaction: Redaction = DEFAULT_REDACTION) -> None:
        self.query_labels = False
        self._redaction = redaction
        self._kinds: dict[tuple[int, ...], AccessLogKind] = {}
        self._sides: dict[tuple[Any, ...], AccessLogSide] = {}
        self._labels: dict[tuple[Any, ...], Labels] = {}

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return {"sides": len(self._sides), "labels": len(self._labels)}

    def kind(
        self,
        type_text: bytes,
        observation_point: bytes,
        ip_version: int,
        verdict: bytes,
        protocol: int,
        l7_record: int,
    ) -> AccessLogKind:
        """The kind of a record; there are a few thousand at most."""
        numbers = (
            TYPES.get(type_text, 0),
            DIRECTIONS.get(observation_point, 0),
            ip_version + 1 if ip_version < 2 else 0,
            VERDICTS.get(verdict, 0),
            TRANSPORTS.get(protocol & 0xFF, L4_NONE),
            l7_record,
        )
        found = self._kinds.get(numbers)
        if found is None:
            found = self._kinds[numbers] = AccessLogKind(*numbers)
        return found

    def side(self, endpoint: Sequence[Any], ip_version: int) -> AccessLogSide:
        """An endpoint as an address family sees it."""
        endpoint_id, ipv4, ipv6, _, identity, (labels, cluster_name), _ = endpoint
        shown = (ipv4, ipv6)[ip_version] if ip_version < 2 else b""
        key = (endpoint_id & UINT32, identity & UINT32, shown, labels, cluster_name)
        found = self._sides.get(key)
        if found is None:
            found = AccessLogSide(*key[:2], *_address(shown), labels, cluster_name)
            if len(self._sides) >= _MOST_INTERNED:
                self._sides.clear()
            if len(shown) + sum(map(len, labels)) <= _LONGEST_SIDE:
                self._sides[key] = found
        return found

    def http_labels(self, type_: int, code: int, method: bytes, protocol: bytes) -> Labels:
        """Labels of an HTTP record; a request has no code."""
        key = (method, protocol, 0 if type_ == REQUEST else code & UINT32)
        return self._labels.get(key) or self._intern(
            key, HttpLabels(text(method), text(protocol), key[2])
        )

    def dns_labels(
        self, type_: int, query: bytes, ips: tuple[int, list[bytes]], _ttl: int,
        _cnames: list[bytes], _source: bytes, rcode: int, qtypes: list[int], rrtypes: list[int],
        _unknown: Any,
    ) -> Labels:  # fmt: skip
        """Labels of a DNS record; a request has no answer."""
        query = query if self.query_labels else b""
        key: tuple[Any, ...] = (query, tuple(qtypes), 0, 0, ())
        if type_ != REQUEST:
            key = (query, key[1], rcode & UINT32, len(ips[1]), tuple(rrtypes))
        return self._labels.get(key) or self._intern(
            key,
            DnsLabels(
                ",".join(map(type_name, qtypes)),
                key[2],
                key[3],
                tuple(map(type_name, key[4])),
                text(query),
            ),
        )

    def kafka_labels(
        self, type_: int, error: int, _version: int, api_key: bytes, _id: int, topic: list[Any],
        _unknown: Any,
    ) -> Labels:  # fmt: skip
        """Labels of a Kafka record; a request has no error."""
        signed_error = (error + (1 << 31)) % (1 << 32) - (1 << 31)
        key = ("kafka", topic[0], api_key, 0 if type_ == REQUEST else signed_error)
        return self._labels.get(key) or self._intern(
            key, KafkaLabels(text(topic[0]), self._redaction.api_key(text(api_key)), key[3])
        )

    def _intern(self, key: tuple[Any, ...], labels: Labels) -> Labels:
        if sum(len(x) for x in key if not isinstance(x, int)) > _LONGEST_INTERNED:
            return labels
        if len(self._labels) >= _MOST_INTERNED:
            self._labels.clear()
        return self._labels.setdefault(key, labels)


def _address(shown: bytes) -> tuple[bytes, str]:
    """(16 bytes, its text where the bytes would print as another one)."""
    if not shown:  # one of the two families of nearly every endpoint
        return b"", ""
    as_text = text(shown)
    # An address with a zone is none that anybody has; Go's look-ups fail for it.
    address = b"" if "%" in as_text else parse_address(as_text) or b""
    canonical = address_text(address) if address else ""
    return address, "" if as_text == canonical else as_text
