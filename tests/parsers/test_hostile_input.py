"""Whatever the bytes are, each record has one result and the books balance.

Invariants: how a stream is cut into pieces changes nothing; a record's result does not
depend on its neighbours; a broken stream gives what came before the break and then raises
``ProtocolError`` for ever; nothing else is ever raised.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from parsers.errors import ProtocolError
from parsers.framing import PayloadBatch, PayloadStream
from tests.fixtures import Payload, payloads, release_number, stream_bytes, streams, world
from tests.parsers.recorded import Parser, batch_of, batches, facts_of

RELEASE, MIX = "v1.19", "all"
HINT = release_number(RELEASE)
PREFIX = 40_000  # bytes that are fed one at a time


def contents(found: Iterator[PayloadBatch]) -> list[Payload]:
    return [
        Payload(b.data(n), int(b.cpu[n]), int(b.lost[n]), int(b.kind[n]))
        for b in found
        for n in range(len(b))
    ]


@pytest.mark.parametrize(("release", "mix"), streams())
def test_framing_finds_every_payload(release: str, mix: str) -> None:
    assert contents(batches(stream_bytes(release, mix))) == payloads(release, mix)


@pytest.mark.parametrize(("release", "mix"), streams())
def test_a_stream_fed_byte_by_byte_gives_the_same(release: str, mix: str) -> None:
    prefix = stream_bytes(release, mix)[:PREFIX]
    whole = facts_of(batches(prefix), world(release), release_number(release))
    pieces = facts_of(batches(prefix, [1] * PREFIX), world(release), release_number(release))
    assert len(whole) > 5
    assert pieces == whole


def odd_sizes(data: bytes) -> list[int]:
    dice = random.Random(len(data))
    sizes = [dice.choice([1, 7, 500, 4096, 60_000]) for _ in range(len(data) // 5000)]
    return [*sizes, len(data)]


@pytest.mark.parametrize(("release", "mix"), streams())
def test_a_stream_in_odd_pieces_has_the_same_payloads(release: str, mix: str) -> None:
    data = stream_bytes(release, mix)
    assert contents(batches(data, odd_sizes(data))) == payloads(release, mix)


@pytest.mark.parametrize(("release", "mix"), [("v1.14", "all"), ("v1.20", "hostile")])
def test_batches_of_odd_sizes_give_the_same(release: str, mix: str) -> None:
    data = stream_bytes(release, mix)
    whole = facts_of(batches(data), world(release), release_number(release))
    pieces = batches(data, odd_sizes(data))
    assert facts_of(pieces, world(release), release_number(release)) == whole


def kinds_of_records() -> dict[tuple[int, int, int], bytes]:
    """A record of each type, version and layer-4 protocol, the longest of each."""
    found: dict[tuple[int, int, int], bytes] = {}
    for release in ("v1.14", "v1.18", "v1.19"):
        for payload in payloads(release, "all"):
            data = payload.data
            if payload.type == 9 and len(data) > 14:
                key = (data[0], data[14], data[-1] & 3)
                found[key] = max(found.get(key, b""), data, key=len)
    return found


@pytest.mark.parametrize("hint", [None, (1, 18), (1, 19)])
def test_records_cut_at_every_byte_give_one_result_each(hint: tuple[int, int] | None) -> None:
    parser = Parser(world(RELEASE), hint)
    for data in kinds_of_records().values():
        step = max(1, len(data) // 400)
        cut = [Payload(data[:end], 0, 0, 9) for end in range(0, len(data), step)]
        parser.parse(batch_of(cut))


def test_a_record_does_not_depend_on_its_neighbours() -> None:
    cut = [
        Payload(data[:end], 0, 0, 9)
        for data in kinds_of_records().values()
        if data[0] < 128
        for end in range(0, len(data), 9)
    ]
    together = facts_of([batch_of(cut)], world(RELEASE), HINT)
    alone = facts_of((batch_of([payload]) for payload in cut), world(RELEASE), HINT)
    assert alone == together


def mutated(dice: random.Random, records: list[bytes]) -> bytes:
    data = bytearray(dice.choice(records))
    for _ in range(dice.choice([1, 1, 2, 5, 20])):
        if not data:
            break
        at = dice.randrange(len(data))
        # Headers are where the meaning is.
        at = dice.choice([at, at % 64])
        match dice.randrange(6):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del data[at:]
            case 3:
                del data[at : at + dice.randrange(9)]
            case 4:
                data[at:at] = dice.randbytes(dice.randrange(9))
            case 5:
                other = dice.choice(records)
                data[at:] = other[min(at, len(other)) :]
    return bytes(data)


def test_ten_thousand_mutated_records_give_one_result_each() -> None:
    seed = random.SystemRandom().getrandbits(64)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    records = [p.data for r in ("v1.14", "v1.18", "v1.20") for p in payloads(r, "all") if p.data]
    parsers = [Parser(world(RELEASE), hint) for hint in (None, (1, 14), (1, 18), (1, 20))]
    for number in range(40):
        sent = [Payload(mutated(dice, records), 0, 0, 9) for _ in range(250)]
        parsers[number % 4].parse(batch_of(sent))


def test_payloads_of_any_type_and_size_give_one_result_each() -> None:
    parser = Parser(world(RELEASE), HINT)
    kinds = [-(2**62), -1, 0, 1, 2, 3, 8, 9, 10, 2**62]
    sent = [Payload(b"", 0, 2**64 - 1, kind) for kind in kinds]
    sent += [Payload(bytes([first]) * 70_000, -1, 0, 9) for first in range(256)]
    parsed = parser.parse(batch_of(sent))
    assert [(lost.cpu, lost.count) for lost in parsed.lost_events] == [(0, 2**64 - 1)]


def take_all(stream: PayloadStream, found: list[Payload]) -> None:
    while (batch := stream.take(1000)) is not None:
        found += contents(iter([batch]))


BREAKS = {
    "length 0": b"\0",
    "bad marker": b"\x80",
    "bad marker 0xf7": b"\xf7",
    "absurd length": b"\xf8" + b"\xff" * 8,
    "just too long": b"\xfc\x01\x00\x00\x01",
    "undefined type": b"\x04\xff\xfe\x00\x00",
}


@pytest.mark.parametrize("garbage", BREAKS.values(), ids=BREAKS)
def test_a_broken_stream_gives_what_came_before(garbage: bytes) -> None:
    data = stream_bytes(RELEASE, MIX)
    stream = PayloadStream()
    stream.feed(data + garbage + data)
    found: list[Payload] = []
    with pytest.raises(ProtocolError, match="cannot be framed"):
        take_all(stream, found)
    assert found == payloads(RELEASE, MIX)
    with pytest.raises(ProtocolError, match="cannot be framed"):
        stream.take()


def test_mutated_streams_raise_protocol_errors_only() -> None:
    seed = random.SystemRandom().getrandbits(64)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    data = stream_bytes(RELEASE, MIX)[:8_000]
    parser = Parser(world(RELEASE), HINT)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(dice.choice([1, 3, 30])):
            broken[dice.choice([dice.randrange(200), dice.randrange(len(broken))])] = (
                dice.randrange(256)
            )
        stream = PayloadStream()
        stream.feed(broken)
        try:
            while (batch := stream.take()) is not None:
                parser.parse(batch)
        except ProtocolError:
            pass  # everything else is a failure
        assert stream.waiting <= len(broken)


def test_an_endless_message_is_refused_before_it_is_buffered() -> None:
    stream = PayloadStream()
    stream.feed(b"\xfc\x7f\xff\xff\xff")
    with pytest.raises(ProtocolError, match="2147483647 bytes"):
        stream.take()
