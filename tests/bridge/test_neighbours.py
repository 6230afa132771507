"""What Kubernetes tells of nodes and pods reaches the peer service, flows and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio

from api.hubble.node import LocalNode
from api.hubble.peers import Peer, Peers
from api.metrics.departed import DELAY, DepartedPods
from api.metrics.hubble import HubbleMetrics
from api.v1.peer import peer_pb2
from bridge.config import parse_config
from bridge.kubernetes.nodes import NodeFacts
from bridge.neighbours import Neighbours

NODES = [
    NodeFacts("node-a", ("192.168.0.1", "fd00::1"), ("topology.kubernetes.io/zone=z1",)),
    NodeFacts("node-b", ("192.168.0.2",), ()),
    NodeFacts("node-c", ("fd00::3",), ()),
    NodeFacts("new", (), ()),
]


def by_name(*nodes: NodeFacts) -> dict[str, NodeFacts | None]:
    return {facts.name: facts for facts in nodes}


def neighbours(peers: Peers, moved: list[Mapping[str, Any]], hubble: dict[str, Any]) -> Neighbours:
    def move(told: Mapping[str, Any]) -> LocalNode:
        moved.append(told)
        return LocalNode("blue/node-a", address="192.168.0.1:4244")

    config = parse_config({"hubble": hubble}, {})
    departed = DepartedPods(HubbleMetrics(()))
    return Neighbours(config, "node-a", move=move, peers=peers, departed=departed)


async def told(peers: Peers) -> list[tuple[str, str]]:
    call = peers.notify()
    chunk = await anext(call)
    await call.aclose()
    messages = [peer_pb2.ChangeNotification.FromString(data) for data in chunk]
    return [(message.name, message.address) for message in messages]


async def test_of_nodes_that_change_the_peers_are_those_of_now() -> None:
    peers = Peers()
    kept = neighbours(peers, [], {"listen": "0.0.0.0:4244", "insecure": True})
    kept.nodes(by_name(*NODES))
    kept.nodes({"node-b": None} | by_name(NodeFacts("new", ("192.168.0.4",), ())))
    assert [name for name, _ in await told(peers)] == [
        "blue/node-a", "blue/node-c", "blue/new",
    ]  # fmt: skip
    kept.nodes({"new": None} | by_name(NodeFacts("node-c", ("fd00::4",), ())))
    assert (await told(peers))[1:] == [("blue/node-c", "[fd00::4]:4244")]


async def test_nodes_are_peers_at_their_addresses_and_our_port() -> None:
    peers, moved = Peers([Peer("node-a", "")]), list[Mapping[str, Any]]()
    listen = {"listen": "0.0.0.0:4244", "insecure": True}
    neighbours(peers, moved, listen).nodes(by_name(*NODES))
    assert await told(peers) == [
        ("blue/node-a", "192.168.0.1:4244"),
        ("blue/node-b", "192.168.0.2:4244"),
        ("blue/node-c", "[fd00::3]:4244"),
    ]
    assert moved == [
        {
            "name": "node-a",
            "ipv4": "192.168.0.1",
            "ipv6": "fd00::1",
            "labels": ["topology.kubernetes.io/zone=z1"],
        }
    ]


async def test_without_a_listener_for_others_only_this_node_is_a_peer() -> None:
    peers, moved = Peers([]), list[Mapping[str, Any]]()
    neighbours(peers, moved, {}).nodes(by_name(*NODES[1:]))
    assert await told(peers) == [("blue/node-a", "192.168.0.1:4244")]
    assert moved == [{}]


async def test_pods_that_are_gone_depart_unless_they_come_back(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    gone: list[tuple[str, str]] = []
    metrics = HubbleMetrics(())
    monkeypatch.setattr(HubbleMetrics, "remove_pods", lambda _, pods: map(gone.append, pods))
    departed = DepartedPods(metrics)
    heard = Neighbours(
        parse_config({}, {}), "node-a", move=lambda _: LocalNode("a"), peers=Peers([]),
        departed=departed,
    )  # fmt: skip
    heard.departed("shop", "web-1")
    heard.departed("shop", "web-2")
    heard.arrived("shop", "web-2")
    await trio.sleep(DELAY + 1)
    for _ in departed.sweep(trio.current_time()):
        pass
    assert gone == [("shop", "web-1")]
