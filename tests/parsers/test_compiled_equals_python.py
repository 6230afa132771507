"""Invariant: compiled loops give what their twins in Python give, whatever comes."""

from __future__ import annotations

import random
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.errors import ProtocolError
from parsers.framing import PayloadBatch, PayloadStream
from parsers.intern import _SECRET, InternTable, _distinct, hash_of
from tests.fixtures import Payload, gob_uint, payloads, stream_bytes, world
from tests.parsers.recorded import Facts, Parser, batch_of
from tests.parsers.test_hostile_input import mutated
from tests.parsers.twins import both, computed

WIDTHS = (1, 2, 3, 4, 8)
WORD = 1 << 64
KEYS = 2000
FACTORS = _SECRET.tolist()
UNDO = [pow(factor, -1, WORD) for factor in FACTORS[:2]]


def folded(word: int) -> int:
    """Which undoes itself."""
    return word ^ word >> 32


def key_of(number: int, width: int) -> list[int]:
    """A key, of which some have the same hash, some the hash 0, and one is all zeroes."""
    rest = [(number % 61) << 40 * (word % 2) for word in range(1, width)]
    mixed = (folded(word * FACTORS[n] % WORD) * FACTORS[n + 1] for n, word in enumerate(rest, 1))
    first = folded((number // 61 - sum(mixed)) * UNDO[1] % WORD) * UNDO[0] % WORD
    return [first, *rest]


@cache
def keys_of(width: int) -> np.ndarray:
    words = np.array([key_of(number, width) for number in range(KEYS)], dtype=np.uint64)
    return words.view([("words", "u8", (width,))])[:, 0]


numbers = st.lists(st.integers(0, KEYS - 1), max_size=300)
steps = st.lists(st.tuples(st.booleans(), st.integers(0, 7), numbers), min_size=1, max_size=10)


@pytest.mark.parametrize("width", WIDTHS)
@settings(deadline=None, max_examples=60)
@given(steps=steps)
def test_keys_are_found_by_both_where_either_put_them(
    width: int, steps: list[tuple[bool, int, list[int]]]
) -> None:
    table = InternTable([("words", "u8", (width,))])
    every = keys_of(width)
    for by_python, forget, wanted in steps:
        keys = every[wanted]
        with computed(by_python=by_python):
            rows, _ = table.lookup(keys)
            np.testing.assert_array_equal(table.rows[rows], keys)
            if not forget:
                in_use = np.arange(table.end) % 3 == 0
                table.reclaim(in_use)
        one, other = both(partial(table.find, every))
        np.testing.assert_array_equal(one, other)
        assert len(table) == len(set(one.tolist()) | {0})


@pytest.mark.parametrize("width", WIDTHS)
@settings(deadline=None, max_examples=60)
@given(some=numbers, dice=st.randoms(use_true_random=False))
def test_hashes_and_distinct_keys_are_the_same(
    width: int, some: list[int], dice: random.Random
) -> None:
    words = keys_of(width)[some].view(np.uint64).reshape(-1, width)
    one, other = both(partial(hash_of, words))
    np.testing.assert_array_equal(one, other)
    assert len(set(one.tolist())) <= len({number // 61 for number in some})
    absent = np.array([n for n in range(len(some)) if dice.random() < 0.8], dtype=np.int64)
    if len(absent):
        (one, place), (other, same) = both(partial(_distinct, words, absent))
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(place, same)


def read(pieces: list[bytes], limit: int) -> tuple[list[PayloadBatch], str]:
    """What a connection yields, and the error that it ends with."""
    stream, found = PayloadStream(), []
    try:
        for piece in pieces:
            stream.feed(piece)
            while (batch := stream.take(limit)) is not None:
                found.append(batch)
    except ProtocolError as error:
        return found, str(error)
    return found, f"{stream.waiting} wait"


def contents(batch: PayloadBatch) -> tuple[object, ...]:
    columns = (batch.offset, batch.length, batch.cpu, batch.lost, batch.kind)
    return (batch.buffer.tobytes(), batch.malformed, *((c.dtype, c.tolist()) for c in columns))


def messages_of(data: bytes) -> list[bytes]:
    found, start = [], 0
    while start < len(data):
        length, at = gob_uint(data, start)
        found.append(data[start : at + length])
        start = at + length
    return found


def some_messages() -> list[bytes]:
    """Definitions first, then messages whose length is written in each usual way."""
    found = messages_of(stream_bytes("v1.19", "all"))
    by_prefix = {first: [m for m in found[4:] if m[0] == first] for first in (0xFF, 0xFE)}
    short = [m for m in found[4:] if m[0] < 0x80]
    return [*found[:4], *short[:8], *by_prefix[0xFF][:5], *by_prefix[0xFE][:3], *short[8:11]]


BYTES = (0, 1, 2, 3, 18, 0x7F, 0x80, 0xF7, 0xF8, 0xFD, 0xFE, 0xFF)
MESSAGES = some_messages()


def broken(dice: random.Random) -> bytes:
    """Messages of which some have a byte changed, put in or left out, mostly near an end."""
    data = bytearray()
    first = dice.choice([0, 4, 4, 4])  # mostly behind the definitions
    most = dice.choice([0, 1, 4])  # of twelve
    for number, message in enumerate(MESSAGES):
        changed = bytearray(message)
        if number >= first and dice.randrange(12) < most:
            size = len(changed)
            at = dice.choice([0, dice.randrange(12), size - 1 - dice.randrange(6)])
            at = min(at, size - 1) if dice.randrange(6) else dice.randrange(size)
            byte = dice.choice([*BYTES, changed[at]])
            taken, put = dice.choice([(1, 1), (1, 1), (1, 0), (0, 1)])
            changed[at : at + taken] = bytes([byte] * put)
        data += changed
    return bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1 << 64),
    size=st.sampled_from([1, 2, 7, 300, 5000, 1 << 20]),
    limit=st.sampled_from([1, 3, 40, 5000]),
)
def test_streams_are_framed_the_same(seed: int, size: int, limit: int) -> None:
    data = broken(random.Random(seed))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    (one, ending), (other, same) = both(partial(read, pieces, limit))
    assert ending == same
    assert [contents(batch) for batch in one] == [contents(batch) for batch in other]


def test_each_byte_near_an_end_of_a_message_may_be_wrong() -> None:
    by_shape = {(min(m[0], 0x80), m[0] & 1, m[-5]): m for m in MESSAGES[4:]}
    before, behind = b"".join(MESSAGES[:5]), MESSAGES[5]
    for message in by_shape.values():
        for at in (*range(12), *range(len(message) - 8, len(message))):
            for byte in BYTES:
                wrong = message[:at] + bytes([byte]) + message[at + 1 :]
                (one, ending), (other, same) = both(partial(read, [before + wrong + behind], 5000))
                assert ending == same
                assert [contents(batch) for batch in one] == [contents(batch) for batch in other]


@pytest.mark.parametrize("hint", [None, (1, 14), (1, 18), (1, 20)])
def test_mutated_records_give_the_same(hint: tuple[int, int] | None) -> None:
    seed = random.SystemRandom().getrandbits(64)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    records = [p.data for r in ("v1.14", "v1.18", "v1.20") for p in payloads(r, "all") if p.data]
    records += [p.data for p in payloads("v1.20", "l7") if p.data]
    sent = [
        batch_of([Payload(mutated(dice, records), 0, 0, 9) for _ in range(dice.choice([1, 300]))])
        for _ in range(12)
    ]

    def facts() -> list[dict[int, Facts]]:
        parser = Parser(world("v1.19"), hint)
        return [dict(parser.facts(parser.parse(batch))) for batch in sent]

    one, other = both(facts)
    assert one == other
