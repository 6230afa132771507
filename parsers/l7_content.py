"""What a reader sees of an access-log record: flow.Layer7's record and flow.Summary.

Decoded on demand from the bytes of the record's protocol part (some hundred bytes, without
the type definitions), because most flows are never read. Texts are Hubble's; it takes the
record from DNS before HTTP before Kafka, but the summary from HTTP before Kafka before DNS.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple, TypeAlias

from parsers.addresses import MAPPED
from parsers.dns_names import response_code_name, type_name
from parsers.flow_batch import L7_DNS, L7_GENERIC, L7_HTTP, L7_KAFKA
from parsers.go_text import quote, text
from parsers.gob_values import Reader
from parsers.l7 import Dns, DnsLabels, Http, HttpLabels, Kafka, KafkaLabels, L7Content
from parsers.redaction import DEFAULT_REDACTION, Redaction

UNKNOWN_TYPE, REQUEST, RESPONSE, SAMPLE = range(4)
"""flow.L7FlowType."""

UINT32 = 0xFFFFFFFF

_TRACE_ID_BYTES = 96
_RECORD_BYTES = 96 + 8 + 32 + 64 + _TRACE_ID_BYTES
_PART_BYTES = 80 + 48


Part: TypeAlias = tuple[int, bytes, Reader]
"""A protocol part of a record: L7_*, its bytes, the reader that has accepted them."""


class AccessLogL7(NamedTuple):
    """The ``L7Record`` of an access-log record.

    A named tuple, as one is made for each record: a dataclass would double what making it
    costs.
    """

    type: int
    latency_ns: int
    trace_id: str
    labels: HttpLabels | DnsLabels | KafkaLabels | None
    parts: tuple[Part, ...]
    redaction: Redaction = DEFAULT_REDACTION

    @property
    def nbytes(self) -> int:
        """As CPython 3.11 allocates it: the tuples, the integer, the parts' bytes."""
        size = _RECORD_BYTES if self.trace_id else _RECORD_BYTES - _TRACE_ID_BYTES
        for _, encoded, _ in self.parts:
            size += _PART_BYTES + len(encoded)
        return size

    def content(self) -> L7Content:
        """Decode what is shown."""
        # The last value of each part took what is unknown.
        values: dict[int, list[Any]] = {
            l7_record: read(encoded, 0)[0][:-1] for l7_record, encoded, read in self.parts
        }
        http, kafka, dns = values.get(L7_HTTP), values.get(L7_KAFKA), values.get(L7_DNS)
        record: Http | Dns | Kafka | None = None
        summary = ""
        if L7_GENERIC in values:
            summary = _generic_summary(*values[L7_GENERIC])
        if kafka:
            record = _kafka(self.redaction, self.type, *kafka)
            summary = "" if dns or http else _kafka_summary(self.type, record)
        if http:
            record = _http(self.redaction, self.type, *http)
        if dns:
            record = dns_record(self.type, *dns)
            if not kafka:
                summary = dns_summary(self.type, *dns)
        if http:
            summary = _http_summary(self.redaction, self.type, self.latency_ns, *http)
        return L7Content(record, summary)


def _http(
    redaction: Redaction, type_: int, code: int, method: bytes, url: bytes, protocol: bytes,
    headers: dict[bytes, list[bytes]], *_: Any,
) -> Http:  # fmt: skip
    return Http(
        code=0 if type_ == REQUEST else code & UINT32,
        method=text(method),
        url=redaction.url(url),
        protocol=text(protocol),
        headers=tuple(
            (name, redaction.header(name, text(value)))
            for name, values in ((text(key), headers[key]) for key in sorted(headers))
            for value in values
        ),
    )


def _http_summary(
    redaction: Redaction, type_: int, latency_ns: int, code: int, method: bytes, url: bytes,
    protocol: bytes, *_: Any,
) -> str:  # fmt: skip
    request = f"{text(method)} {redaction.url(url)}"
    if type_ == REQUEST:
        return f"{text(protocol)} {request}"
    if type_ == RESPONSE:
        return f"{text(protocol)} {code} {latency_ns // 1_000_000}ms ({request})"
    return ""


