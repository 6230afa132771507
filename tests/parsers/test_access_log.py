"""Access logs mean to us what they mean to Hubble, and hostile ones mean nothing."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from parsers.access_log import LATENCY_CACHE, AccessLog, AccessLogDecoder
from parsers.errors import ProtocolError
from parsers.flow_batch import L7_HTTP, L7_KAFKA, L7_NONE
from parsers.l7 import DnsLabels, HttpLabels, KafkaLabels
from tests.fixtures import release_number, streams, world
from tests.parsers.access_log_json import Event, of_the_record, shown
from tests.parsers.access_log_records import MUTATED, edited, records, value_of
from tests.parsers.event_differences import ACCESS_LOGS


def compare(release: str, mix: str) -> tuple[list[tuple[int, Event | str, Event | str]], set[str]]:
    """What is not equal, and the differences that explained something."""
    decoder = AccessLogDecoder(release_number(release))
    unexplained: list[tuple[int, Event | str, Event | str]] = []
    fired: set[str] = set()
    for data, line in records(release, mix):
        ours: Event | str
        try:
            ours = shown(decoder.decode(data))
        except ProtocolError as error:
            ours = error.error_class
        if line.get("stale"):
            continue
        theirs: Event | str = line.get("class", "")
        if line["kind"] == "flow":
            theirs = of_the_record(line["event"])
        if isinstance(ours, dict):
            if "unmarshalable" in line.get("event", {}):
                continue  # a string that is not UTF-8: Hubble cannot send the flow, we can
            for entry in ACCESS_LOGS:
                rule = entry.event if entry.holds_for(release) else None
                if rule and rule(ours, data, world(release)):
                    fired.add(entry.name)
            ours = of_the_record(ours)
        if ours != theirs:
            unexplained.append((line["i"], ours, theirs))
    return unexplained, fired


@pytest.mark.parametrize(("release", "mix"), [*streams(), MUTATED])
def test_every_recorded_access_log_gives_what_hubble_made_of_it(release: str, mix: str) -> None:
    unexplained, _ = compare(release, mix)
    assert [] == unexplained


def test_every_difference_between_releases_is_needed() -> None:
    fired = set().union(*(compare(*stream)[1] for stream in streams() if stream[1] == "all"))
    assert {entry.name for entry in ACCESS_LOGS} == fired


def test_knowing_the_release_changes_nothing_for_the_records_of_that_release() -> None:
    for stream in streams():
        decoder, hinted = AccessLogDecoder(), AccessLogDecoder(release_number(stream[0]))
        for data, line in records(*stream):
            if line["kind"] == "flow":
                assert shown(hinted.decode(data)) == shown(decoder.decode(data))


def test_a_stray_kafka_record_of_1_20_becomes_a_flow_without_record_and_summary() -> None:
    data, _ = next((d, e) for d, e in records("v1.19", "all") if "kafka" in str(e.get("event")))
    known = AccessLogDecoder((1, 19)).decode(data)
    assert (L7_KAFKA, True) == (known.kind.l7_record, known.l7.content().summary != "")
    stray = AccessLogDecoder((1, 20)).decode(data)
    assert (L7_NONE, None) == (stray.kind.l7_record, stray.l7.labels)
    assert (None, "") == (stray.l7.content().record, stray.l7.content().summary)


def labels_of(layer7: Event) -> HttpLabels | DnsLabels | KafkaLabels | None:
    """What Hubble's metric handlers read from the flow they are given."""
    if "http" in layer7:
        http = layer7["http"]
        return HttpLabels(http.get("method", ""), http.get("protocol", ""), http.get("code", 0))
    if "dns" in layer7:
        dns = layer7["dns"]
        return DnsLabels(
            ",".join(dns.get("qtypes", ())),
            dns.get("rcode", 0),
            len(dns.get("ips", ())),
            tuple(dns.get("rrtypes", ())),
        )
    if "kafka" in layer7:
        kafka = layer7["kafka"]
        return KafkaLabels(
            kafka.get("topic", ""), kafka.get("api_key", ""), kafka.get("error_code", 0)
        )
    return None


@pytest.mark.parametrize("mix", ["all", "l7", "steady"])
def test_metric_labels_are_those_of_the_flow_and_equal_ones_are_one_object(mix: str) -> None:
    decoder = AccessLogDecoder((1, 19))
    seen: dict[object, object] = {}
    for data, line in records("v1.19", mix):
        if line["kind"] == "flow":
            labels = decoder.decode(data).l7.labels
            assert labels_of(line["event"]["l7"]) == labels
            assert seen.setdefault(labels, labels) is labels
    assert 20 < len(seen)


