"""Flow filters as masks over batches.

A ``FlowFilter`` is compiled once per request into one test for each table that it asks
about: of the class, of either entity, of the conversation's addresses and names, of the
detail. All its fields that ask the same table become one ``RowTest``, so that a filter
costs a follower a gather or two a flow. The rest (ports, uuid) are comparisons of columns,
and CEL expressions are asked of messages, one by one. Cheap tests come first; once few flows
are left, the others are asked about those alone.

Fields are OR within and AND between; whitelist minus blacklist. Rules, also the odd ones,
are those of Hubble's filter package; a value it refuses raises ``UsageError`` in its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from api.hubble import cel, patterns
from api.hubble.filter_fields import (
    ClassTest,
    DetailTest,
    EntityTest,
    NameTest,
    ViewTest,
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
    with_ports,
)
from api.hubble.flow_view import WIDEST, Chosen, FlowView
from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.hubble.row_test import Mask, Rows, RowTest, each
from api.v1.flow import flow_pb2
from parsers.addresses import MAPPED
from parsers.flow_batch import ABSENT_DESTINATION, ABSENT_SOURCE, FlowTables

_FEW = 4  # of so many flows one is left: look at it alone
_WIDTH_RECORDS, _WIDTH_MESSAGES = 1 << 10, 1 << 7
"""Flows looked at in one step where records are decoded, and where messages are made: some
20 µs and 40 µs each, at most."""


class FlowSelection:
    """What a request's white- and blacklist select of the flows of one pipeline.

    Selections may be shared by calls: they keep nothing but answers by table row.
    """

    __slots__ = ("__weakref__", "_black", "_white", "only_drops", "width")

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
        self.width = min((f.width for f in self._white + self._black), default=WIDEST)
        """As many flows may be asked about at a time without holding the loop for long."""

    def matches(self, view: FlowView) -> NDArray[np.intp]:
        """Which flows of the view are selected, in rising order."""
        found = view.answers.get(self)
        if found is None:
            found = view.answers[self] = self._matches(view)
        return found

    def _matches(self, view: FlowView) -> NDArray[np.intp]:
        if len(self._white) == 1:
            found = self._white[0].matches(view)
        elif self._white:
            selected = np.zeros(len(view), dtype=np.bool_)
            for one in self._white:
                selected[one.matches(view)] = True
            found = selected.nonzero()[0]
        else:
            found = np.arange(len(view))
        for one in self._black:
            if not len(found):
                break
            removed = np.zeros(len(view), dtype=np.bool_)
            removed[one.matches(view, found)] = True
            found = found[~removed[found]]
        return found


def _matches_only_drops(one: flow_pb2.FlowFilter) -> bool:
    return bool(one.drop_reason_desc) or set(one.verdict) == {flow_pb2.DROPPED}


class _Filter:
    """One ``FlowFilter``: the AND of its tests."""

    def __init__(self, tables: FlowTables, node: LocalNode, one: flow_pb2.FlowFilter) -> None:
        self._tables = tables
        self._node = node
        self._tests: list[ViewTest] = []
        self.width = WIDEST
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
        records = [dns_test(one.dns_query)] if one.dns_query else []
        sources += label_tests(one.source_label, "source")
        destinations += label_tests(one.destination_label, "destination")
        node_labels = selectors(one.node_labels, "node")
        ports = port_tests(one)
        if ports:
            classes.append(with_ports)
        records += http_tests(one)
        classes += packet_tests(one)
        node_names = [patterns.node_name(text) for text in one.node_name]
        sources += cluster_tests(one.source_cluster_name)
        destinations += cluster_tests(one.destination_cluster_name)
        if one.trace_id:
            traces = frozenset(one.trace_id)
            details.append(lambda d: (d.l7.trace_id if d.l7 is not None else "") in traces)
        if one.ip_trace_id:
            numbers = frozenset(one.ip_trace_id)
            details.append(lambda d: d.ip_trace_id in numbers)
        conditions = one.experimental.cel_expression
        condition = cel.expressions(conditions) if conditions else None
        if one.interface:
            classes.append(self._interface_test(one.interface))

        name = patterns.absolute_node_name(node.name)
        if (node_labels and not any(test(node.labels) for test in node_labels)) or (
            node_names and not any(pattern.fullmatch(name) for pattern in node_names)
        ):
            self._tests = [_none]  # as all flows of this agent have the same
            return
        self._tests += ports
        self._ask_classes(classes)
        self._ask_entities("source_entity", sources, one.source_identity)
        self._ask_entities("destination_entity", destinations, one.destination_identity)
        self._tests += [test for test in addresses if test is not None]
        if names:
            self._ask_names(names)
        if records:
            self.width = _WIDTH_RECORDS
        if details or records:
            self._ask_details(details + records)
        if condition is not None:
            self.width = _WIDTH_MESSAGES
            self._ask_messages(condition)

    def matches(self, view: FlowView, chosen: Chosen = None) -> NDArray[np.intp]:
        """Those of the chosen flows that match."""
        selected: Mask | None = None
        for test in self._tests:
            passed = test(view, chosen)
            if chosen is not None:
                chosen = chosen[passed]
            else:
                selected = passed if selected is None else selected & passed
                if np.count_nonzero(selected) * _FEW < len(selected):
                    chosen = selected.nonzero()[0]
            if chosen is not None and not len(chosen):
                return chosen
        if chosen is not None:
            return chosen
        return np.arange(len(view)) if selected is None else selected.nonzero()[0]

    def _ask(self, column: str, rows: RowTest) -> None:
        self._tests.append(lambda view, chosen: rows(view.column(column, chosen)))

    def _ask_classes(self, tests: list[ClassTest]) -> None:
        if tests:
            classes = self._tables.classes
            rows = RowTest(
                lambda numbers: np.logical_and.reduce([t(classes.rows[numbers]) for t in tests]),
                lambda: classes.generation,
            )
            self._ask("flow_class", rows)

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

        self._ask(side, RowTest(evaluate, lambda: conversations.generation))

    def _ask_names(self, tests: list[NameTest]) -> None:
        conversations = self._tables.conversations
        pairs = conversations.name_pairs
        rows = RowTest(
            each(lambda row: all(test(pairs[row]) for test in tests)),
            lambda: conversations.generation,
        )
        self._ask("names", rows)

    def _ask_details(self, tests: list[DetailTest]) -> None:
        details = self._tables.details
        rows = RowTest(
            each(lambda row: all(test(details[row]) for test in tests)),
            lambda: details.generation,
        )
        self._ask("detail", rows)

    def _ask_messages(self, matches: cel.FlowTest) -> None:
        messages = FlowMessages(self._tables, self._node)

        def ask(view: FlowView, chosen: Chosen) -> Mask:
            rows = range(len(view)) if chosen is None else chosen.tolist()
            found = (matches(messages.flow(view.batch, row)) for row in rows)
            return np.fromiter(found, dtype=np.bool_, count=len(rows))

        self._tests.append(ask)

    def _address_test(self, texts: Sequence[str], side: str, absent: int) -> ViewTest | None:
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
        return lambda view, chosen: rows(view.column("conversation", chosen))

    def _interface_test(self, wanted: Iterable[flow_pb2.NetworkInterface]) -> ClassTest:
        asked = [(one.index, one.name) for one in wanted]
        name_of = self._node.interface_name

        def matches(index: int) -> bool:
            return index > 0 and any(
                (not number or number == index) and (not name or name == name_of(index))
                for number, name in asked
            )

        return lambda rows: each(matches)(rows["interface"])


def _none(view: FlowView, chosen: Chosen) -> Mask:
    return np.zeros(len(view if chosen is None else chosen), dtype=np.bool_)
