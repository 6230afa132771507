"""Names of objects are anybody's text: bounded, and escaped wherever they go out."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from google.protobuf.json_format import MessageToJson
from hypothesis import given
from hypothesis import strategies as st

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from bridge.kubernetes import objects
from bridge.kubernetes.names import Names
from bridge.kubernetes.pods import MOST_LABELS
from bridge.kubernetes.sink import SINCE_EVER
from parsers.addresses import parse_address
from parsers.directory import Directory
from parsers.flow_batch import CONVERSATION, FLOW_CLASS, FlowBatch
from parsers.pipeline import new_tables
from tests.api.metrics.readers import READERS

HOSTILE = 'a"b\\c\n# HELP x\x1b[31m\u2028é{}'


def directory_of(*pods: dict[str, Any]) -> Directory:
    directory = Directory(synced=False)
    names = Names(directory, node="here")
    for said in pods:
        pod = msgspec.json.decode(msgspec.json.encode(said), type=objects.Pod)
        names.apply(objects.Pod, [pod], (), SINCE_EVER)
    names.synced(everything=True)
    return directory


def flow_from(directory: Directory, address: str) -> FlowBatch:
    """One flow of a pod to outside."""
    tables, packed = new_tables(), parse_address(address)
    assert packed is not None
    keys = np.zeros(1, dtype=CONVERSATION)
    keys["ip_version"] = 1
    keys["source_ip"] = np.frombuffer(packed, dtype=np.uint8)
    classes = np.zeros(1, dtype=FLOW_CLASS)
    classes["event_type"], classes["verdict"], classes["l4"] = 4, 1, 1
    time, zeros = np.array([5]), np.zeros(1, dtype=np.uint32)
    return FlowBatch(
        tables,
        time=time,
        sequence=np.zeros(1, dtype=np.uint64),
        flow_class=tables.classes.lookup(classes)[0],
        conversation=tables.conversations.lookup(keys, time, directory),
        source_port=zeros.astype(np.uint16),
        destination_port=zeros.astype(np.uint16),
        detail=zeros,
    )


@pytest.mark.parametrize("form", list(Format))
def test_names_of_any_text_come_out_of_metrics_as_they_went_in(form: Format) -> None:
    said = {"name": f"pod-{HOSTILE}", "namespace": HOSTILE, "labels": {HOSTILE: HOSTILE}}
    directory = directory_of({"metadata": said, "status": {"podIP": "10.0.0.1"}})
    metrics = HubbleMetrics(("flow:sourceContext=pod",))
    metrics.count(flow_from(directory, "10.0.0.1"))
    metrics.fold()
    text = b"".join(render(metrics.families, form)).decode()
    samples = [s for family in READERS[form](text) for s in family.samples]
    sources = {s.labels["source"] for s in samples if "flows_processed" in s.name}
    assert sources == {f"{HOSTILE}/pod-{HOSTILE}"}


def test_names_of_any_text_come_out_of_flows_as_they_went_in() -> None:
    said = {"name": HOSTILE, "namespace": HOSTILE, "labels": {HOSTILE: HOSTILE}}
    directory = directory_of({"metadata": said, "status": {"podIP": "10.0.0.1"}})
    flows = flow_from(directory, "10.0.0.1")
    flow = FlowMessages(flows.tables, LocalNode("here")).flow(flows, 0)
    again = flow_pb2.Flow.FromString(flow.SerializeToString())
    assert (again.source.pod_name, again.source.namespace) == (HOSTILE, HOSTILE)
    assert f"k8s:{HOSTILE}={HOSTILE}" in again.source.labels
    printed = MessageToJson(again)
    assert "\x1b" not in printed
    assert json.loads(printed)["source"]["podName"] == HOSTILE


def test_labels_beyond_the_bound_do_not_count() -> None:
    labels = {f"key-{n:04}": "x" for n in range(1000)}
    said = {"name": "web-1", "namespace": "shop", "labels": labels}
    directory = directory_of({"metadata": said, "status": {"podIP": "10.0.0.1"}})
    packed = parse_address("10.0.0.1")
    shown = [
        label for label in directory.entity(packed, 0, 5).labels if label.startswith("k8s:key-")
    ]
    assert shown == [f"k8s:key-{n:04}=x" for n in range(MOST_LABELS)]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon"])
def test_a_time_that_cannot_be_is_none(time: str) -> None:
    said = {"name": "web-1", "namespace": "shop", "deletionTimestamp": time}
    directory = Directory(synced=False)
    pod = msgspec.convert(
        {"metadata": said, "status": {"podIP": "10.0.0.1", "startTime": time}}, objects.Pod
    )
    Names(directory, node="here").apply(objects.Pod, [pod], (), 5)
    assert directory.entity(parse_address("10.0.0.1"), 0, 5).pod_name == "web-1"


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_a_number_that_a_flow_has_no_room_for_makes_an_object_malformed(number: int) -> None:
    for kind, said in (
        (objects.CiliumEndpoint, {"status": {"id": number}}),
        (objects.CiliumEndpoint, {"status": {"identity": {"id": number}}}),
        (objects.CiliumEndpointSlice, {"endpoints": [{"name": "web-1", "id": number}]}),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"metadata": {"name": "web-1"}, **said}, kind)


texts = st.text(max_size=12) | st.sampled_from(["", "::", "10.0.0.1", "10.0.0.1/99", "None"])


@given(
    said=st.fixed_dictionaries(
        {"metadata": st.fixed_dictionaries({"name": texts, "namespace": texts})},
        optional={
            "spec": st.fixed_dictionaries(
                {}, optional={"clusterIP": texts, "podCIDRs": st.lists(texts, max_size=2)}
            ),
            "status": st.fixed_dictionaries(
                {}, optional={"podIP": texts, "startTime": texts, "hostIP": texts}
            ),
            "endpoints": st.lists(
                st.fixed_dictionaries({"name": texts, "addresses": st.lists(texts, max_size=2)}),
                max_size=2,
            ),
            "security-labels": st.dictionaries(texts, texts, max_size=2),
        },
    ),
    kinds=st.lists(st.sampled_from(objects.KINDS), min_size=1, max_size=4),
)
def test_whatever_can_be_decoded_is_taken_and_given_up_again(
    said: dict[str, Any], kinds: list[type[objects.Object]]
) -> None:
    names = Names(Directory(synced=False), node="here", everywhere=False)
    data = msgspec.json.encode(said)
    told: list[tuple[type[objects.Object], objects.Key]] = []
    for at, kind in enumerate(kinds, start=1):
        try:
            each = msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            continue
        names.apply(kind, [each], (), at)
        told.append((kind, each.key))
    names.synced(everything=True)
    for kind, key in told:
        names.apply(kind, (), [key], len(kinds) + 1)
    while names.step():
        pass
    assert len(names) == 0
