"""The Peer service: which nodes there are, for a relay.

A call keeps what it has told its client, and tells the difference when that changes: so a
client that does not read costs nothing, and gets the state of then when it reads on.
A node that is renamed is deleted and added, as the name is the client's key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import trio

from api.hubble.node import LocalNode
from api.hubble.rpc import Chunks, Streaming, Unary
from api.v1.peer import peer_pb2


@dataclass(frozen=True, slots=True)
class Peer:
    """A node by its absolute name; ``address`` as in ``LocalNode``.

    ``server_name`` is the name in its certificate, "" for a node without TLS.
    """

    name: str
    address: str
    server_name: str = ""

    @classmethod
    def of(cls, node: LocalNode) -> Peer:
        """How a node tells of itself."""
        return cls(node.name, node.address, node.server_name)


class Peers:
    """The nodes of now; ``replace`` them when they change."""

    def __init__(self, peers: Iterable[Peer] = ()) -> None:
        self._peers = {peer.name: peer for peer in peers}
        self._changed = trio.Event()

    def replace(self, peers: Iterable[Peer]) -> None:
        """These are all there are from now on. Not from another thread than trio's."""
        self._peers = {peer.name: peer for peer in peers}
        self._changed.set()
        self._changed = trio.Event()

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """For an engine."""
        return {"/peer.Peer/Notify": Streaming(peer_pb2.NotifyRequest, lambda _: self.notify())}

    async def notify(self) -> Chunks:
        """All peers as added, then their changes, for ever."""
        told: Mapping[str, Peer] = {}
        while True:
            peers, changed = self._peers, self._changed
            if chunk := _differences(told, peers):
                yield chunk
            told = peers
            await changed.wait()


def _differences(told: Mapping[str, Peer], peers: Mapping[str, Peer]) -> list[bytes]:
    gone = [_message(peer, "PEER_DELETED") for name, peer in told.items() if name not in peers]
    new = [
        _message(peer, "PEER_UPDATED" if name in told else "PEER_ADDED")
        for name, peer in peers.items()
        if told.get(name) != peer
    ]
    return gone + new


def _message(peer: Peer, kind: str) -> bytes:
    message = peer_pb2.ChangeNotification(
        name=peer.name,
        address=peer.address,
        type=peer_pb2.ChangeNotificationType.Value(kind),
    )
    if peer.server_name:
        message.tls.server_name = peer.server_name
    return message.SerializeToString()
