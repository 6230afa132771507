"""Datapath records give the same flows by the compiled loop and by numpy's passes.

Invariant: whatever the bytes are, both ways give equal bytes in every column, and the same
errors; and the loop's result depends on no byte outside the record.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsers import compiled, datapath
from parsers.datapath import Flows, flows_by_columns, flows_of_records
from parsers.framing import PayloadBatch
from parsers.headers import CAPTURE, DROP, POLICY_VERDICT, TRACE, Layout, Release
from tests.fixtures import Payload, payloads, release_number, streams
from tests.parsers.recorded import batch_of
from tests.parsers.test_fast_path_equals_slow_path import V4, packets, record_of

pytestmark = pytest.mark.skipif(
    compiled.kernels is None, reason=f"nothing is compiled: {compiled.missing}"
)

HINTS: tuple[Release, ...] = (None, (1, 18), (1, 19))
KINDS = (DROP, CAPTURE, TRACE, POLICY_VERDICT)


def assert_equal(by_loop: Flows, by_columns: Flows) -> None:
    flows, errors, guessed = by_loop
    wanted, wanted_errors, wanted_guessed = by_columns
    for name in wanted.COLUMNS:
        got, want = getattr(flows, name), getattr(wanted, name)
        assert got.dtype == want.dtype, name
        if got.tobytes() != want.tobytes():  # field by field, of what takes long to compare
            np.testing.assert_array_equal(got, want, name)
            pytest.fail(f"{name} differs in padding")
    assert flows.extra == wanted.extra
    assert {row: (e.error_class, str(e)) for row, e in errors.items()} == {
        row: (e.error_class, str(e)) for row, e in wanted_errors.items()
    }
    assert guessed == wanted_guessed


def assert_both_ways_are_equal(records: Sequence[bytes], release: Release) -> None:
    batch = batch_of([Payload(data, 0, 0, 9) for data in records if data[:1] and data[0] in KINDS])
    rows = np.arange(len(batch))
    if len(rows):
        layout = Layout.of(release)
        assert_equal(flows_of_records(batch, rows, layout), flows_by_columns(batch, rows, layout))


def recorded(release: str, mix: str) -> list[bytes]:
    return [p.data for p in payloads(release, mix) if p.data and p.data[0] in KINDS]


@pytest.mark.parametrize(("release", "mix"), streams())
def test_recorded_records(release: str, mix: str) -> None:
    for hint in (release_number(release), *HINTS):
        assert_both_ways_are_equal(recorded(release, mix), hint)


@pytest.mark.parametrize(("release", "mix"), [s for s in streams() if s[1] == "steady"])
def test_nearly_all_records_of_steady_traffic_are_ordinary(
    release: str, mix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = recorded(release, mix)
    batch = batch_of([Payload(data, 0, 0, 9) for data in records])
    left: list[int] = []

    def counted(batch: PayloadBatch, rows: np.ndarray, layout: Layout) -> Flows:
        left.append(len(rows))
        return flows_by_columns(batch, rows, layout)

    monkeypatch.setattr(datapath, "flows_by_columns", counted)
    flows_of_records(batch, np.arange(len(batch)), Layout.of(release_number(release)))
    assert sum(left) < len(records) / 100


@pytest.mark.parametrize("release", HINTS)
def test_records_between_others_are_found_by_their_rows(release: Release) -> None:
    batch = batch_of([Payload(data, 0, 0, 9) for data in recorded("v1.19", "all")])
    rows = np.arange(len(batch))[::-3].copy()
    layout = Layout.of(release)
    assert_equal(flows_of_records(batch, rows, layout), flows_by_columns(batch, rows, layout))


@cache
def shapes(each: int) -> list[bytes]:
    """Records that give flows: of each type, version and protocol at most ``each``."""
    found: dict[tuple[int | str, ...], set[bytes]] = {}
    for release, mix in streams():
        records = recorded(release, mix)
        if not records:
            continue
        batch = batch_of([Payload(data, 0, 0, 9) for data in records])
        layout = Layout.of(release_number(release))
        flows, errors, _ = flows_by_columns(batch, np.arange(len(batch)), layout)
        for row, data in enumerate(records):
            if row in errors:
                continue
            told = flows.flow_class[row]
            version = min(data[14], 4)  # beyond all that are known
            shape: tuple[int | str, ...] = (
                data[0],
                version,
                int(told["ip_version"]),
                int(told["l4"]),
            )
            shape += tuple(flows.extra.get(row, ()))
            kept = found.setdefault(shape, set())
            if len(kept) < each:
                kept.add(data)
    return sorted(set().union(*found.values()))


@pytest.mark.parametrize("release", HINTS)
def test_records_cut_at_every_byte(release: Release) -> None:
    for data in shapes(1):
        assert_both_ways_are_equal([data[:end] for end in range(min(len(data), 200))], release)


@pytest.mark.parametrize("release", HINTS)
def test_records_that_captured_any_length(release: Release) -> None:
    lengths = [*range(140), 0x7FFF, 0xFFFF]
    for data in shapes(1):
        if len(data) >= 14:
            changed = [data[:12] + struct.pack("<H", n) + data[14:] for n in lengths]
            assert_both_ways_are_equal(changed, release)


BYTES = [0, 1, 2, 3, 5, 6, 8, 17, 30, 58, 132, 0x7F, 0xFF]


@pytest.mark.parametrize("release", HINTS)
def test_records_with_any_one_byte_changed(release: Release) -> None:
    for data in shapes(1):
        if release is not None and data[0] != POLICY_VERDICT:
            continue  # the release says how long verdicts are, and no more
        changed = [
            data[:at] + bytes([value]) + data[at + 1 :]
            for at in range(1, min(len(data), 130))
            for value in {*BYTES, *(data[at] ^ 1 << bit for bit in range(8))}
        ]
        assert_both_ways_are_equal(changed, release)


def mutated(dice: random.Random, records: list[bytes]) -> bytes:
    data = bytearray(dice.choice(records))
    for _ in range(dice.choice([1, 1, 2, 3, 8])):
        at = dice.randrange(dice.choice([40, 64, 110, 1000]))
        match dice.randrange(7):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 2 if at < len(data):
                data[at] = dice.choice([*BYTES, dice.randrange(256)])
            case 3 if at:
                del data[at:]
            case 4:
                data[12:14] = dice.randrange(1 << dice.choice([7, 8, 16])).to_bytes(2, "little")
            case 5:
                data[14:15] = bytes([dice.randrange(6)])
            case 6:
                other = dice.choice(records)
                data[at:] = other[min(at, len(other)) :]
    return bytes(data)


@pytest.mark.parametrize("release", HINTS)
def test_ten_thousand_mutated_records(release: Release) -> None:
    seed = random.SystemRandom().getrandbits(64)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    records = shapes(6)
    for _ in range(10):
        assert_both_ways_are_equal([mutated(dice, records) for _ in range(1000)], release)


USUAL_OPTIONS = ("0101080a", "020405b4", "01010402", "0402080a", "01030307")


@pytest.mark.parametrize("length", range(0, 41, 4))
def test_tcp_options_sound_and_not(length: int) -> None:
    seed = random.SystemRandom().getrandbits(64)
    print(f"seed {seed}")  # noqa: T201
    dice = random.Random(seed)
    words = [bytes.fromhex(text) for text in USUAL_OPTIONS]
    sent = []
    for _ in range(500):
        options = b"".join(
            dice.choice([dice.choice(words), bytes(dice.choices([0, 1, 2, 3, 4, 8, 10, 30], k=4))])
            for _ in range(length // 4)
        )
        tcp = struct.pack(">HHIIHHHH", 7, 8, 1, 2, (20 + length) << 10 | 16, 9, 0, 0) + options
        packet = V4[:16] + struct.pack(">H", 40 + length) + V4[18:23] + b"\6" + V4[24:] + tcp
        sent.append(record_of(packet, len(packet)))
    assert_both_ways_are_equal(sent, None)


addresses = st.sampled_from(
    [bytes(16), bytes(10) + b"\xff\xff" + bytes(4), b"\x0a\0\0\5" + bytes(12), b"\xfd" + bytes(15),
     bytes(10) + b"\xff\xff\x0a\0\0\5", bytes.fromhex("fd000001" + "00" * 11 + "0d")]
)  # fmt: skip
few = st.one_of(st.integers(0, 12), st.integers(0, 255))
words = st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1))
long_words = st.sampled_from([0, 0, 0, 1, 1 << 63])


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record of any of the four types, whose header's fields are of any value."""
    kind, version = draw(st.sampled_from(KINDS)), draw(st.sampled_from([0, 1, 1, 2, 2, 2, 3, 4, 9]))
    packet = draw(packets())
    captured = draw(st.one_of(st.just(len(packet)), st.integers(0, len(packet) + 8)))
    source = draw(st.sampled_from([0, 7, 0xFFFF]))
    flags = draw(st.sampled_from([0] * 5 + [1] * 5 + [2, 3, 4, 8, 0x41, 0x80, 0x85, 0xFF]))
    head = struct.pack("<BBHIIHBB", kind, draw(few), source, 1, len(packet), captured, version, 0)
    head += struct.pack("<II", draw(words), draw(words))
    reason = draw(st.sampled_from([0, 1, 2, 5, 6, 0x80, 0x82, 0x85, 0x7F]))
    match kind:
        case 4:
            length = {0: 32, 1: 48}.get(version, 56)
            head += struct.pack("<HBBI", draw(few), reason, flags, draw(words))
            head += draw(addresses) + struct.pack("<Q", draw(long_words))
        case 1:
            length = {0: 36, 1: 36, 2: 40}.get(version, 48)
            head += struct.pack("<IHBBI", draw(words), draw(few), draw(few), 0, draw(few))
            head += struct.pack("<B3xQ", flags, draw(long_words))
        case 5:
            length = draw(st.sampled_from([32, 40]))
            head += struct.pack("<HBBB11x", draw(few), 0, flags | draw(few) & 0x3F, draw(few))
        case _:
            length = 24
    return head[:length] + packet + draw(st.binary(max_size=7))


