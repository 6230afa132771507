"""What DNS messages say, as the L7 records of their flows; the same messages are read once.

Resolvers repeat themselves: but for its number, a query is as others for the name, and so is an
answer as long as its times to live do not change. What was said lately is kept by the message's
bytes, so of what is repeated nothing is read or made but the time that an answer took.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from parsers.access_log_meaning import AccessLogMeanings
from parsers.dns_message import DnsMessage, parse_message
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels, L7Content
from parsers.l7_content import REQUEST, RESPONSE, dns_record, dns_summary

SOURCE = b"probe"
"""flow.DNS.observation_source; Cilium's own are "proxy" and "agent-poller"."""

MOST_REMEMBERED: Final = 2048
"""Messages, of at most ``_LONGEST`` bytes: some 4 MB."""

_LONGEST = 512
_NUMBER_BYTES = 2
_RECORD_BYTES = 400

Fields: TypeAlias = tuple[
    bytes, tuple[int, list[bytes]], int, list[bytes], bytes, int, list[int], list[int]
]
"""What ``l7_content`` makes a record of: query, addresses, TTL, CNAMEs, source, code, types."""


class ProbeDns(NamedTuple):
    """The ``L7Record`` of a message. ``note`` stands behind the summary."""

    type: int
    latency_ns: int
    labels: HttpLabels | DnsLabels | KafkaLabels | None
    fields: Fields
    note: str = ""
    trace_id: str = ""

    @property
    def nbytes(self) -> int:
        """About what its texts and lists take."""
        query, (_, addresses), _, cnames, _, _, qtypes, types = self.fields
        parts = len(addresses) + len(cnames) + len(qtypes) + len(types)
        return _RECORD_BYTES + len(query) + sum(map(len, cnames)) + 64 * parts

    def content(self) -> L7Content:
        """See ``L7Record``."""
        return L7Content(
            dns_record(self.type, *self.fields), dns_summary(self.type, *self.fields) + self.note
        )


class DnsRecords:
    """Reads messages, and makes their records."""

    __slots__ = ("_known", "_meanings")

    def __init__(self) -> None:
        self._meanings = AccessLogMeanings()
        self._known: dict[tuple[bytes, bool], ProbeDns] = {}

    def label_queries(self, *, wanted: bool) -> None:
        """Put the query into ``DnsLabels`` from now on, for metrics that count by it."""
        self._meanings.query_labels = wanted
        self._known.clear()

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return self._meanings.statistics() | {"dns_messages": len(self._known)}

    def read(self, data: bytes, *, cut: bool) -> ProbeDns:
        """The record of a message, of an answer without the time it took. Raises
        ``ProtocolError``; see ``parse_message``.
        """
        key = data[_NUMBER_BYTES:], cut
        known = self._known.get(key)
        if known is None:
            message = parse_message(data, cut=cut)
            known = self.record(RESPONSE if message.is_response else REQUEST, _fields(message))
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            if len(data) <= _LONGEST:
                self._known[key] = known
        return known

    def record(self, type_: int, fields: Fields) -> ProbeDns:
        """Of a message that says these."""
        return ProbeDns(type_, 0, self._meanings.dns_labels(type_, *fields, None), fields)


def _fields(message: DnsMessage) -> Fields:
    return (
        message.queries[0][0].lower() if message.queries else b"",
        (1, list(message.addresses)),
        message.ttl,
        list(message.cnames),
        SOURCE,
        message.rcode,
        [type_ for _, type_ in message.queries],
        list(message.types),
    )
