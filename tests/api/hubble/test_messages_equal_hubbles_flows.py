"""A row of a batch becomes the message that Hubble's own parser made of the same event."""

from __future__ import annotations

import json

import pytest

from api.hubble.messages import FlowMessages, to_json
from tests.api.hubble.from_json import batch_of, flows_of, interfaces_of, new_tables, node_of
from tests.fixtures import MIXES


@pytest.mark.parametrize("mix", MIXES)
def test_every_field_of_every_recorded_flow_is_shown(mix: str) -> None:
    flows = flows_of("v1.20", mix)
    tables = new_tables()
    batch = batch_of(flows, tables)
    messages = FlowMessages(tables, node_of(flows[0], interfaces_of(flows)))
    shown = [json.loads(to_json(messages.flow(batch, i))) for i in range(len(batch))]
    differing = [(want, got) for want, got in zip(flows, shown, strict=True) if want != got]
    assert differing[:3] == []


def test_json_is_one_compact_line_with_the_protos_own_names() -> None:
    flows = flows_of("v1.20", "all")[:1]
    tables = new_tables()
    batch = batch_of(flows, tables)
    line = to_json(FlowMessages(tables, node_of(flows[0], interfaces_of(flows))).flow(batch, 0))
    assert '"event_type":{"type":4,"sub_type":3}' in line
    assert "\n" not in line
