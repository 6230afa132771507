"""Messages of a TCP connection, however it was cut into segments and whatever is missing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers.dns_stream import EARLY, KEPT, DnsStream, Framed

FIRST = 0xFFFFFF00  # numbers wrap soon behind it
MESSAGES = st.lists(st.binary(min_size=12, max_size=300), min_size=1, max_size=6)


def framed(messages: list[bytes]) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def number(offset: int) -> int:
    return (FIRST + 1 + offset) % (1 << 32)


def begun() -> DnsStream:
    stream = DnsStream()
    stream.begin(FIRST)
    return stream


def whole(messages: list[bytes]) -> list[Framed]:
    return [Framed(message, cut=False) for message in messages]


@st.composite
def cut_anywhere(draw: st.DrawFn) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """Messages, and their bytes in segments with their places."""
    messages = draw(MESSAGES)
    data = framed(messages)
    ends = sorted({*draw(st.lists(st.integers(1, len(data)), max_size=8)), len(data)})
    starts = [0, *ends[:-1]]
    return messages, [(start, data[start:end]) for start, end in zip(starts, ends, strict=True)]


@settings(deadline=None)
@given(cut_anywhere())
def test_segments_may_end_anywhere(drawn: tuple[list[bytes], list[tuple[int, bytes]]]) -> None:
    messages, segments = drawn
    stream = begun()
    found = [m for at, data in segments for m in stream.feed(number(at), data, len(data))]
    assert whole(messages) == found
    assert stream.resynchronised == 0


def test_a_byte_at_a_time_gives_the_same() -> None:
    messages = [b"a" * 12, b"b" * 40]
    stream = begun()
    data = framed(messages)
    found = [m for i in range(len(data)) for m in stream.feed(number(i), data[i : i + 1], 1)]
    assert whole(messages) == found


@settings(deadline=None)
@given(cut_anywhere(), st.randoms())
def test_segments_may_come_twice_and_in_another_order(
    drawn: tuple[list[bytes], list[tuple[int, bytes]]], random: object
) -> None:
    messages, segments = drawn
    shuffled = [*segments, *segments][: EARLY + 1]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    stream = begun()
    found = [m for at, data in shuffled for m in stream.feed(number(at), data, len(data))]
    found += [m for at, data in segments for m in stream.feed(number(at), data, len(data))]
    assert whole(messages) == found
    assert stream.resynchronised == 0


def test_a_connection_met_in_its_middle_is_read_from_the_next_segment_on() -> None:
    stream = DnsStream()
    data = framed([b"m" * 20])
    assert whole([b"m" * 20]) == stream.feed(12345, data, len(data))


def test_a_segment_that_never_comes_costs_what_it_held() -> None:
    stream = begun()
    first, rest = framed([b"a" * 20]), [framed([bytes([65 + i]) * 20]) for i in range(EARLY + 2)]
    assert whole([b"a" * 20]) == stream.feed(number(0), first, len(first))
    found, at = [], len(first) + 1000
    for data in rest:
        found += stream.feed(number(at), data, len(data))
        at += len(data)
    assert found[-1] == Framed(rest[-1][2:], cut=False)
    assert stream.resynchronised == 1


@pytest.mark.parametrize("size", [KEPT + 1, 65535])
def test_of_a_long_message_the_beginning_is_kept(size: int) -> None:
    stream = begun()
    long, after = bytes(range(256)) * 256, b"n" * 30
    data = framed([long[:size], after])
    found = [
        m
        for at in range(0, len(data), 1400)
        for m in stream.feed(number(at), data[at : at + 1400], len(data[at : at + 1400]))
    ]
    assert found == [Framed(long[:KEPT], cut=True), Framed(after, cut=False)]


@pytest.mark.parametrize("captured", [14, 500, 1999])
def test_what_was_not_captured_of_a_segment_is_skipped(captured: int) -> None:
    stream = begun()
    long, after = b"l" * 3000, b"n" * 30
    data = framed([long])
    first = stream.feed(number(0), data[:captured], 2000)
    second = stream.feed(number(2000), data[2000:], len(data) - 2000)
    tail = framed([after])
    third = stream.feed(number(len(data)), tail, len(tail))
    assert first == [Framed(long[: captured - 2], cut=True)]
    assert second == []
    assert third == whole([after])


def test_a_message_that_begins_in_what_was_not_captured_is_lost_and_the_next_is_not() -> None:
    stream = begun()
    both = framed([b"a" * 100, b"b" * 100])
    assert whole([b"a" * 100]) == stream.feed(number(0), both[:150], len(both))[:1]
    after = framed([b"c" * 100])
    assert whole([b"c" * 100]) == stream.feed(number(len(both)), after, len(after))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=80), st.integers(0, 80))))
def test_any_segments_end_in_messages_or_nothing(
    segments: list[tuple[int, bytes, int]],
) -> None:
    stream = DnsStream()
    for sequence, data, more in segments:
        for message in stream.feed(sequence, data, len(data) + more):
            assert 12 <= len(message.data) <= KEPT
