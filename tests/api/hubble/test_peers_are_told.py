from __future__ import annotations

import pytest
import trio
import trio.testing

from api.hubble.node import LocalNode
from api.hubble.peers import Peer, Peers
from api.v1.peer import peer_pb2

Told = tuple[str, str, str, str | None]


async def read(peers: Peers, told: list[Told]) -> None:
    async for chunk in peers.notify():
        for data in chunk:
            message = peer_pb2.ChangeNotification.FromString(data)
            kind = peer_pb2.ChangeNotificationType.Name(message.type)
            name = message.tls.server_name if message.HasField("tls") else None
            told.append((kind, message.name, message.address, name))


async def test_all_peers_are_told_at_first_and_then_their_changes(nursery: trio.Nursery) -> None:
    peers = Peers([Peer("a", "10.0.0.1:4244"), Peer("b", "10.0.0.2:4244", "b.default.x")])
    told: list[Told] = []
    nursery.start_soon(read, peers, told)
    await trio.testing.wait_all_tasks_blocked()
    assert told == [
        ("PEER_ADDED", "a", "10.0.0.1:4244", None),
        ("PEER_ADDED", "b", "10.0.0.2:4244", "b.default.x"),
    ]
    told.clear()
    peers.replace([Peer("c", "10.0.0.1:4244"), Peer("b", "10.0.0.9:4244", "b.default.x")])
    await trio.testing.wait_all_tasks_blocked()
    assert told == [
        ("PEER_DELETED", "a", "10.0.0.1:4244", None),
        ("PEER_ADDED", "c", "10.0.0.1:4244", None),
        ("PEER_UPDATED", "b", "10.0.0.9:4244", "b.default.x"),
    ]
    told.clear()
    peers.replace([Peer("c", "10.0.0.1:4244"), Peer("b", "10.0.0.9:4244", "b.default.x")])
    await trio.testing.wait_all_tasks_blocked()
    assert told == []
    nursery.cancel_scope.cancel()


async def test_a_client_that_reads_late_is_told_the_state_of_then() -> None:
    peers = Peers([Peer("a", "1")])
    call = peers.notify()
    (first,) = await anext(call)
    assert peer_pb2.ChangeNotification.FromString(first).name == "a"
    for number in range(1000):
        peers.replace([Peer("a", "1"), Peer(f"b{number}", "2")])
    (only,) = await anext(call)
    assert peer_pb2.ChangeNotification.FromString(only).name == "b999"
    await call.aclose()


@pytest.mark.parametrize(
    ("name", "server_name"),
    [
        # The example of Cilium's documentation, and the cluster without a name of its own.
        ("prod.a/ip-10-0-0-1.eu.internal", "ip-10-0-0-1-eu-internal.prod-a"),
        ("node-a", "node-a.default"),
    ],
)
def test_the_server_name_has_one_label_for_the_node_and_one_for_the_cluster(
    name: str, server_name: str
) -> None:
    node = LocalNode(name, address="10.0.0.1:4244", tls=True)
    assert Peer.of(node) == Peer(name, "10.0.0.1:4244", f"{server_name}.hubble-grpc.cilium.io")
