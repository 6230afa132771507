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

from collections.abc import Iterable, Sequence

import numpy as np

from api.hubble import patterns
from api.hubble.filter_fields import (
    BatchTest,
    ClassTest,
    DetailTest,
    EntityTest,
    NameTest,
    cluster_tests,
    dns_test,
    event_tests,
    http_tests,
    label_tests,
    name_tests,
    packet_tests,
    pod_tests,
    port_tests,
    prefix,
    selectors,
    service_tests,
    translated_tests,
    uuid_test,
)
from api.hubble.node import LocalNode
from api.hubble.row_test import Mask, Rows, RowTest, each
from api.v1.flow import flow_pb2
from parsers.addresses import MAPPED
from parsers.errors import UsageError
from parsers.flow_batch import ABSENT_DESTINATION, ABSENT_SOURCE, FlowBatch, FlowTables


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
    return bool(one.drop_reason_desc) or set(one.verdict) == {flow_pb2.DROPPED}


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
            self._tests.append(uuid_test(node, one.uuid))
        classes += event_tests(one)
        addresses = [
            self._address_test(one.source_ip, "source_ip", ABSENT_SOURCE),
            self._address_test(one.destination_ip, "destination_ip", ABSENT_DESTINATION),
        ]
        details += translated_tests(one.source_ip_xlated)
        sources = pod_tests(one.source_pod, one.source_workload)
        destinations = pod_tests(one.destination_pod, one.destination_workload)
        details += service_tests(one)
        names = name_tests(one)
        if one.dns_query:
            details.append(dns_test(one.dns_query))
        sources += label_tests(one.source_label, "source")
        destinations += label_tests(one.destination_label, "destination")
        always = self._node_tests(one)
        ports = port_tests(one)
        details += http_tests(one)
        classes += packet_tests(one)
        sources += cluster_tests(one.source_cluster_name)
        destinations += cluster_tests(one.destination_cluster_name)
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
                lambda numbers: np.logical_and.reduce([t(classes.rows[numbers]) for t in tests]),
                lambda: classes.generation,
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

        rows = RowTest(evaluate, lambda: conversations.generation)
        self._tests.append(lambda batch: rows(getattr(conversations, side)[batch.conversation]))

    def _ask_names(self, tests: list[NameTest]) -> None:
        conversations = self._tables.conversations
        pairs = conversations.name_pairs
        rows = RowTest(
            each(lambda row: all(test(pairs[row]) for test in tests)),
            lambda: conversations.generation,
        )
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
        prefixes = [prefix(network) for network in patterns.networks(texts)]
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
            tests = selectors(one.node_labels, "node")
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