@settings(deadline=None, max_examples=300)
@given(sent=st.lists(records(), min_size=1, max_size=12), release=st.sampled_from(HINTS))
def test_invented_records(sent: list[bytes], release: Release) -> None:
    assert_both_ways_are_equal(sent, release)


def by_the_loop(buffer: np.ndarray, offset: int, length: int, verdict: int) -> list[bytes]:
    """What the compiled loop alone makes of one record."""
    key, flow_class = np.zeros(8, dtype=np.uint64), np.zeros(4, dtype=np.uint64)
    columns = [np.zeros(1, dtype=d) for d in ("u2", "u2", "u4", "u2", "u1", "i8", "i8")]
    own, many = np.zeros(2, dtype=np.uint64), np.zeros(2, dtype=np.int64)
    assert compiled.kernels is not None
    done = compiled.kernels.datapath_flows(
        buffer, 1, np.zeros(1, dtype=np.int64), np.array([offset]), np.array([length]), verdict,
        datapath.TABLES, key, flow_class, *columns, own, many,
    )  # fmt: skip
    told = [bytes([done]), many.tobytes()]
    return told + [c.tobytes() for c in (key, flow_class, *columns, own)] if done else told


@pytest.mark.parametrize("verdict", [0, 32, 40])
def test_nothing_is_read_outside_the_record(verdict: int) -> None:
    for data in shapes(1):
        for end in [*range(min(len(data), 140)), len(data)]:
            part = np.frombuffer(data[:end], dtype=np.uint8)
            # Alone, so that a checker of memory accesses sees what is read behind its end.
            alone = by_the_loop(part.copy(), 0, end, verdict)
            for filling in (data[end:] + b"\1" * 200, b"\xff" * 200, data + data):
                around = np.frombuffer(filling[::-1] + data[:end] + filling, dtype=np.uint8)
                assert by_the_loop(around, len(filling), end, verdict) == alone
