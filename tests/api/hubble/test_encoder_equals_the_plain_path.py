"""Composed bytes parse to the very messages that the plain path makes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hubble.encode import FlowEncoder
from api.hubble.mask import FieldMask
from api.hubble.messages import FlowMessages
from api.v1.observer import observer_pb2
from parsers.flow_batch import FlowBatch
from tests.api.hubble.from_json import batch_of, flows_of, interfaces_of, new_tables, node_of
from tests.fixtures import MIXES

CLI_MASK = (
    "time", "verdict", "ethernet", "IP", "l4", "source.identity", "source.namespace",
    "source.pod_name", "destination.identity", "destination.namespace", "destination.pod_name",
    "Type", "node_name", "l7", "event_type", "source_service", "destination_service", "is_reply",
    "Summary", "ip_trace_id", "traffic_direction", "policy_match_type", "ingress_allowed_by",
    "ingress_denied_by", "egress_allowed_by", "egress_denied_by",
)  # fmt: skip


def parsed(encoded: list[bytes]) -> list[observer_pb2.GetFlowsResponse]:
    return [observer_pb2.GetFlowsResponse.FromString(data) for data in encoded]


def prepare(mix: str) -> tuple[FlowBatch, FlowMessages, FlowEncoder]:
    flows = flows_of("v1.20", mix)
    tables = new_tables()
    batch = batch_of(flows, tables)
    node = node_of(flows[0], interfaces_of(flows))
    return batch, FlowMessages(tables, node), FlowEncoder(tables, node)


@pytest.mark.parametrize("mix", MIXES)
def test_every_recorded_flow_encodes_to_the_plain_message(mix: str) -> None:
    batch, messages, encoder = prepare(mix)
    for i, response in enumerate(parsed(encoder.encode(batch))):
        flow = messages.flow(batch, i)
        assert response.flow == flow
        assert (response.node_name, response.time) == (flow.node_name, flow.time)


def test_the_order_and_the_number_of_flows_in_a_batch_do_not_matter() -> None:
    batch, _, encoder = prepare("all")
    shuffle = random.Random(1)
    whole = encoder.encode(batch)
    for size in (0, 1, 2, 999):
        rows = np.array(shuffle.sample(range(len(batch)), size), dtype=np.int64)
        assert encoder.encode(batch.select(rows)) == [whole[i] for i in rows]


@given(
    time=st.integers(-(2**62), 2**62),
    sequence=st.integers(0, 2**48 - 1),
    ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    row=st.integers(0, 1900),
)
def test_any_time_sequence_and_ports_survive(
    time: int, sequence: int, ports: tuple[int, int], row: int
) -> None:
    batch, messages, encoder = STEADY
    changed = FlowBatch(
        batch.tables,
        np.array([time], dtype=np.int64),
        np.array([sequence], dtype=np.uint64),
        batch.flow_class[row : row + 1],
        batch.conversation[row : row + 1],
        np.array(ports[:1], dtype=np.uint16),
        np.array(ports[1:], dtype=np.uint16),
        batch.detail[row : row + 1],
    )
    (response,) = parsed(encoder.encode(changed))
    assert response.flow == messages.flow(changed, 0)


STEADY = prepare("steady")


@pytest.mark.parametrize(
    "paths",
    [
        CLI_MASK, ("uuid",), ("l4",), ("time",), ("l4.TCP.flags", "uuid"), ("time.seconds", "l7"),
        ("source", "destination.labels", "file.line"), ("Summary", "interface.name", "IP.source"),
        ("l7.http.method", "l4.UDP"), ("tunnel.l4.UDP.source_port", "drop_reason_desc"),
    ],
)  # fmt: skip
def test_a_mask_gives_what_masking_the_plain_message_gives(paths: tuple[str, ...]) -> None:
    flows = flows_of("v1.20", "all")
    tables = new_tables()
    batch = batch_of(flows, tables)
    node = node_of(flows[0], interfaces_of(flows))
    mask = FieldMask(paths)
    messages = FlowMessages(tables, node)
    for i, response in enumerate(parsed(FlowEncoder(tables, node, mask).encode(batch))):
        flow = messages.flow(batch, i)
        assert response.time == flow.time
        assert response.node_name == flow.node_name
        assert response.flow == mask.apply(flow)


def test_a_row_that_was_used_again_is_shown_as_it_is_now() -> None:
    flows = flows_of("v1.20", "steady")[:1]
    tables = new_tables()
    batch = batch_of(flows, tables)
    names = {1: "eth0"}
    node = node_of(flows[0], names)
    encoder = FlowEncoder(tables, node)
    encoder.encode(batch)
    row = int(batch.conversation[0])
    tables.conversations.source_entity[row] = 0
    tables.conversations.rows["source_mac"][row] = 7
    tables.conversations.generation += 1
    (response,) = parsed(encoder.encode(batch))
    assert not response.flow.HasField("source")
    assert response.flow.ethernet.source == "07:07:07:07:07:07"
