"""Flow filters as masks over batches.

A ``FlowFilter`` is compiled once per request into one test for each table that it asks
about: of the class, of either entity, of the conversation's addresses and names, of the
detail. All its fields that ask the same table become one ``RowTest``, so that a filter
costs a follower a gather or two a flow. The rest (ports, uuid) are comparisons of columns.
Cheap tests come first; a batch in which nothing is left is not asked further.

Fields are OR within and AND between; whitelist minus blacklist. Rules, also the odd ones,
are those of Hubble's filter package; a value it refuses raises ``UsageError`` in its words.
Not there yet: CEL expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from api.hubble import patterns
from api.hubble.label_selector import selector
from api.hubble.node import LocalNode
from api.hubble.row_test import Mask, Rows, RowTest, each
from api.v1.flow import flow_pb2
from parsers.addresses import MAPPED
from parsers.details import Detail
from parsers.entities import Entity
from parsers.errors import UsageError
from parsers.flow_batch import (
    ABSENT_DESTINATION,
    ABSENT_SOURCE,
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
    FlowBatch,
    FlowTables,
)
from parsers.l7 import Dns, Http
from parsers.summary import TCP_FLAGS

ClassTest: TypeAlias = Callable[[Any], Mask]  # of rows of FLOW_CLASS
EntityTest: TypeAlias = Callable[[Entity], bool]
DetailTest: TypeAlias = Callable[[Detail], bool]
BatchTest: TypeAlias = Callable[[FlowBatch], Mask]

_DROPPED = flow_pb2.DROPPED
_L7_EVENT = 129
_WITH_PORTS = (L4_TCP, L4_UDP, L4_SCTP)
_PROTOCOLS: dict[str, tuple[str, tuple[int, ...]]] = {
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


class FlowSelection:
    """What a request's white- and blacklist select of the flows of one pipeline."""

    __slots__ = ("_black", "_white", "only_drops")

    def __init__(
        self,
        tables: FlowTables,
        node: LocalNode,
        whitelist: Sequence[flow_pb2.FlowFilter] = (),
        blacklist: Sequence[flow_pb2.FlowFilter] = (),
    ) -> None:
        self._white = [_Filter(tables, node, f) for f in whitelist]
        self._black = [_Filter(tables, node, f) for f in blacklist]
        self.only_drops = bool(whitelist) and all(map(_matches_only_drops, whitelist))
        """Nothing but dropped flows can match."""

    def __bool__(self) -> bool:
        """Whether it asks anything."""
        return bool(self._white or self._black)

    def mask(self, batch: FlowBatch) -> Mask:
        """Which flows of the batch are selected."""
        if self._white:
            selected = self._white[0].mask(batch)
            for one in self._white[1:]:
                selected |= one.mask(batch)
        else:
            selected = np.ones(len(batch), dtype=np.bool_)
        for one in self._black:
            if not selected.any():
                break
            selected &= ~one.mask(batch)
        return selected


def _matches_only_drops(one: flow_pb2.FlowFilter) -> bool:
    return bool(one.drop_reason_desc) or set(one.verdict) == {_DROPPED}


