"""A conversation is named by who its addresses belonged to when each event happened."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.addresses import parse_address
from parsers.conversations import Conversations
from parsers.details import Service
from parsers.directory import AddressRecord, Answers, Directory, LocalEndpoint
from parsers.entities import Entities, Entity
from parsers.flow_batch import ABSENT_SOURCE, CONVERSATION


def packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


A, B = packed("10.0.0.1"), packed("10.0.0.2")


def key_of(source: bytes = A, destination: bytes = B, *, absent: int = 0) -> np.ndarray:
    key = np.zeros(1, dtype=CONVERSATION)
    key["source_ip"] = np.frombuffer(source, dtype=np.uint8)
    key["destination_ip"] = np.frombuffer(destination, dtype=np.uint8)
    key["ip_version"], key["absent"] = 1, absent
    return key


def pod(number: int) -> LocalEndpoint:
    return LocalEndpoint(id=number, identity=number, namespace="shop", pod_name=f"pod-{number}")


def named(
    table: Conversations, directory: Directory, *times: int, key: np.ndarray | None = None
) -> list[str]:
    """The source pod of one conversation at these times, asked for in one batch."""
    keys = np.repeat(key_of() if key is None else key, len(times))
    rows = table.lookup(keys, np.array(times, dtype=np.int64), directory)
    return [table.entities[int(table.source_entity[row])].pod_name for row in rows]


def test_a_change_between_batches_names_only_what_comes_later() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    assert named(table, directory, 5) == ["pod-1"]
    directory.set_endpoint(pod(2), (A,), since=10)
    assert named(table, directory, 7, 12) == ["pod-1", "pod-2"]
    assert named(table, directory, 12, 7) == ["pod-2", "pod-1"]


def test_a_change_known_before_it_happened_holds_from_its_time_on() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    directory.set_endpoint(pod(2), (A,), since=10)
    directory.set_endpoint(pod(3), (A,), since=20)
    assert named(table, directory, 5) == ["pod-1"]
    assert named(table, directory, 15) == ["pod-2"]
    assert named(table, directory, 25, 6, 16) == ["pod-3", "pod-1", "pod-2"]


def test_another_conversation_of_the_same_address_is_named_by_its_own_time() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    directory.set_endpoint(pod(2), (A,), since=10)
    assert named(table, directory, 5) == ["pod-1"]
    assert named(table, directory, 15, key=key_of(destination=packed("10.0.0.3"))) == ["pod-2"]


def test_an_old_row_keeps_its_names() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    (row,) = table.lookup(key_of(), np.array([5]), directory)
    directory.set_endpoint(pod(2), (A,), since=10)
    named(table, directory, 15)
    assert table.entities[int(table.source_entity[row])].pod_name == "pod-1"
    assert table.rows[row]["source_ip"].tobytes() == A


def test_a_change_that_does_not_matter_makes_no_new_row() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    first = table.lookup(key_of(), np.array([5]), directory)
    directory.set_endpoint(pod(9), (packed("10.0.0.9"),), since=10)
    assert table.lookup(key_of(), np.array([15]), directory).tolist() == first.tolist()


def test_a_side_without_address_has_no_name() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A, B), since=0)
    (row,) = table.lookup(key_of(absent=ABSENT_SOURCE), np.array([5]), directory)
    assert table.entities[int(table.source_entity[row])] == Entity()
    assert table.entities[int(table.destination_entity[row])].pod_name == "pod-1"


def test_names_and_services_belong_to_the_pair() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    directory.set_names({(1, B): ("web.example",)})
    directory.set_services({(B, 80): Service("web", "shop")})
    (row,) = table.lookup(key_of(), np.array([5]), directory)
    assert table.name_pairs[int(table.names[row])] == ((), ("web.example",))
    frontends = directory.frontends[int(table.destination_frontends[row])]
    assert frontends.by_port == {80: Service("web", "shop")}
    assert table.source_frontends[row] == 0


def test_reclaim_keeps_the_versions_in_use_and_frees_the_rest() -> None:
    table, directory = Conversations(Entities()), Directory()
    directory.set_endpoint(pod(1), (A,), since=0)
    other = key_of(destination=packed("10.0.0.3"))
    named(table, directory, 5)
    named(table, directory, 5, key=other)
    directory.set_endpoint(pod(2), (A,), since=10)
    (newest,) = table.lookup(key_of(), np.array([15]), directory)
    generation = table.generation
    in_use = np.zeros(table.capacity, dtype=np.bool_)
    table.mark(newest, in_use)
    assert table.reclaim(in_use) == 1  # the other one
    assert table.generation > generation
    assert named(table, directory, 7, 15) == ["pod-1", "pod-2"]
    assert named(table, directory, 16, key=other) == ["pod-2"]
    assert table.reclaim(np.zeros(table.capacity, dtype=np.bool_)) == 3
    assert named(table, directory, 17, 18) == ["pod-2", "pod-2"]


def test_versions_between_that_no_flow_has_are_freed() -> None:
    table, directory = Conversations(Entities()), Directory()
    for number in range(1, 40):
        directory.set_endpoint(pod(number), (A,), since=10 * number)
        named(table, directory, 10 * number + 5)
        in_use = np.zeros(table.end, dtype=np.bool_)
        (newest,) = table.lookup(key_of(), np.array([10 * number + 6]), directory)
        table.mark(newest, in_use)
        if number % 5 == 0:
            table.reclaim(in_use)
            assert len(table) == 1 + 2  # the first and the newest
            assert named(table, directory, 10 * number + 7) == [f"pod-{number}"]


def test_a_conversation_may_have_more_answers_than_there_are_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("parsers.conversations._VERSIONS", 8)
    table, directory = Conversations(Entities()), Directory()
    shown = []
    for number in range(1, 20):
        directory.set_endpoint(pod(number), (A,), since=10 * number)
        shown += named(table, directory, 10 * number + 5)
    assert shown[:8] == [f"pod-{number}" for number in range(1, 9)]
    assert set(shown[8:]) == {"pod-1"}


class CountingDirectory(Directory):
    """Counts the addresses that it is asked for."""

    asked = 0

    def at(self, addresses: np.ndarray, time: np.ndarray) -> Answers:
        self.asked += len(addresses)
        return super().at(addresses, time)


def test_a_change_of_one_address_voids_what_is_known_of_it_alone() -> None:
    table, directory = Conversations(Entities()), CountingDirectory()
    directory.set_endpoint(pod(1), (A,), since=0)
    others = [packed(f"10.1.{n >> 8}.{n & 255}") for n in range(1000)]
    keys = np.concatenate([key_of(A, B), *(key_of(other, B) for other in others)])
    table.lookup(keys, np.full(len(keys), 5), directory)
    generation, directory.asked = table.generation, 0
    directory.set_endpoint(pod(2), (A,), since=10)
    rows = table.lookup(keys, np.full(len(keys), 15), directory)
    assert table.entities[int(table.source_entity[rows[0]])].pod_name == "pod-2"
    assert 2 <= directory.asked <= 2 * 3  # some others share its bucket
    assert table.generation == generation  # whoever keeps something by row may go on


def test_a_prefix_voids_what_is_known_of_addresses_in_it_alone() -> None:
    table, directory = Conversations(Entities()), CountingDirectory()
    others = [packed(f"10.1.{n >> 8}.{n & 255}") for n in range(1000)]
    keys = np.concatenate([key_of(other, packed("192.0.2.1")) for other in others])
    table.lookup(keys, np.full(len(keys), 5), directory)
    directory.asked = 0
    directory.set_address("10.1.2.0/25", AddressRecord(6))
    rows = table.lookup(keys, np.full(len(keys), 6), directory)
    identities = table.entities.identity[table.source_entity[rows]]
    assert [0] * 512 + [6] * 128 + [0] * 360 == identities.tolist()
    assert 2 * 128 == directory.asked
    directory.set_address("10.1.2.0/25", None)
    rows = table.lookup(keys, np.full(len(keys), 7), directory)
    assert not table.entities.identity[table.source_entity[rows]].any()


def test_labels_of_an_identity_that_come_late_are_shown_from_then_on() -> None:
    table, directory = Conversations(Entities()), CountingDirectory()
    key = key_of()
    key["source_identity"] = 1234
    keys = np.concatenate([key, *(key_of(packed(f"10.1.0.{n}"), B) for n in range(100))])
    first = table.lookup(keys, np.full(len(keys), 5), directory)
    directory.asked = 0
    directory.set_identities({1234: ("k8s:app=web",)})
    again = table.lookup(keys, np.full(len(keys), 6), directory)
    assert directory.asked == 2
    entities = [table.entities[int(table.source_entity[rows[0]])] for rows in (first, again)]
    assert [entity.labels for entity in entities] == [(), ("k8s:app=web",)]


events = st.tuples(st.just("event"), st.integers(0, 3), st.integers(0, 3))
changes = st.tuples(st.just("change"), st.integers(0, 3), st.integers(0, 4))


@settings(deadline=None, max_examples=150)
@given(steps=st.lists(st.lists(st.one_of(events, changes), max_size=8), max_size=8), data=st.data())
def test_any_history_is_named_as_the_directory_says(
    steps: list[list[tuple[str, int, int]]], data: st.DataObject
) -> None:
    """Changes of a batch are known when it is looked up; the clock only goes forward."""
    addresses = [packed(f"10.0.0.{n}") for n in range(4)]
    table, directory = Conversations(Entities()), Directory()
    now = 0
    for batch in steps:
        asked: list[tuple[int, int, int]] = []
        for kind, first, second in batch:
            now += data.draw(st.integers(1, 3))
            if kind == "event":
                asked.append((now, first, second))
            else:
                endpoint = pod(second) if second else None
                directory.set_endpoint(endpoint, (addresses[first],), since=now)
        if not asked:
            continue
        keys = np.concatenate([key_of(addresses[s], addresses[d]) for _, s, d in asked])
        rows = table.lookup(keys, np.array([t for t, _, _ in asked]), directory)
        for row, (time, source, destination) in zip(rows.tolist(), asked, strict=True):
            sides = (table.source_entity[row], table.destination_entity[row])
            got = [table.entities[int(entity)] for entity in sides]
            want = [directory.entity(addresses[n], 0, time) for n in (source, destination)]
            assert got == want
        if data.draw(st.booleans()):
            in_use = np.zeros(table.capacity, dtype=np.bool_)
            table.mark(rows[::2], in_use)
            piece = data.draw(st.integers(1, 9))
            for at in range(0, table.end, piece):
                table.reclaim(in_use, at, at + piece)
