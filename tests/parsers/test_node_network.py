"""What a node's network tells of addresses that nobody has a name for."""

from __future__ import annotations

import numpy as np
import pytest

from parsers.conversations import Conversations
from parsers.directory import (
    EXPIRED,
    KNOWN,
    NOT_SYNCED,
    UNKNOWN_ADDRESS,
    AddressRecord,
    Directory,
)
from parsers.entities import Entities
from parsers.flow_batch import CONVERSATION
from parsers.node_network import NodeNetwork
from tests.parsers.test_directory import POD, packed

NETWORK = NodeNetwork(
    frozenset({packed("10.0.0.5"), packed("fd00::5")}),
    frozenset({(packed("10.1.0.0"), 112), (packed("10.2.0.7"), 128), (packed("fd01::"), 64)}),
)
ANSWERS = {
    "10.0.0.5": (("reserved:host",), KNOWN),
    "fd00::5": (("reserved:host",), KNOWN),
    "127.0.0.53": (("reserved:host",), KNOWN),
    "10.0.0.6": (("reserved:world",), KNOWN),
    "2001:db8::1": (("reserved:world",), KNOWN),
    "10.1.9.9": ((), UNKNOWN_ADDRESS),
    "10.2.0.7": ((), UNKNOWN_ADDRESS),
    "10.2.0.8": (("reserved:world",), KNOWN),
    "fd01::9": ((), UNKNOWN_ADDRESS),
}


def answer(directory: Directory, address: str) -> tuple[tuple[str, ...], int]:
    sixteen = packed(address)
    return directory.entity(sixteen, 0, 10).labels, directory.reason(sixteen, 10)


@pytest.mark.parametrize("address", ANSWERS)
def test_without_names_everybody_is_host_or_world_but_who_may_be_a_pod(address: str) -> None:
    directory = Directory()
    assert answer(directory, address) == ((), UNKNOWN_ADDRESS)
    directory.set_node_network(NETWORK)
    assert ANSWERS[address] == answer(directory, address)
    directory.set_node_network(None)
    assert answer(directory, address) == ((), UNKNOWN_ADDRESS)


def test_names_win_over_it() -> None:
    directory = Directory()
    directory.set_node_network(NETWORK)
    directory.set_endpoint(POD, (packed("10.0.0.5"),))
    directory.set_address("10.0.0.6/32", AddressRecord(6))
    directory.set_address("10.3.0.0/16", AddressRecord(0, unknown=UNKNOWN_ADDRESS))
    directory.set_identities({6: ("reserved:remote-node",)})
    assert answer(directory, "10.0.0.5") == (POD.labels, KNOWN)
    assert answer(directory, "10.0.0.6") == (("reserved:remote-node",), KNOWN)
    assert answer(directory, "10.3.0.1") == ((), UNKNOWN_ADDRESS)


def test_reasons_of_the_unknown_stay() -> None:
    directory = Directory(synced=False)
    directory.set_node_network(NETWORK)
    assert answer(directory, "10.0.0.5") == (("reserved:host",), KNOWN)
    assert answer(directory, "10.0.0.6") == ((), NOT_SYNCED)
    directory.synced = True
    directory.set_endpoint(POD, (packed("10.0.0.6"),), since=1)
    directory.set_endpoint(None, (packed("10.0.0.6"),), since=5)
    assert answer(directory, "10.0.0.6") == ((), EXPIRED)


def test_it_outlives_a_snapshot_and_the_reclaiming_of_owners() -> None:
    directory = Directory(synced=False)
    directory.set_node_network(NETWORK)
    directory.replace_by(Directory())
    directory.owners.add(AddressRecord(9))
    directory.reclaim((), 0)
    assert answer(directory, "10.0.0.5") == (("reserved:host",), KNOWN)
    assert answer(directory, "10.0.0.6") == (("reserved:world",), KNOWN)


def test_flows_are_named_by_what_it_is_since_it_changed() -> None:
    directory, conversations = Directory(), Conversations(Entities())
    key = np.zeros(1, CONVERSATION)
    key["source_ip"] = np.frombuffer(packed("10.0.0.6"), np.uint8)
    key["destination_ip"] = np.frombuffer(packed("10.0.0.5"), np.uint8)
    key["ip_version"] = 1

    def sides() -> list[int]:
        (row,) = conversations.lookup(key, np.array([10]), directory).tolist()
        entities = conversations.source_entity[row], conversations.destination_entity[row]
        return [int(number) for number in conversations.entities.identity[list(entities)]]

    assert sides() == [0, 0]
    directory.set_node_network(NETWORK)
    assert sides() == [2, 1]
    moved = NodeNetwork(frozenset({packed("10.0.0.6"), packed("fd00::5")}), NETWORK.near)
    directory.set_node_network(moved)
    assert sides() == [1, 2]


def test_what_is_told_again_voids_nothing() -> None:
    directory = Directory()
    directory.set_node_network(None)
    assert directory.changes.count == 0
    directory.set_node_network(NETWORK)
    before = directory.changes.count
    directory.set_node_network(NodeNetwork(NETWORK.addresses, NETWORK.near))
    assert directory.changes.count == before
    directory.set_node_network(NodeNetwork(frozenset(), NETWORK.near))
    assert not directory.changes.since(before).everything  # only the addresses are void
