"""Packets, bytes and the kernel's own reason, in a form that clients can read."""

from __future__ import annotations

import json

import pytest
from google.protobuf.struct_pb2 import Struct

from api.history import FlowRing
from api.hubble.encode import FlowEncoder
from api.hubble.mask import FieldMask
from api.hubble.messages import FlowMessages, to_json
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.flow_batch import FlowBatch
from tests.api.hubble.from_json import batch_of, flows_of, new_tables, node_of
from tests.api.hubble.probe_flows import as_probes_tell, probe_tables


def prepared(mask: FieldMask | None = None) -> tuple[FlowBatch, FlowMessages, FlowEncoder]:
    flows = flows_of("v1.20", "all")[::5]
    tables = probe_tables(new_tables())
    node = node_of(flows[0], {})
    batch = as_probes_tell(batch_of(flows, tables))
    return batch, FlowMessages(tables, node), FlowEncoder(tables, node, mask)


def encoded(encoder: FlowEncoder, batch: FlowBatch) -> list[flow_pb2.Flow]:
    return [observer_pb2.GetFlowsResponse.FromString(data).flow for data in encoder.encode(batch)]


def fields_of(flow: flow_pb2.Flow) -> dict[str, str | float]:
    told = Struct()
    assert flow.extensions.Unpack(told)
    return dict(told)  # type: ignore[arg-type]


def test_counts_and_reasons_are_in_the_extension_of_each_flow_of_a_probe() -> None:
    batch, _, encoder = prepared()
    flows = encoded(encoder, batch)[:-3]
    assert not any(flow.HasField("extensions") for flow in flows[::3])
    assert [fields_of(flow) for flow in flows[1::3]] == [
        {"packets": n, "bytes": n << 20} for n in range(2, len(flows) + 1, 3)
    ]
    assert [fields_of(flow) for flow in flows[2::3]] == [
        {
            "packets": n, "bytes": n << 20, "drop_reason": "NETFILTER_DROP",
            "location": "nft_do_chain", "queue": 3,
        }
        for n in range(3, len(flows) + 1, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "paths", [(), ("extensions",), ("extensions.type_url", "verdict"), ("l4", "uuid"), ("Summary",)]
)
def test_the_composed_message_is_the_plain_one(paths: tuple[str, ...]) -> None:
    mask = FieldMask(paths)
    batch, messages, encoder = prepared(mask)
    for i, flow in enumerate(encoded(encoder, batch)):
        assert flow == mask.apply(messages.flow(batch, i))


def test_what_stands_for_no_packet_has_no_counts() -> None:
    batch, _, encoder = prepared()
    told = {
        tuple(sorted(fields_of(flow))) if flow.HasField("extensions") else ()
        for flow in encoded(encoder, batch)[-3:]
    }
    assert told == {(), ("drop_reason", "location", "queue")}


def test_a_drop_names_the_kernels_reason_in_its_summary() -> None:
    batch, messages, _ = prepared()
    flow = messages.flow(batch, 2)
    assert flow.verdict == flow_pb2.DROPPED
    assert flow.Summary.endswith("; NETFILTER_DROP")


def test_the_extension_prints_as_json_with_its_names() -> None:
    batch, messages, _ = prepared()
    told = json.loads(to_json(messages.flow(batch, 1)))["extensions"]
    assert told["@type"] == "type.googleapis.com/google.protobuf.Struct"
    assert told["value"] == {"packets": 2, "bytes": 2 << 20}


def test_a_ring_keeps_counts_beside_flows_that_have_none() -> None:
    batch, _, _ = prepared()
    plain = FlowBatch(batch.tables, *batch.columns())
    ring = FlowRing(batch.tables, 2 * len(batch))
    empty = ring.nbytes()
    ring.append(plain)
    assert ring.nbytes() == empty + 28 * len(batch)
    ring.append(batch)
    assert ring.nbytes() == empty + 40 * 2 * len(batch)
    ((_, both),) = ring.pieces(0, ring.end, ring.end)
    assert batch.packets is not None
    assert both.packets is not None
    assert both.bytes is not None
    assert both.packets.tolist() == [0] * len(batch) + batch.packets.tolist()
    assert both.bytes[len(batch) + 1] == 2 << 20