class _Filter:
    """One ``FlowFilter``: the AND of its tests."""

    def __init__(self, tables: FlowTables, node: LocalNode, one: flow_pb2.FlowFilter) -> None:
        self._tables = tables
        self._node = node
        self._tests: list[BatchTest] = []
        # In Hubble's order of fields, which decides the error that is reported.
        details: list[DetailTest] = []
        classes: list[ClassTest] = []
        if one.uuid:
            self._tests.append(_uuid_test(node, one.uuid))
        classes += _event_tests(one)
        addresses = [
            self._address_test(one.source_ip, "source_ip", ABSENT_SOURCE),
            self._address_test(one.destination_ip, "destination_ip", ABSENT_DESTINATION),
        ]
        details += _any_detail(
            [_within(network) for network in patterns.networks(one.source_ip_xlated)],
            one.source_ip_xlated,
            lambda detail: detail.source_xlated,
        )
        sources = _pod_tests(one.source_pod, one.source_workload)
        destinations = _pod_tests(one.destination_pod, one.destination_workload)
        details += _service_tests(one)
        names = _name_tests(one)
        if one.dns_query:
            details.append(_dns_test(one.dns_query))
        sources += _label_tests(one.source_label, "source")
        destinations += _label_tests(one.destination_label, "destination")
        always = self._node_tests(one)
        ports = _port_tests(one)
        details += _http_tests(one)
        classes += _packet_tests(one)
        sources += _cluster_tests(one.source_cluster_name)
        destinations += _cluster_tests(one.destination_cluster_name)
        if one.trace_id:
            traces = frozenset(one.trace_id)
            details.append(lambda d: (d.l7.trace_id if d.l7 is not None else "") in traces)
        if one.ip_trace_id:
            numbers = frozenset(one.ip_trace_id)
            details.append(lambda d: d.ip_trace_id in numbers)
        if one.experimental.cel_expression:
            raise UsageError("CEL expressions are not supported; use the other filters")
        if one.interface:
            classes.append(self._interface_test(one.interface))

        if not all(always):
            self._tests = [lambda batch: np.zeros(len(batch), dtype=np.bool_)]
            return
        self._tests += ports
        self._ask_classes(classes)
        self._ask_entities("source_entity", sources, one.source_identity)
        self._ask_entities("destination_entity", destinations, one.destination_identity)
        self._tests += [test for test in addresses if test is not None]
        if names:
            self._ask_names(names)
        if details:
            self._ask_details(details)

    def mask(self, batch: FlowBatch) -> Mask:
        """Which flows of the batch match."""
        selected: Mask | None = None
        for test in self._tests:
            passed = test(batch)
            selected = passed if selected is None else selected & passed
            if not selected.any():
                break
        return np.ones(len(batch), dtype=np.bool_) if selected is None else selected

    def _ask_classes(self, tests: list[ClassTest]) -> None:
        if tests:
            classes = self._tables.classes
            rows = RowTest(
                lambda numbers: np.logical_and.reduce([t(classes.rows[numbers]) for t in tests])
            )
            self._tests.append(lambda batch: rows(batch.flow_class))

    def _ask_entities(self, side: str, tests: list[EntityTest], identities: Sequence[int]) -> None:
        if not tests and not identities:
            return
        conversations = self._tables.conversations
        entities = conversations.entities

        def evaluate(numbers: Rows) -> Mask:
            passed = each(lambda row: all(test(entities[row]) for test in tests))(numbers)
            if identities:  # a flow without the endpoint does not even have identity 0
                passed &= np.isin(entities.identity[numbers], identities) & (numbers != 0)
            return passed

        rows = RowTest(evaluate)
        self._tests.append(lambda batch: rows(getattr(conversations, side)[batch.conversation]))

    def _ask_names(
        self, tests: list[Callable[[tuple[tuple[str, ...], tuple[str, ...]]], bool]]
    ) -> None:
        conversations = self._tables.conversations
        pairs = conversations.name_pairs
        rows = RowTest(each(lambda row: all(test(pairs[row]) for test in tests)))
        self._tests.append(lambda batch: rows(conversations.names[batch.conversation]))

    def _ask_details(self, tests: list[DetailTest]) -> None:
        details = self._tables.details
        rows = RowTest(
            each(lambda row: all(test(details[row]) for test in tests)),
            lambda: details.generation,
        )
        self._tests.append(lambda batch: rows(batch.detail))

    def _address_test(self, texts: Sequence[str], side: str, absent: int) -> BatchTest | None:
        if not texts:
            return None
        prefixes = [_prefix(network) for network in patterns.networks(texts)]
        conversations = self._tables.conversations

        def evaluate(numbers: Rows) -> Mask:
            keys = conversations.rows[numbers]
            addresses = np.ascontiguousarray(keys[side])
            mapped = (addresses[:, :12] == np.frombuffer(MAPPED, dtype=np.uint8)).all(axis=1)
            found = np.zeros(len(keys), dtype=np.bool_)
            for bits, value, is_mapped in prefixes:
                found |= ((addresses & bits) == value).all(axis=1) & (mapped == is_mapped)
            found &= (keys["ip_version"] > 0) & (keys["absent"] & absent == 0)
            return found

        rows = RowTest(evaluate, lambda: conversations.generation)
        return lambda batch: rows(batch.conversation)

    def _node_tests(self, one: flow_pb2.FlowFilter) -> list[bool]:
        """What is the same for all flows of this agent."""
        passed: list[bool] = []
        if one.node_labels:
            tests = _selectors(one.node_labels, "node")
            passed.append(any(test(self._node.labels) for test in tests))
        if one.node_name:
            name = patterns.absolute_node_name(self._node.name)
            found = [patterns.node_name(text) for text in one.node_name]
            passed.append(any(pattern.fullmatch(name) for pattern in found))
        return passed

    def _interface_test(self, wanted: Iterable[flow_pb2.NetworkInterface]) -> ClassTest:
        asked = [(one.index, one.name) for one in wanted]
        name_of = self._node.interface_name

        def matches(index: int) -> bool:
            return index > 0 and any(
                (not number or number == index) and (not name or name == name_of(index))
                for number, name in asked
            )

        return lambda rows: each(matches)(rows["interface"])