def test_the_query_is_a_label_where_it_is_asked_for() -> None:
    decoder = AccessLogDecoder((1, 19))
    decoder.label_queries(wanted=True)
    queries: Counter[str] = Counter()
    for data, line in records("v1.19", "l7"):
        if line["kind"] == "flow" and "dns" in line["event"]["l7"]:
            labels = decoder.decode(data).l7.labels
            assert isinstance(labels, DnsLabels)
            assert line["event"]["l7"]["dns"].get("query", "") == labels.query
            queries[labels.query] += 1
    assert 10 < len(queries)


def http_pair() -> tuple[bytes, bytes, bytes]:
    """A recorded request and its response, and the request id that joins them."""
    logs = [d for d, e in records("v1.19", "l7") if "'http'" in str(e.get("event"))]
    at = logs[0].index(b"X-Request-Id")
    request_id = logs[0][at + 14 : at + 50]
    return logs[0], next(d for d in logs[1:] if request_id in d), request_id


def test_the_ten_thousandth_request_without_response_pushes_out_the_first() -> None:
    request, response, request_id = http_pair()
    for others, known in ((LATENCY_CACHE - 1, True), (LATENCY_CACHE, False)):
        decoder = AccessLogDecoder()
        decoder.decode(request)
        for number in range(others):
            other = f"{number:036d}".encode()
            decoder.decode(request.replace(request_id, other))
        assert known == (decoder.decode(response).l7.latency_ns > 0)
        assert decoder.statistics()["request_times"] <= LATENCY_CACHE


def test_a_response_is_timed_once() -> None:
    request, response, _ = http_pair()
    decoder = AccessLogDecoder()
    decoder.decode(request)
    assert decoder.decode(response).l7.latency_ns > 0
    assert 0 == decoder.decode(response).l7.latency_ns


def test_a_response_from_before_its_request_has_no_latency() -> None:
    request, response, _ = http_pair()
    decoder = AccessLogDecoder()
    decoder.decode(request.replace(b"2026-01-01T", b"2026-01-02T"))
    assert 0 == decoder.decode(response).l7.latency_ns


def test_a_view_of_bytes_is_as_good_as_bytes() -> None:
    data, _ = next(records("v1.19", "steady"))
    assert shown(AccessLogDecoder().decode(data)) == shown(
        AccessLogDecoder().decode(memoryview(data))
    )


def one_of_each_kind() -> list[bytes]:
    found: dict[str, bytes] = {}
    for data, line in records("v1.19", "all"):
        if line["kind"] == "flow":
            layer7 = line["event"]["l7"]
            found.setdefault(str(sorted(layer7)) + layer7.get("type", ""), data)
    return list(found.values())


def outcome(decoder: AccessLogDecoder, data: bytes) -> AccessLog | str:
    """A whole record or an error of ours; anything else fails the test."""
    try:
        log = decoder.decode(data)
    except ProtocolError as error:
        return error.error_class
    log.l7.content()
    return log


def test_a_record_cut_at_any_offset_is_refused_as_gob() -> None:
    decoder = AccessLogDecoder()
    for data in one_of_each_kind():
        assert isinstance(outcome(decoder, data), AccessLog)
        for stop in range(1, len(data)):
            assert "gob" == outcome(decoder, data[:stop])


@pytest.mark.parametrize("seed", range(4))
def test_random_mutations_raise_nothing_but_protocol_errors_and_fill_no_cache(seed: int) -> None:
    rng = random.Random(seed)
    pool = one_of_each_kind()
    decoder = AccessLogDecoder()
    outcomes: Counter[str] = Counter()
    for _ in range(2_500):
        data = bytearray(rng.choice(pool))
        for _ in range(rng.randrange(1, 4)):
            # Three of four in the value: the definitions are two thirds of a record.
            low = 1 if rng.random() < 0.25 else 1290
            data[rng.randrange(low, len(data))] = rng.choice(
                (0, 1, 127, 248, 255, rng.randrange(256))
            )
        outcomes[str(outcome(decoder, bytes(data)))[:3]] += 1
    assert {"Acc", "gob"} <= set(outcomes)
    fill = decoder.statistics()
    assert fill["known"] <= 4
    assert fill["labels"] <= 8192
    assert fill["sides"] <= 8192


