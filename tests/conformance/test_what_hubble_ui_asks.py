"""Hubble UI's own requests, through a real relay; its backend and browser as they were read.

What has to come is chosen from Hubble's own flows of the stream, by rules written here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.json_format import MessageToDict

from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2, observer_pb2_grpc
from api.v1.relay import relay_pb2
from tests import fixtures
from tests.conformance.relay_cluster import NODES, Cluster

NAMESPACE = "shop"
HIDDEN_SOURCES = [
    "reserved:unknown", "reserved:host", "k8s:k8s-app=kube-dns", "reserved:remote-node",
    "k8s:app=prometheus",
]  # fmt: skip
HIDDEN_DESTINATIONS = [
    "reserved:unknown", "reserved:host", "reserved:remote-node", "k8s:app=prometheus",
]  # fmt: skip
DRAWN = ("identity", "labels", "namespace", "pod_name", "workloads")

Filter = flow_pb2.FlowFilter


def request(namespace: str) -> observer_pb2.GetFlowsRequest:
    """A map of a namespace, with everything hidden that is by default."""
    return observer_pb2.GetFlowsRequest(
        follow=True,
        number=10_000,
        whitelist=[
            Filter(reply=[False], source_pod=[f"{namespace}/"]),
            Filter(reply=[False], destination_pod=[f"{namespace}/"]),
        ],
        blacklist=[
            Filter(source_label=HIDDEN_SOURCES),
            Filter(destination_label=HIDDEN_DESTINATIONS),
            Filter(destination_label=["k8s:k8s-app=kube-dns"], destination_port=["53"]),
            Filter(source_fqdn=["*.cluster.local*"]),
            Filter(destination_fqdn=["*.cluster.local*"]),
        ],
    )


def is_wanted(flow: dict[str, Any], namespace: str) -> bool:
    """What the request means."""
    source, destination = flow.get("source", {}), flow.get("destination", {})
    from_labels, to_labels = set(source.get("labels", ())), set(destination.get("labels", ()))
    l4: dict[str, Any] = next(iter(flow.get("l4", {}).values()), {})
    names = (*flow.get("source_names", ()), *flow.get("destination_names", ()))
    return (
        flow.get("is_reply", flow["verdict"] != "DROPPED") is False
        and namespace in {source.get("namespace"), destination.get("namespace")}
        and not from_labels & set(HIDDEN_SOURCES)
        and not to_labels & set(HIDDEN_DESTINATIONS)
        and not ("k8s:k8s-app=kube-dns" in to_labels and l4.get("destination_port") == 53)
        and not any(".cluster.local" in name for name in names)
    )


@pytest.fixture
async def channel(cluster: Cluster) -> AsyncIterator[grpc.Channel]:
    """To the relay, once it knows both nodes."""
    with grpc.insecure_channel(cluster.relay) as opened:
        with trio.fail_after(60):
            while (await nodes_of(opened)).count(relay_pb2.NODE_CONNECTED) < len(NODES):
                await trio.sleep(0.1)
        yield opened


async def nodes_of(channel: grpc.Channel) -> list[int]:
    """The states of the nodes."""
    ask = observer_pb2_grpc.ObserverStub(channel).GetNodes
    answer = await trio.to_thread.run_sync(
        lambda: ask(observer_pb2.GetNodesRequest(), wait_for_ready=True, timeout=30)
    )
    return [node.state for node in answer.nodes]


async def test_a_map_has_the_flows_of_its_namespace_with_what_it_draws(
    cluster: Cluster, channel: grpc.Channel
) -> None:
    cluster.feed_all(NODES[0])
    recorded = {
        line["i"]: line["event"]
        for line in fixtures.expected("v1.18", "steady")
        if line["kind"] == "flow" and is_wanted(line["event"], NAMESPACE)
    }
    assert len(recorded) > 100
    call: Any = observer_pb2_grpc.ObserverStub(channel).GetFlows(request(NAMESPACE))

    def read() -> list[dict[str, Any]]:
        flows = []
        for answer in call:
            if answer.HasField("flow"):
                flows.append(MessageToDict(answer.flow, preserving_proto_field_name=True))
            if len(flows) == len(recorded):
                break
        return flows

    with trio.fail_after(60):
        flows = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        cluster.feed_all(NODES[1])  # and it goes on
        later = await trio.to_thread.run_sync(read, abandon_on_cancel=True)
    call.cancel()
    for name, seen in zip(NODES, (flows, later), strict=True):
        assert sorted(int(flow["uuid"][-12:], 16) for flow in seen) == sorted(recorded)
        assert len({(flow["time"], flow["node_name"]) for flow in seen}) == len(seen)
        for flow in seen:
            hubbles = recorded[int(flow["uuid"][-12:], 16)]
            assert flow["node_name"] == name
            for side in ("source", "destination"):
                ours, theirs = flow.get(side, {}), hubbles.get(side, {})
                assert [ours.get(key) for key in DRAWN] == [theirs.get(key) for key in DRAWN]
                assert flow.get(f"{side}_service") == hubbles.get(f"{side}_service")
                assert flow.get(f"{side}_names") == hubbles.get(f"{side}_names")
            for key in ("is_reply", "verdict", "l4", "IP", "traffic_direction", "Type", "l7"):
                assert flow.get(key) == hubbles.get(key), key


async def test_the_status_bar_has_flows_and_nodes(cluster: Cluster, channel: grpc.Channel) -> None:
    cluster.feed(3)
    ask = observer_pb2_grpc.ObserverStub(channel).ServerStatus
    status = await trio.to_thread.run_sync(
        lambda: ask(observer_pb2.ServerStatusRequest(), timeout=30)
    )
    seen = sum(agent.history.flows.end for agent in cluster.agents.values())
    assert (status.seen_flows, status.num_connected_nodes.value) == (seen, 2)
    assert status.uptime_ns > 0
    assert await nodes_of(channel) == [relay_pb2.NODE_CONNECTED] * 2
