"""Endpoints know the names of addresses that they were answered, and no others do."""

from __future__ import annotations

import numpy as np

from parsers.addresses import parse_address
from parsers.answered_names import AnsweredNames
from parsers.conversations import Conversations
from parsers.directory import Directory, LocalEndpoint
from parsers.entities import Entities
from parsers.flow_batch import CONVERSATION
from tests.fixtures import expected, release_number, stream_bytes, world
from tests.parsers.recorded import Parser, batches


def packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


def test_every_answer_that_hubble_shows_is_known_to_who_asked() -> None:
    directory = Directory()
    learner = AnsweredNames(directory)
    parser = Parser(world("v1.20"), release_number("v1.20"), directory=directory)
    for batch in batches(stream_bytes("v1.20", "l7")):
        learner.learn(parser.parse(batch).flows)
    answers = 0
    for line in expected("v1.20", "l7"):
        event = line.get("event", {})
        dns = event.get("l7", {}).get("dns", {})
        asker = event.get("destination", {}).get("ID", 0)
        if event.get("l7", {}).get("type") != "RESPONSE" or not dns.get("ips") or not asker:
            continue
        for text in dns["ips"]:
            answers += 1
            assert dns["query"].removesuffix(".") in directory.names_of(asker, packed(text))
            assert directory.names_of(asker + 1, packed(text)) == ()
    assert answers > 10


def test_flows_from_the_answer_on_have_the_name() -> None:
    directory, table = Directory(), Conversations(Entities())
    here, there = packed("10.0.0.1"), packed("198.51.100.7")
    directory.set_endpoint(LocalEndpoint(7, 1007, "shop", "web-1"), (here,))
    keys = np.zeros(2, dtype=CONVERSATION)
    keys["ip_version"] = 1
    for row, (source, destination) in enumerate(((here, there), (there, here))):
        keys["source_ip"][row] = np.frombuffer(source, dtype=np.uint8)
        keys["destination_ip"][row] = np.frombuffer(destination, dtype=np.uint8)

    def names(time: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        rows = table.lookup(keys, np.full(2, time), directory)
        return [table.name_pairs[int(table.names[row])] for row in rows]

    assert names(5) == [((), ()), ((), ())]
    directory.learn_names(7, "pay.example", [there], since=6)
    assert names(7) == [((), ("pay.example",)), (("pay.example",), ())]
    directory.learn_names(7, "pay.example", [there], since=8)
    directory.learn_names(7, "api.example", [there], since=8)
    assert names(9)[0] == ((), ("pay.example", "api.example"))


def test_the_newest_answers_are_kept() -> None:
    directory = Directory()
    some = [packed(f"10.{n >> 8}.{n & 255}.1") for n in range(20_000)]
    for number, address in enumerate(some):
        directory.learn_names(7, f"name-{number}", [address], since=1)
    for number in range(20):
        directory.learn_names(7, f"other-{number}", [some[-1]], since=1)
    assert directory.names_of(7, some[0]) == ()
    assert directory.names_of(7, some[-2]) == ("name-19998",)
    assert directory.names_of(7, some[-1]) == tuple(f"other-{n}" for n in range(12, 20))
    assert len(directory.named_addresses) == 1 << 14


def test_names_are_forgotten_so_long_after_the_last_answer() -> None:
    directory, table = Directory(), Conversations(Entities())
    here, there, other = packed("10.0.0.1"), packed("198.51.100.7"), packed("198.51.100.8")
    directory.set_endpoint(LocalEndpoint(7, 1007, "shop", "web-1"), (here,))
    directory.learn_names(7, "pay.example", [there, other], since=10)
    directory.learn_names(7, "pay.example", [other], since=20)
    keys = np.zeros(1, dtype=CONVERSATION)
    keys["ip_version"] = 1
    for side, address in (("source_ip", here), ("destination_ip", there)):
        keys[side] = np.frombuffer(address, dtype=np.uint8)

    def names(time: int) -> tuple[str, ...]:
        (row,) = table.lookup(keys, np.array([time]), directory)
        return table.name_pairs[int(table.names[row])][1]

    directory.forget_names(10, 21)
    assert ("pay.example",) == names(22)
    directory.forget_names(11, 23)
    assert () == names(24)
    assert ("pay.example",) == directory.names_of(7, other)
    assert {other} == set(directory.named_addresses)


def test_who_gets_the_number_of_another_endpoint_does_not_get_its_names() -> None:
    directory, there = Directory(), packed("198.51.100.7")
    first, second = (LocalEndpoint(7, 1007, "shop", name) for name in ("web-1", "web-2"))
    directory.set_endpoint(first, ())
    directory.learn_names(7, "pay.example", [there], since=10)
    directory.learn_names(8, "pay.example", [there], since=10)
    directory.set_endpoint(None, (), since=20, endpoint_id=7)
    directory.set_endpoint(first, (), since=21)
    assert ("pay.example",) == directory.names_of(7, there)
    directory.set_endpoint(second, (), since=30)
    assert () == directory.names_of(7, there)
    directory.learn_names(7, "api.example", [there], since=31)
    directory.set_endpoint(second, (), since=32)
    assert ("api.example",) == directory.names_of(7, there)
    assert ("pay.example",) == directory.names_of(8, there)


def test_names_of_an_endpoint_are_forgotten_with_it() -> None:
    directory, there = Directory(), packed("198.51.100.7")
    directory.set_endpoint(LocalEndpoint(7, 1007, "shop", "web-1"), (), since=1)
    for number in (7, 8):
        directory.learn_names(number, "pay.example", [there], since=10)
    directory.set_endpoint(None, (), since=20, endpoint_id=7)
    directory.reclaim((), 19)
    assert ("pay.example",) == directory.names_of(7, there)
    directory.reclaim((), 21)
    directory.set_endpoint(LocalEndpoint(7, 1008, "shop", "web-2"), (), since=30)
    assert () == directory.names_of(7, there)
    assert ("pay.example",) == directory.names_of(8, there)