def _event_tests(one: flow_pb2.FlowFilter) -> list[ClassTest]:
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


def _packet_tests(one: flow_pb2.FlowFilter) -> list[ClassTest]:
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
            raise UsageError(f'invalid protocol filter: unknown protocol: "{word}"')
        wanted.append(_PROTOCOLS[word.lower()])
    return lambda rows: np.logical_or.reduce(
        [np.isin(rows[column], values) for column, values in wanted]
    )


def _uuid_test(node: LocalNode, uuids: Iterable[str]) -> BatchTest:
    digits = [u.removeprefix(node.uuid_prefix) for u in uuids if u.startswith(node.uuid_prefix)]
    numbers = [int(d, 16) for d in digits if re.fullmatch(r"[0-9a-f]{12}", d)]
    wanted = np.array(numbers, dtype=np.uint64)
    return lambda batch: np.isin(batch.sequence, wanted)


def _port_tests(one: flow_pb2.FlowFilter) -> list[BatchTest]:
    tests: list[BatchTest] = []
    for side, texts in (("source", one.source_port), ("destination", one.destination_port)):
        if not texts:
            continue
        try:
            wanted = np.array([patterns.port(text) for text in texts], dtype=np.uint16)
        except UsageError as error:
            raise UsageError(f"invalid {side} port filter: {error}") from None
        tests.append(_port_test(f"{side}_port", wanted))
    return tests


def _port_test(column: str, wanted: NDArray[np.uint16]) -> BatchTest:
    def ports(batch: FlowBatch) -> Mask:
        passed: Mask = np.isin(getattr(batch, column), wanted)
        if passed.any() and 0 in wanted:  # a flow without ports has zeros there
            passed &= np.isin(batch.attribute("l4"), _WITH_PORTS)
        return passed

    return ports


def _pod_tests(names: Sequence[str], workloads: Sequence[flow_pb2.Workload]) -> list[EntityTest]:
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


def _cluster_tests(clusters: Sequence[str]) -> list[EntityTest]:
    if "" in clusters:
        raise UsageError("invalid filter, name must not be empty")
    wanted = frozenset(clusters)
    return [lambda e: e.cluster_name in wanted] if wanted else []