def _kafka(
    redaction: Redaction, type_: int, error: int, version: int, key: bytes, correlation: int,
    topic: list[bytes],
) -> Kafka:  # fmt: skip
    signed_error = (error + (1 << 31)) % (1 << 32) - (1 << 31)
    return Kafka(
        error_code=0 if type_ == REQUEST else signed_error,
        api_version=version,
        api_key=redaction.api_key(text(key)),
        correlation_id=correlation,
        topic=text(topic[0]),
    )


def _kafka_summary(type_: int, kafka: Kafka) -> str:
    about = f"{kafka.api_key} correlation id {kafka.correlation_id} topic '{kafka.topic}'"
    if type_ == REQUEST:
        return f"Kafka request {about}"
    return f"Kafka response {about} return code {kafka.error_code}"


def dns_record(
    type_: int, query: bytes, ips: tuple[int, list[bytes]], ttl: int, cnames: list[bytes],
    source: bytes, rcode: int, qtypes: list[int], rrtypes: list[int],
) -> Dns:  # fmt: skip
    """flow.DNS of a record's fields."""
    answers = type_ != REQUEST
    return Dns(
        query=text(query),
        ips=_address_texts(ips) if answers else (),
        ttl=ttl if answers else 0,
        cnames=tuple(map(text, cnames)) if answers else (),
        observation_source=text(source),
        rcode=rcode & UINT32 if answers else 0,
        qtypes=tuple(map(type_name, qtypes)),
        rrtypes=tuple(map(type_name, rrtypes)) if answers else (),
    )


def dns_summary(
    type_: int, query: bytes, ips: tuple[int, list[bytes]], ttl: int, cnames: list[bytes],
    source: bytes, rcode: int, qtypes: list[int], _: Any,
) -> str:  # fmt: skip
    """flow.Summary of a DNS record's fields."""
    question = f"{text(query)} {','.join(map(type_name, qtypes))}"
    if type_ == REQUEST:
        return f"DNS Query {question}"
    if type_ != RESPONSE:
        return ""
    answers = []
    if rcode & 0xFF:
        answers.append(f"RCode: {response_code_name(rcode)}")
    else:
        if ips[1]:
            answers.append(quote(",".join(_address_texts(ips)).encode()))
        if cnames:
            answers.append(f"CNAMEs: {quote(b','.join(cnames))}")
    asked = "Proxy" if source == b"proxy" else "Query"
    return f"DNS Answer {' '.join(answers)} TTL: {ttl} ({asked} {question})"


def _address_texts(ips: tuple[int, list[bytes]]) -> tuple[str, ...]:
    """Shape 0 is Go's ``net.IP`` (until 1.16), shape 1 its ``netip.Addr``."""
    shape, addresses = ips
    return tuple(map(_netip_text if shape else _net_ip_text, addresses))


def _net_ip_text(address: bytes) -> str:
    if not address:
        return "<nil>"
    if len(address) == 16 and address.startswith(MAPPED):
        address = address[12:]
    if len(address) == 4:
        return str(IPv4Address(address))
    if len(address) == 16:
        return str(IPv6Address(address))
    return f"?{address.hex()}"


def _netip_text(address: bytes) -> str:
    if not address:
        return "invalid IP"
    if len(address) == 4:
        return str(IPv4Address(address))
    zone = f"%{text(address[16:])}" if len(address) > 16 else ""
    if address.startswith(MAPPED):
        return f"::ffff:{IPv4Address(address[12:16])}{zone}"
    return f"{IPv6Address(address[:16])}{zone}"


def _generic_summary(protocol: bytes, fields: dict[bytes, bytes]) -> str:
    shown = " ".join(f"{text(key)}:{text(fields[key])}" for key in sorted(fields))
    return f"{text(protocol)} Fields: map[{shown}]"
