"""A batch of access logs is decoded as each of its records alone, whatever the records are.

``AccessLogDecoder.decode`` is the twin in Python of the loop behind ``decode_all``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest

from parsers import access_log_pieces, access_log_usual, compiled
from parsers.access_log import AccessLog, AccessLogDecoder
from parsers.errors import ProtocolError
from parsers.go_text import parse_rfc3339
from parsers.go_url import is_plain_url
from tests.fixtures import streams
from tests.parsers.access_log_records import MUTATED, edited, records, value_of

pytestmark = pytest.mark.skipif(compiled.kernels is None, reason="nothing is compiled")

Columns = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def columns(logs: list[bytes]) -> Columns:
    """The records one behind the other, as payloads lie: buffer, offsets, lengths."""
    length = np.array([len(data) for data in logs])
    buffer = np.frombuffer(bytearray(b"".join(logs) + bytes(192)), dtype=np.uint8)
    return buffer, np.cumsum(length) - length, length


def said(log: AccessLog | ProtocolError) -> tuple[Any, ...]:
    """All that a record became, to be compared."""
    if isinstance(log, ProtocolError):
        return log.error_class, str(log)
    parts = [(number, encoded, read(encoded, 0)) for number, encoded, read in log.l7.parts]
    kind, source, destination = map(astuple, log[:3])  # type: ignore[arg-type]
    return kind, source, destination, *log[3:5], *log.l7[:4], parts, log.l7.redaction


def alone(decoder: AccessLogDecoder, logs: Iterable[bytes]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for data in logs:
        try:
            found.append(said(decoder.decode(data)))
        except ProtocolError as error:
            found.append(said(error))
    return found


def together(decoder: AccessLogDecoder, logs: list[bytes], size: int) -> list[tuple[Any, ...]]:
    """The same, of batches."""
    found: list[tuple[Any, ...]] = []
    for begin in range(0, len(logs), size):
        batch = logs[begin : begin + size]
        made, errors = decoder.decode_all(*columns(batch))
        of: dict[int, AccessLog | ProtocolError] = dict(errors)
        of.update(
            (place, AccessLog(*log))
            for place, *log in zip(
                made.place.tolist(), made.kind, made.source, made.destination,
                made.source_port.tolist(), made.destination_port.tolist(), made.l7,
                strict=True,
            )
        )  # fmt: skip
        assert len(batch) == len(of) == len(made.place) + len(errors)
        found += [said(of[place]) for place in range(len(batch))]
    return found


def recorded(release: str = "v1.19", mix: str = "steady") -> list[bytes]:
    return [data for data, _ in records(release, mix)]


def recognised(decoder: AccessLogDecoder, logs: list[bytes] | Columns) -> access_log_pieces.Walked:
    """What the loop finds of records, by what the decoder has learned so far."""
    assert decoder._usual is not None
    assert decoder._usual.pieces is not None
    found = decoder._usual.pieces.walk(*(columns(logs) if isinstance(logs, list) else logs))
    assert found is not None
    return found


@pytest.mark.parametrize(("release", "mix"), [*streams(), MUTATED])
def test_recorded_access_logs_are_the_same_in_batches(release: str, mix: str) -> None:
    logs = recorded(release, mix)
    wanted = alone(AccessLogDecoder(), logs)
    for size in (1, 7, 400):
        assert wanted == together(AccessLogDecoder(), logs, size)


@pytest.mark.parametrize("seed", range(4))
def test_edited_records_are_the_same_in_batches(seed: int) -> None:
    rng = random.Random(seed)
    pool = recorded("v1.19", "steady")[:600]
    logs = [*pool, *(edited(rng, rng.choice(pool)) for _ in range(3000))]
    decoder = AccessLogDecoder()
    assert alone(AccessLogDecoder(), logs) == together(decoder, logs, 100)
    found = int((recognised(decoder, logs[len(pool) :]).kind != 0).sum())
    assert 50 < found < 2900


def test_records_cut_anywhere_are_the_same_in_batches() -> None:
    """With their length made right, so that the walk gets to where they end."""
    pool = recorded("v1.19", "steady")[:300]
    decoder, single = AccessLogDecoder(), AccessLogDecoder()
    for data in [*pool, *pool]:
        alone(single, [data])
        together(decoder, [data], 1)
    seen = recognised(decoder, pool).kind
    kinds = [pool[seen.tolist().index(kind)] for kind in set(seen.tolist()) if kind]
    assert 3 < len(kinds)
    for data in kinds:
        head = value_of(data)
        cuts = [
            data[: head - 2] + (stop - head).to_bytes(2, "big") + data[head:stop]
            for stop in range(head, len(data) + 1)
        ]
        found = recognised(decoder, [*cuts, data])
        assert [0] * (len(cuts) - 1) == found.kind[: len(cuts) - 1].tolist()
        assert found.kind[-1] == found.kind[-2] != 0
        # What was cut off still stands behind it, and must not be looked at.
        whole = [cut + data[len(cut) :] for cut in cuts[:-1]]
        buffer, offset, _ = columns(whole)
        length = np.array([len(cut) for cut in cuts[:-1]])
        assert not recognised(decoder, (buffer, offset, length)).kind.any()
        assert alone(single, cuts) == together(decoder, cuts, 300)


def test_every_changed_byte_of_a_record_is_seen() -> None:
    pool = recorded("v1.19", "steady")[:300]
    decoder, single = AccessLogDecoder(), AccessLogDecoder()
    for data in [*pool, *pool]:
        alone(single, [data])
        together(decoder, [data], 1)
    requests = [data for data in pool if b"X-Request-Id" in data][:2]
    for data in [*requests, next(data for data in pool if b"proxy" in data)]:
        for change in (1, 128):
            head = value_of(data) - 3
            changed = [
                data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]
                for at in [*range(0, head, 29), *range(head, len(data))]
            ]
            assert alone(single, changed) == together(decoder, changed, 500)


def test_full_tables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = recorded("v1.19", "steady")
    wanted = alone(AccessLogDecoder(), logs)
    forgotten: list[object] = []
    forget = access_log_pieces.KnownPieces.forget

    def counted(pieces: access_log_pieces.KnownPieces) -> None:
        forgotten.append(pieces)
        forget(pieces)

    monkeypatch.setattr(access_log_pieces.KnownPieces, "forget", counted)
    for module, name, most in (
        (access_log_usual, "_MOST_SIDES", 5),
        (access_log_usual, "_MOST_PARTS", 5),
        (access_log_pieces, "_MOST_PIECES", 512),  # nearly 400 kinds are among them
        (access_log_pieces, "_MOST_BYTES", 1 << 15),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, most)
            forgotten.clear()
            assert wanted == together(AccessLogDecoder(), logs, 50)
            assert 1 < len(forgotten), name


def test_records_of_several_senders_may_be_mixed() -> None:
    rng = random.Random(1)
    logs = [
        data
        for release in ("v1.14", "v1.16", "v1.19", "v1.20")
        if (release, "all") in streams()
        for data in recorded(release, "all")
    ]
    rng.shuffle(logs)
    runs = sorted(logs[:400], key=lambda data: data[:1200])  # each sender for a while
    for order in (logs, runs + logs[400:]):
        assert alone(AccessLogDecoder(), order) == together(AccessLogDecoder(), order, 60)


def test_queries_are_labels_from_when_they_are_asked_for() -> None:
    logs = recorded("v1.19", "l7")
    single, decoder = AccessLogDecoder(), AccessLogDecoder()
    for wanted in (False, True, False):
        single.label_queries(wanted=wanted)
        decoder.label_queries(wanted=wanted)
        assert alone(single, logs) == together(decoder, logs, 90)


def test_most_records_of_a_steady_stream_are_recognised() -> None:
    logs = recorded("v1.19", "steady")
    decoder = AccessLogDecoder()
    together(decoder, logs, 100)
    found = recognised(decoder, logs)
    assert len(logs) * 0.98 < np.count_nonzero(found.kind)


def replaced(record: bytes, old: bytes, new: bytes) -> bytes:
    """The record with a text of its value replaced, and the lengths made right."""
    assert len(new) < 128
    head = value_of(record)
    value = record[head:]
    assert 1 == value.count(bytes([len(old)]) + old)
    value = value.replace(bytes([len(old)]) + old, bytes([len(new)]) + new)
    return record[: head - 2] + len(value).to_bytes(2, "big") + value


def request() -> tuple[AccessLogDecoder, bytes, bytes, bytes]:
    """A decoder that knows a request: it, its time, its URL."""
    decoder = AccessLogDecoder()
    for data in (logs := recorded("v1.19", "steady")):
        together(decoder, [data], 1)
    data = next(
        data for data in logs if b"\1\7Request" in data and b"X-Request-Id" in data
        and b"Traceparent" in data and recognised(decoder, [data]).kind[0]
    )  # fmt: skip
    ((_, part, read),) = decoder.decode(data).l7.parts
    time = next(
        text for at in range(value_of(data), len(data))
        if parse_rfc3339(text := data[at + 1 : at + 1 + data[at]]) is not None
    )  # fmt: skip
    return decoder, data, time, read(part, 0)[0][2]


def test_times_are_those_of_rfc_3339() -> None:
    decoder, data, time, _ = request()
    rng = random.Random(1)
    texts = [
        b"%04d-%02d-%02dT%02d:%02d:%02d.%0*dZ"
        % (
            rng.choice((1969, 1970, 1972, 1999, 2000, 2026, 2100, 2200, 2261, 2262, 9999)),
            rng.randrange(14), rng.choice((0, 1, 15, 28, 29, 30, 31, 32)),
            rng.choice((0, 12, 23, 24)), rng.choice((0, 59, 60)), rng.choice((0, 59, 60)),
            width := rng.randrange(1, 13), rng.randrange(10**width),
        )
        for _ in range(3000)
    ]  # fmt: skip
    texts += [time[:-1], time + b"Z", time[:19] + b"Z", time[:20] + b"Z", time[:-1] + b"+00:00"]
    for at in range(len(time)):
        texts += [time[:at] + bytes([byte]) + time[at + 1 :] for byte in b"/:0aZ.,\xff"]
    found = recognised(decoder, [replaced(data, time, text) for text in texts])
    seen = 0
    for text, kind, ours in zip(texts, found.kind.tolist(), found.time.tolist(), strict=True):
        wanted = parse_rfc3339(text)
        usual = wanted is not None and len(text) > 21 and text[19:20] == b"." and text[-1:] == b"Z"
        if usual and b"1970" <= text[:4] < b"2262":
            assert (True, wanted) == (kind != 0, ours), text
            seen += 1
        else:
            assert 0 == kind, text
    assert 300 < seen


def test_urls_are_accepted_as_the_plain_ones_are() -> None:
    decoder, data, _, url = request()
    rng = random.Random(2)
    pieces = (
        b"http://", b"https://", b"http:/", b"/", b"//", b"a.example", b"[::1]", b":80", b":",
        b"?", b"#", b"%41", b"%4", b"%zz", b"path", b"q=a b", b"'()*!", b"~-_.", b"@", b"\x7f",
        b"\xc3\xa4", b"\n", b"^", b"|", b'"', b"Z9",
    )  # fmt: skip
    texts = [b"".join(rng.choices(pieces, k=rng.randrange(1, 6))) for _ in range(6000)]
    texts += [b"http://a/" + bytes([byte]) for byte in range(256)]
    texts += [b"/?" + bytes([byte]) for byte in range(256)]
    texts += [b"http://" + bytes([byte]) + b"/" for byte in range(256)]
    found = recognised(decoder, [replaced(data, url, text) for text in texts])
    plain = [is_plain_url(text) for text in texts]
    assert plain == (found.kind != 0).tolist()
    assert 300 < sum(plain) < len(plain) - 300


def test_trace_ids_are_those_of_valid_parents() -> None:
    decoder, data, _, _ = request()
    at = data.index(b"Traceparent") + 11 + 2
    parent = data[at : at + 55]
    assert parent[2:3] == parent[35:36] == b"-"
    logs = [
        data[: at + place] + bytes([byte]) + data[at + place + 1 :]
        for place in range(55)
        for byte in b"0129afgF-\0"
    ]
    logs += [
        replaced(data, parent, text)
        for text in (
            parent[:3] + b"0" * 32 + parent[35:], parent[:36] + b"0" * 16 + parent[52:],
            b"01" + parent[2:] + b"-more", parent + b"-", b"ff" + parent[2:], parent[:-1], b"",
            b"01" + parent[2:-2] + b"ff", parent[:-2] + b"02", parent[:-2] + b"10",
        )
    ]  # fmt: skip
    wanted = alone(decoder, logs)
    assert wanted == together(decoder, logs, 100)
    assert {"", parent[3:35].decode()} < {log[7] for log in wanted}


def test_odd_urls_are_known_again_after_all_was_forgotten() -> None:
    decoder, data, _, url = request()
    odd = replaced(data, url, b"/a^b")
    assert not is_plain_url(b"/a^b")
    assert decoder._usual is not None
    for _ in range(2):
        together(decoder, [odd], 1)
        assert recognised(decoder, [odd]).kind[0]
        decoder._usual._forget()


def test_a_piece_is_kept_only_where_the_walk_looks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log_pieces, "_MOST_PIECES", 64)
    pieces, kept = access_log_pieces.KnownPieces(b"", 0, skip_query=False), 0
    for free in range(128):  # all other slots have something else
        pieces.forget()
        pieces._slots[:] = 63
        pieces._slots[free] = 0
        pieces.learn(access_log_pieces.URL, b"/a^b", (None, None))
        assert pieces._learn()
        kept += len(pieces.meanings) // 2 - 1
    assert 64 == kept  # MOST_PROBED