def _selectors(texts: Iterable[str], whose: str) -> list[Callable[[tuple[str, ...]], bool]]:
    try:
        return [selector(text) for text in texts]
    except UsageError as error:
        raise UsageError(f"invalid {whose} label filter: {error}") from None


def _label_tests(texts: Sequence[str], whose: str) -> list[EntityTest]:
    tests = _selectors(texts, whose)
    return [lambda e: any(test(e.labels) for test in tests)] if tests else []


def _service_tests(one: flow_pb2.FlowFilter) -> list[DetailTest]:
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


def _name_tests(
    one: flow_pb2.FlowFilter,
) -> list[Callable[[tuple[tuple[str, ...], tuple[str, ...]]], bool]]:
    return [
        _name_test([patterns.fqdn(text) for text in texts], side)
        for side, texts in enumerate((one.source_fqdn, one.destination_fqdn))
        if texts
    ]


def _name_test(
    found: list[re.Pattern[str]], side: int
) -> Callable[[tuple[tuple[str, ...], tuple[str, ...]]], bool]:
    return lambda pair: any(p.fullmatch(name) for name in pair[side] for p in found)


def _any_detail(
    tests: list[Callable[[str], bool]], asked: Sequence[str], text_of: Callable[[Detail], str]
) -> list[DetailTest]:
    return [lambda detail: any(test(text_of(detail)) for test in tests)] if asked else []


def _within(network: Any) -> Callable[[str], bool]:
    single = patterns.networks

    def within(text: str) -> bool:
        if not text:
            return False
        (address,) = single([text])
        return address.version == network.version and address.subnet_of(network)

    return within


def _prefix(network: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
    """Mask and value of 16 bytes, and whether it is of mapped addresses."""
    is_mapped = network.version == 4
    bits, value = network.netmask.packed, network.network_address.packed
    if is_mapped:
        bits, value = b"\xff" * 12 + bits, MAPPED + value
    return np.frombuffer(bits, dtype=np.uint8), np.frombuffer(value, dtype=np.uint8), is_mapped


def _dns_test(texts: Iterable[str]) -> DetailTest:
    try:
        found = [patterns.expression(text) for text in texts]
    except UsageError as error:
        raise UsageError(f"invalid DNS query filter: failed to compile regexp: {error}") from None

    def dns(detail: Detail) -> bool:
        record = detail.l7.content().record if detail.l7 is not None else None
        return isinstance(record, Dns) and any(p.search(record.query) for p in found)

    return dns


def _http_tests(one: flow_pb2.FlowFilter) -> list[DetailTest]:
    tests: list[Callable[[Http], bool]] = []
    asked: list[str] = []
    if one.http_status_code:
        asked.append("status code")
        try:
            codes = [patterns.status_code(text) for text in one.http_status_code]
        except UsageError as error:
            raise UsageError(f"invalid http status code filter: {error}") from None
        tests.append(lambda http: any(code(http.code) for code in codes))
    if one.http_method:
        asked.append("method")
        methods = frozenset(method.lower() for method in one.http_method)
        tests.append(lambda http: bool(http.method) and http.method.lower() in methods)
    if one.http_path:
        asked.append("path")
        tests.append(_http_expression(one.http_path, "path", _path))
    if one.http_url:
        asked.append("url")
        tests.append(_http_expression(one.http_url, "url", lambda url: url))
    if one.http_header:
        asked.append("headers")
        headers = frozenset((header.key, header.value) for header in one.http_header)
        tests.append(lambda http: not headers.isdisjoint(http.headers))
    if asked and one.event_type and all(e.type != _L7_EVENT for e in one.event_type):
        raise UsageError(
            f"filtering by http {asked[0]} requires the event type filter to only match 'l7' events"
        )
    if not tests:
        return []

    def http(detail: Detail) -> bool:
        record = detail.l7.content().record if detail.l7 is not None else None
        return isinstance(record, Http) and all(test(record) for test in tests)

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
    try:
        return unquote(urlsplit(url).path)
    except ValueError:
        return None