def test_records_read_alike_whether_their_definitions_are_new_or_known() -> None:
    good, _ = next(records("v1.19", "steady"))
    known = AccessLogDecoder()
    outcomes: Counter[str] = Counter()
    for data in [good, good, *[data for data, _ in records(*MUTATED)][:1500]]:
        known._request_times.clear()
        known._trace_ids.clear()
        first, later = outcome(AccessLogDecoder(), data), outcome(known, data)
        if isinstance(first, AccessLog) and isinstance(later, AccessLog):
            assert shown(first) == shown(later)
            outcomes["record"] += 1
        else:
            assert first == later
            outcomes[str(first)] += 1
    assert 100 < min(outcomes["record"], outcomes["gob"])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The records that are decoded from now on, as they were not recognised."""
    decoded: list[bytes] = []
    decode_any = AccessLogDecoder._read_any

    def count(decoder: AccessLogDecoder, data: bytes) -> object:
        decoded.append(data)
        return decode_any(decoder, data)

    monkeypatch.setattr(AccessLogDecoder, "_read_any", count)
    return decoded


def test_most_records_of_a_steady_stream_are_recognised_and_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = counted(monkeypatch)
    decoder = AccessLogDecoder((1, 19))
    logs = [data for data, _ in records("v1.19", "steady")]
    for data in logs:
        decoder.decode(data)
    assert 0 < len(decoded) < len(logs) // 20


@pytest.mark.parametrize("seed", range(4))
def test_recognised_records_mean_what_they_mean_decoded(seed: int) -> None:
    rng = random.Random(seed)
    pool = [data for data, _ in records("v1.19", "steady")][:100]
    known = AccessLogDecoder()
    outcomes: Counter[str] = Counter()
    for data in [*pool, *(edited(rng, rng.choice(pool)) for _ in range(600))]:
        known._request_times.clear()
        known._trace_ids.clear()
        first, later = outcome(AccessLogDecoder(), data), outcome(known, data)
        if isinstance(first, AccessLog) and isinstance(later, AccessLog):
            assert shown(first) == shown(later)
            outcomes["record"] += 1
        else:
            assert first == later
            outcomes[str(first)] += 1
    assert 100 < min(outcomes["record"], outcomes["gob"])


@pytest.mark.parametrize(
    ("pattern", "with_more"),
    [
        # Agents say why they gave the verdict; the flow does not.
        (rb"\x09Forwarded\x03", b"\x09Forwarded\1\x11Allowed by policy\2"),
        # An endpoint of two families is shown with the record's.
        (rb"(10\.0\.\d+\.\d+)\x02(?=\xfe..\x01|5\x01)", b"\\1\1\x0bfd00:10::4f\1"),
    ],
)
def test_what_is_not_shown_changes_nothing_and_is_recognised(
    pattern: bytes, with_more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = [data for data, line in records("v1.19", "steady") if line["kind"] == "flow"][:200]
    wanted = [shown(AccessLogDecoder().decode(data)) for data in logs]
    decoded = counted(monkeypatch)
    decoder, changed = AccessLogDecoder(), 0
    for data, flow in zip(logs, wanted, strict=True):
        head = value_of(data)
        value = re.sub(pattern, with_more, data[head:], flags=re.DOTALL)
        changed += value != data[head:]
        decoder._request_times.clear()
        decoder._trace_ids.clear()
        length = len(value).to_bytes(2, "big")
        assert flow == shown(decoder.decode(data[: head - 2] + length + value))
    assert 100 < changed
    assert 0 < len(decoded) < 20


def test_what_stands_behind_the_end_of_a_record_is_not_part_of_it() -> None:
    """Go ends a struct at its zero and looks at nothing behind it."""
    request, _, _ = http_pair()
    node = request.rindex(b"\1\1\r192.168.10.11", 0, request.index(b"gress"))
    head = value_of(request)
    behind = request.index(b"\1", request.index(b"\0", node))
    cut = bytearray(request[:node] + b"\0" + request[behind:])
    cut[head - 2 : head] = (len(cut) - head).to_bytes(2, "big")
    for before in (bytes(cut), request):
        decoder = AccessLogDecoder()
        for data in (before, before, bytes(cut)):  # known for good from the second on
            log = decoder.decode(data)
        assert (L7_NONE, b"") == (log.kind.l7_record, log.source.address)


def test_huge_texts_are_not_kept() -> None:
    """What a client can send by the megabyte must not stay, ten thousand times over."""
    request, _, request_id = http_pair()
    decoder = AccessLogDecoder()
    for number in range(50):
        long_id = b"x" * 100_000 + str(number).encode()
        assert L7_HTTP == decoder.decode(_grown(request, request_id, long_id)).kind.l7_record
    assert 50 == decoder.statistics()["request_times"]
    assert 50_000 > sum(map(len, decoder._request_times))


def _grown(record: bytes, old: bytes, new: bytes) -> bytes:
    """The record with one string replaced and its lengths made right."""
    at = record.index(old)
    grown = record[: at - 1] + _uint(len(new)) + new + record[at + len(old) :]
    # The value message: length, two bytes of type id, then field 0, which is "Request".
    head = grown.rindex(b"\1\7Request", 0, grown.index(b"2026-")) - 2
    assert 0xFE == grown[head - 3]  # a length of two bytes
    return grown[: head - 3] + _uint(len(grown) - head) + grown[head:]


def _uint(number: int) -> bytes:
    return b"\xfd" + number.to_bytes(3, "big")
