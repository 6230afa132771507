"""L7 records as the Flow API shows them: HTTP, DNS, Kafka, generic.

The shapes only; ``parsers.access_log`` makes them of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Http:
    """flow.HTTP; headers flattened to pairs, keys sorted bytewise."""

    code: int
    method: str
    url: str
    protocol: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dns:
    """flow.DNS; types are names (``A``, ``AAAA``), addresses text."""

    query: str
    ips: tuple[str, ...]
    ttl: int
    cnames: tuple[str, ...]
    observation_source: str
    rcode: int
    qtypes: tuple[str, ...]
    rrtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kafka:
    """flow.Kafka, until Cilium 1.19."""

    error_code: int
    api_version: int
    api_key: str
    correlation_id: int
    topic: str


@dataclass(frozen=True, slots=True)
class HttpLabels:
    """What metrics count of an HTTP record."""

    method: str
    protocol: str
    code: int


@dataclass(frozen=True, slots=True)
class DnsLabels:
    """What metrics count of a DNS record; ``qtypes`` joined with commas."""

    qtypes: str
    rcode: int
    ips_returned: int
    rrtypes: tuple[str, ...]
    query: str = ""  # only where a metric was configured to have it


@dataclass(frozen=True, slots=True)
class KafkaLabels:
    """What metrics count of a Kafka record."""

    topic: str
    api_key: str
    error_code: int


@dataclass(frozen=True, slots=True)
class L7Content:
    """What is decoded of a record when somebody reads it."""

    record: Http | Dns | Kafka | None  # None for generic records
    summary: str  # flow.Summary


class L7Record(Protocol):
    """flow.Layer7 of one flow.

    The attributes are known at once; ``content()`` decodes the rest on each call, so
    that a flow nobody reads costs no more than its bytes.
    """

    @property
    def type(self) -> int:
        """flow.L7FlowType."""

    @property
    def latency_ns(self) -> int:
        """0 when it is not known."""

    @property
    def trace_id(self) -> str:
        """32 hex digits of a W3C traceparent, or nothing."""

    @property
    def labels(self) -> HttpLabels | DnsLabels | KafkaLabels | None:
        """What metrics count; equal ones are the same object."""

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""

    def content(self) -> L7Content:
        """Decode; raises nothing, as the record was walked when it was parsed."""
