"""The fields of a ``FlowFilter``, each compiled to a test of the table it asks about.

A function takes the field's values (or the filter, where several fields ask alike) and
returns tests: none when the field is not set. ``UsageError`` has Hubble's own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from api.hubble import patterns
from api.hubble.flow_view import Chosen, FlowView
from api.hubble.label_selector import Selector, selector
from api.hubble.node import LocalNode
from api.hubble.row_test import Mask
from api.v1.flow import flow_pb2
from parsers.addresses import MAPPED
from parsers.details import Detail
from parsers.entities import Entity
from parsers.errors import UsageError
from parsers.flow_batch import (
    FLAG_ENCRYPTED,
    FLAG_TCP_FLAGS,
    L4_ICMPV4,
    L4_ICMPV6,
    L4_IGMP,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L4_VRRP,
    L7_DNS,
    L7_HTTP,
    REPLY_FALSE,
    REPLY_TRUE,
    REPLY_UNKNOWN,
)
from parsers.go_text import quote
from parsers.l7 import Dns, DnsLabels, Http, HttpLabels
from parsers.summary import TCP_FLAGS

ClassTest: TypeAlias = Callable[[Any], Mask]  # of rows of FLOW_CLASS
EntityTest: TypeAlias = Callable[[Entity], bool]
DetailTest: TypeAlias = Callable[[Detail], bool]
ViewTest: TypeAlias = Callable[[FlowView, Chosen], Mask]
NamePair: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]  # source and destination names
NameTest: TypeAlias = Callable[[NamePair], bool]

_DROPPED = flow_pb2.DROPPED
# Absolute with an authority, absolute without, opaque; or a path alone. Groups: the path.
_REQUEST_URI = re.compile(
    r"""(?=[^\x00-\x1f\x7f]+\Z)
    (?: [a-z][a-z0-9+.-]*:
        (?: // (?:[^/?@]*@)?
            (?: \[[^/?\]]*\] | (?:[^/?:\[\]\x20%]|%[89a-f][0-9a-f])* )
            (?: :[0-9]* )? (/[^?]*)?
          | (/(?!/)[^?]*)
          | (?!/)[^?]* )
      | (/[^?]*|\*) )
    (?:\?.*)?""",
    re.VERBOSE | re.IGNORECASE,
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_L7_EVENT = 129
_WITH_PORTS = (L4_TCP, L4_UDP, L4_SCTP)
_PROTOCOLS: Mapping[str, tuple[str, tuple[int, ...]]] = MappingProxyType(
    {
        "icmp": ("l4", (L4_ICMPV4, L4_ICMPV6)),
        "icmpv4": ("l4", (L4_ICMPV4,)),
        "icmpv6": ("l4", (L4_ICMPV6,)),
        "tcp": ("l4", (L4_TCP,)),
        "udp": ("l4", (L4_UDP,)),
        "sctp": ("l4", (L4_SCTP,)),
        "vrrp": ("l4", (L4_VRRP,)),
        "igmp": ("l4", (L4_IGMP,)),
        "dns": ("l7_record", (L7_DNS,)),
        "http": ("l7_record", (L7_HTTP,)),
    }
)


def event_tests(one: flow_pb2.FlowFilter) -> list[ClassTest]:
    """What happened: event type, verdict, drop reason, reply, encryption, protocol."""
    tests: list[ClassTest] = []
    if one.event_type:
        events = [(e.type, e.sub_type if e.match_sub_type else None) for e in one.event_type]

        def event(rows: Any) -> Mask:
            found = np.zeros(len(rows), dtype=np.bool_)
            for number, sub_type in events:
                match = rows["event_type"] == number if number else np.ones_like(found)
                found |= match if sub_type is None else match & (rows["sub_type"] == sub_type)
            return found

        tests.append(event)
    if one.verdict:
        tests.append(_member("verdict", one.verdict))
    if one.drop_reason_desc:
        reasons = [reason & 0xFFFFFFFF for reason in one.drop_reason_desc]
        tests.append(
            lambda rows: (rows["verdict"] == _DROPPED) & np.isin(rows["drop_reason"], reasons)
        )
    if one.reply:
        tests.append(_reply_test(frozenset(one.reply)))
    if one.encrypted:
        wanted = list(one.encrypted)
        tests.append(lambda rows: np.isin(rows["flags"] & FLAG_ENCRYPTED != 0, wanted))
    if one.protocol:
        tests.append(_protocol_test(one.protocol))
    return tests


def packet_tests(one: flow_pb2.FlowFilter) -> list[ClassTest]:
    """TCP flags, IP version, traffic direction."""
    tests: list[ClassTest] = []
    if one.tcp_flags:
        asked = [
            sum(bit for name, bit in TCP_FLAGS.items() if getattr(flags, name))
            for flags in one.tcp_flags
        ]

        def tcp_flags(rows: Any) -> Mask:
            has = (rows["l4"] == L4_TCP) & (rows["flags"] & FLAG_TCP_FLAGS != 0)
            found = np.logical_or.reduce([rows["tcp_flags"] & bits == bits for bits in asked])
            return np.asarray(has & found)

        tests.append(tcp_flags)
    if one.ip_version:
        tests.append(_member("ip_version", one.ip_version))
    if one.traffic_direction:
        tests.append(_member("direction", one.traffic_direction))
    return tests


def _member(column: str, values: Iterable[int]) -> ClassTest:
    wanted = list(values)
    return lambda rows: np.isin(rows[column], wanted)


def _reply_test(wanted: frozenset[bool]) -> ClassTest:
    def reply(rows: Any) -> Mask:
        found = np.zeros(len(rows), dtype=np.bool_)
        if True in wanted:
            found |= rows["is_reply"] == REPLY_TRUE
        if False in wanted:
            # Of a drop nobody knows whether it is a reply; it counts as none.
            unknown = (rows["is_reply"] == REPLY_UNKNOWN) & (rows["verdict"] == _DROPPED)
            found |= (rows["is_reply"] == REPLY_FALSE) | unknown
        return found

    return reply


def _protocol_test(words: Iterable[str]) -> ClassTest:
    wanted: list[tuple[str, tuple[int, ...]]] = []
    for word in words:
        if word.lower() not in _PROTOCOLS:
            raise UsageError(f"invalid protocol filter: unknown protocol: {quote(word.encode())}")
        wanted.append(_PROTOCOLS[word.lower()])
    return lambda rows: np.logical_or.reduce(
        [np.isin(rows[column], values) for column, values in wanted]
    )


def uuid_test(node: LocalNode, uuids: Iterable[str]) -> ViewTest:
    """Uuids as this agent makes them; others match nothing."""
    digits = [u.removeprefix(node.uuid_prefix) for u in uuids if u.startswith(node.uuid_prefix)]
    numbers = [int(d, 16) for d in digits if re.fullmatch(r"[0-9a-f]{12}", d)]
    wanted = np.array(numbers, dtype=np.uint64)
    return lambda view, chosen: np.isin(view.column("sequence", chosen), wanted)


def port_tests(one: flow_pb2.FlowFilter) -> list[ViewTest]:
    """Ports of TCP, UDP and SCTP."""
    tests: list[ViewTest] = []
    for side, texts in (("source", one.source_port), ("destination", one.destination_port)):
        if not texts:
            continue
        try:
            wanted = sorted({patterns.port(text) for text in texts})
        except UsageError as error:
            raise UsageError(f"invalid {side} port filter: {error}") from None
        tests.append(_port_test(f"{side}_port", wanted))
    return tests


def _port_test(column: str, wanted: list[int]) -> ViewTest:
    is_wanted = np.zeros(1 << 16, dtype=np.bool_)
    is_wanted[wanted] = True

    def ports(view: FlowView, chosen: Chosen) -> Mask:
        values = view.column(column, chosen)
        passed: Mask = values == wanted[0] if len(wanted) == 1 else is_wanted[values]
        return passed

    return ports


def with_ports(rows: Any) -> Mask:
    """Whether the flows have ports at all; those that have none have zeros there."""
    passed: Mask = np.isin(rows["l4"], _WITH_PORTS)
    return passed


def pod_tests(names: Sequence[str], workloads: Sequence[flow_pb2.Workload]) -> list[EntityTest]:
    """Pods by namespace and prefix; workloads by name, kind or both."""
    tests: list[EntityTest] = []
    if names:
        found = [patterns.name_prefix(text) for text in names]
        tests.append(lambda e: any(test(e.namespace, e.pod_name) for test in found))
    if workloads:
        asked = [(w.name, w.kind) for w in workloads]
        tests.append(
            lambda e: any(
                name in ("", w.name) and kind in ("", w.kind)
                for w in e.workloads
                for name, kind in asked
            )
        )
    return tests


def cluster_tests(clusters: Sequence[str]) -> list[EntityTest]:
    """Names of clusters."""
    if "" in clusters:
        raise UsageError("invalid filter, name must not be empty")
    wanted = frozenset(clusters)
    return [lambda e: e.cluster_name in wanted] if wanted else []


def selectors(texts: Iterable[str], whose: str) -> list[Selector]:
    """Label selectors; ``whose`` labels they are stands in the error."""
    try:
        return [selector(text) for text in texts]
    except UsageError as error:
        raise UsageError(f"invalid {whose} label filter: {error}") from None


def label_tests(texts: Sequence[str], whose: str) -> list[EntityTest]:
    """Of an endpoint."""
    tests = selectors(texts, whose)
    return [lambda e: any(test(e.labels) for test in tests)] if tests else []


def service_tests(one: flow_pb2.FlowFilter) -> list[DetailTest]:
    """Services by namespace and prefix."""
    tests: list[DetailTest] = []
    for side, texts in (
        ("source", one.source_service),
        ("destination", one.destination_service),
    ):
        if not texts:
            continue
        try:
            found = [patterns.name_prefix(text) for text in texts]
        except UsageError as error:
            raise UsageError(f"invalid {side} service filter: {error}") from None
        tests.append(_service_test(f"{side}_service", found))
    return tests


def _service_test(side: str, found: list[patterns.NameTest]) -> DetailTest:
    def service(detail: Detail) -> bool:
        one = getattr(detail, side)
        return one is not None and any(test(one.namespace, one.name) for test in found)

    return service


def name_tests(
    one: flow_pb2.FlowFilter,
) -> list[NameTest]:
    """DNS names known of either address."""
    return [
        _name_test([patterns.fqdn(text) for text in texts], side)
        for side, texts in enumerate((one.source_fqdn, one.destination_fqdn))
        if texts
    ]


def _name_test(found: list[patterns.Expression], side: int) -> NameTest:
    return lambda pair: any(p.fullmatch(name) for name in pair[side] for p in found)


def translated_tests(texts: Sequence[str]) -> list[DetailTest]:
    """The source on the wire where it was translated: ``IP.source_xlated``."""
    wanted = patterns.networks(texts)

    def translated(detail: Detail) -> bool:
        return any(
            address.version == network.version and address.subnet_of(network)  # type: ignore[arg-type]
            for address in patterns.networks([detail.source_xlated] if detail.source_xlated else [])
            for network in wanted
        )

    return [translated] if texts else []


def prefix(network: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
    """Mask and value of 16 bytes, and whether it is of mapped addresses."""
    is_mapped = network.version == 4
    bits, value = network.netmask.packed, network.network_address.packed
    if is_mapped:
        bits, value = b"\xff" * 12 + bits, MAPPED + value
    return np.frombuffer(bits, dtype=np.uint8), np.frombuffer(value, dtype=np.uint8), is_mapped


def dns_test(texts: Iterable[str]) -> DetailTest:
    """Expressions searched for in the query of a DNS record."""
    try:
        found = [patterns.expression(text) for text in texts]
    except UsageError as error:
        raise UsageError(f"invalid DNS query filter: failed to compile regexp: {error}") from None

    def dns(detail: Detail) -> bool:
        if detail.l7 is None or not isinstance(detail.l7.labels, DnsLabels):
            return False
        record = detail.l7.content().record
        return isinstance(record, Dns) and any(p.search(record.query) for p in found)

    return dns


def http_tests(one: flow_pb2.FlowFilter) -> list[DetailTest]:
    """All that asks an HTTP record; refused where the event types exclude records."""
    fields = {
        "status code": one.http_status_code, "method": one.http_method, "path": one.http_path,
        "url": one.http_url, "headers": one.http_header,
    }  # fmt: skip
    asked = [name for name, values in fields.items() if values]
    if not asked:
        return []
    if one.event_type and all(e.type != _L7_EVENT for e in one.event_type):
        raise UsageError(
            f"filtering by http {asked[0]} requires the event type filter to only match 'l7' events"
        )
    labels: list[Callable[[HttpLabels], bool]] = []
    tests: list[Callable[[Http], bool]] = []
    if one.http_status_code:
        try:
            codes = [patterns.status_code(text) for text in one.http_status_code]
        except UsageError as error:
            raise UsageError(f"invalid http status code filter: {error}") from None
        labels.append(lambda http: any(code(http.code) for code in codes))
    if one.http_method:
        methods = frozenset(method.lower() for method in one.http_method)
        labels.append(lambda http: bool(http.method) and http.method.lower() in methods)
    if one.http_path:
        tests.append(_http_expression(one.http_path, "path", _path))
    if one.http_url:
        tests.append(_http_expression(one.http_url, "url", lambda url: url or None))
    if one.http_header:
        headers = frozenset((header.key, header.value) for header in one.http_header)
        tests.append(lambda http: not headers.isdisjoint(http.headers))

    def http(detail: Detail) -> bool:
        l7 = detail.l7
        if l7 is None or not isinstance(l7.labels, HttpLabels):
            return False
        if not all(test(l7.labels) for test in labels):
            return False
        record = l7.content().record if tests else None  # takes as long as everything else
        return not tests or (isinstance(record, Http) and all(test(record) for test in tests))

    return [http]


def _http_expression(
    texts: Iterable[str], what: str, part: Callable[[str], str | None]
) -> Callable[[Http], bool]:
    found = []
    for text in texts:
        try:
            found.append(patterns.expression(text))
        except UsageError as error:
            raise UsageError(f"invalid http {what} filter: {text}: {error}") from None

    def matches(http: Http) -> bool:
        subject = part(http.url)
        return subject is not None and any(p.search(subject) for p in found)

    return matches


def _path(url: str) -> str | None:
    """The decoded path of what an HTTP request line may hold; ``None`` for anything else.

    Go's reading of a request URI: no fragment is split off, ``//`` after no scheme is path.
    """
    parts = _REQUEST_URI.fullmatch(url)
    path = "".join(part or "" for part in parts.groups()) if parts else ""
    if parts is None or _BAD_ESCAPE.search(path):
        return None
    return unquote(path)
