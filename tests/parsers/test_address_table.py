"""Who had an address at a time is what a plain list of changes says, however late they came."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.address_table import ADDRESS, AddressTable, buckets_of
from parsers.addresses import MAPPED
from parsers.timeline import EVER, FOREVER

SECOND = 10**9


def addresses_of(numbers: list[int]) -> np.ndarray:
    """10.0.0.n for each n, as the table wants them."""
    return np.frombuffer(b"".join(MAPPED + bytes([10, 0, 0, n]) for n in numbers), dtype=ADDRESS)


class PlainModel:
    """Every change ever heard of, in a list."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, int, int]] = []  # since, address, number

    def set(self, address: int, number: int, since: int, *, lasting: bool = False) -> None:
        self.changes = [
            (at, a, n)
            for at, a, n in self.changes
            if a != address or (at < since if lasting else at != since)
        ]
        self.changes.append((since, address, number))

    def at(self, address: int, time: int) -> int:
        past = [(since, number) for since, a, number in self.changes if a == address]
        return max(((s, n) for s, n in past if s <= time), default=(0, 0))[1]


changes = st.tuples(
    st.sampled_from(["change", "for good"]),
    st.integers(1, 6),
    st.integers(0, 4),
    st.integers(-3, 3),
)  # address, number, how much later or earlier than it is heard
questions = st.tuples(st.just("ask"), st.integers(1, 7), st.integers(0, 9), st.just(0))


@settings(deadline=None, max_examples=300)
@given(steps=st.lists(st.lists(st.one_of(changes, questions), max_size=6), max_size=12))
def test_any_changes_are_answered_as_by_a_plain_list(
    steps: list[list[tuple[str, int, int, int]]],
) -> None:
    """A second goes by with each step, so that addresses are used again after one second."""
    table, model = AddressTable(), PlainModel()
    now = 100 * SECOND
    for step in steps:
        now += SECOND
        asked: list[tuple[int, int]] = []
        for what, address, number, shift in step:
            if what != "ask":
                since, lasting = now + shift * SECOND // 2, what == "for good"
                table.set(addresses_of([address])[0].tobytes(), number, since, lasting=lasting)
                model.set(address, number, since, lasting=lasting)
            else:
                asked.append((address, now - number * SECOND // 3))
        time = np.array([t for _, t in asked], dtype=np.int64)
        rows = table.rows_of(addresses_of([a for a, _ in asked]))
        numbers, first_at, last_at = table.at(rows, time)
        assert numbers.tolist() == [model.at(a, t) for a, t in asked]
        for (address, at), number, first, last in zip(
            asked, numbers.tolist(), first_at.tolist(), last_at.tolist(), strict=True
        ):
            assert first <= at < last
            if first != EVER:
                assert model.at(address, first) == number
            if last != FOREVER:
                assert model.at(address, last - 1) == number


@given(data=st.data())
def test_forgetting_changes_no_answer_after_its_time(data: st.DataObject) -> None:
    table, model = AddressTable(), PlainModel()
    for since in range(10, 60, 5):
        address, number = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 3))
        table.set(addresses_of([address])[0].tobytes(), number, since)
        model.set(address, number, since)
    before = data.draw(st.integers(0, 70))
    while table.forget(before):
        pass
    times = [time for time in range(before, 80) for _ in range(3)]
    asked = [1, 2, 3] * (80 - before)
    held = table.at(table.rows_of(addresses_of(asked)), np.array(times, dtype=np.int64))
    assert held.number.tolist() == [model.at(a, t) for a, t in zip(asked, times, strict=True)]


def test_what_was_given_back_long_ago_takes_no_memory() -> None:
    table = AddressTable()
    empty = table.nbytes()
    for number in range(200):
        table.set(addresses_of([number])[0].tobytes(), 5, 10)
        table.set(addresses_of([number])[0].tobytes(), 0, 20)
    assert len(table) == 200
    while table.forget(30):
        pass
    assert len(table) == 0
    assert table.nbytes() == empty


def test_addresses_that_are_forgotten_a_piece_at_a_time_give_their_place_to_one_each() -> None:
    """More changes than are looked at at once, several of each address among them."""
    table, count = AddressTable(layers=2), 3000
    old, new = (
        [MAPPED + bytes([net, 0, n >> 8, n & 255]) for n in range(count)] for net in (9, 10)
    )
    for since, number in ((1, 1), (3, 0)):
        for layer in (0, 1):
            table.set_many([(a, number, since + layer) for a in old], layer, lasting=True)
    while table.forget(100):
        pass
    assert len(table) == 0
    table.set_many([(a, n + 1, 200) for n, a in enumerate(new)])
    rows = table.rows_of(np.frombuffer(b"".join(new), dtype=ADDRESS))
    assert table.at(rows, np.full(count, 300)).number.tolist() == list(range(1, count + 1))


def test_an_address_that_had_a_number_once_is_told_from_one_that_never_had() -> None:
    table = AddressTable()
    table.set(addresses_of([1])[0].tobytes(), 5, 10)
    table.set(addresses_of([1])[0].tobytes(), 0, 20)
    asked = addresses_of([1, 1, 1, 2])
    had = table.had_one(table.rows_of(asked), np.array([5, 15, 25, 25]))
    assert had.tolist() == [False, True, True, False]


def test_numbers_of_the_past_are_in_use_as_long_as_they_are_remembered() -> None:
    table = AddressTable()
    address = addresses_of([1])[0].tobytes()
    for number, since in ((1, 10), (2, 20), (3, 30)):
        table.set(address, number, since)
    assert table.numbers_in_use(5).tolist() == [True, True, True, True, False]
    while table.forget(25):
        pass
    assert table.numbers_in_use(5).tolist() == [True, False, True, True, False]


def test_equal_addresses_are_in_one_bucket() -> None:
    first, second = buckets_of(addresses_of([1, 1]))
    assert first == second


def test_layers_know_nothing_of_each_other() -> None:
    table = AddressTable(layers=2)
    address = addresses_of([1])
    table.set(address[0].tobytes(), 7, 10, layer=1)
    table.set(address[0].tobytes(), 3, 20, layer=0)
    rows, time = table.rows_of(address), np.array([15])
    assert [int(column[0]) for column in table.at(rows, time, 0)] == [0, EVER, 20]
    assert [int(column[0]) for column in table.at(rows, time, 1)] == [7, 10, FOREVER]
