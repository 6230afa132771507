"""Our text is what Prometheus' own readers understand, in both forms."""

from __future__ import annotations

import gzip
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from api.metrics.exposition import (
    CHUNK,
    Format,
    accepts_gzip,
    go_number,
    gzipped,
    negotiate,
    registry_families,
    render,
)
from api.metrics.family import STEP, Counters, Histograms
from parsers.errors import UsageError
from tests.api.metrics.readers import READERS, read_classic

FORMS = list(Format)


def text_of(*families: Counters, form: Format = Format.CLASSIC) -> str:
    return b"".join(render(families, form)).decode()


def histogram() -> Histograms:
    family = Histograms("a_duration_seconds", "Durations", ("method",))
    family.observe(("GET",), [0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1], 13_250_000_000)
    return family


@pytest.mark.parametrize(
    ("number", "text"),
    # What strconv.FormatFloat(x, 'g', -1, 64) of Go 1.26 gives.
    [
        (0.0, "0"), (-0.0, "-0"), (1.0, "1"), (0.005, "0.005"), (2.5, "2.5"), (0.1, "0.1"),
        (100000.0, "100000"), (123456.75, "123456.75"), (1e6, "1e+06"), (1234567.0, "1.234567e+06"),
        (1e21, "1e+21"), (1.7976931348623157e308, "1.7976931348623157e+308"), (0.0001, "0.0001"),
        (0.00001, "1e-05"), (1.5e-7, "1.5e-07"), (5e-324, "5e-324"), (-2.25e7, "-2.25e+07"),
        (2.6950000000000003, "2.6950000000000003"), (math.inf, "+Inf"), (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)  # fmt: skip
def test_numbers_are_gos(number: float, text: str) -> None:
    assert go_number(number) == text


@given(st.floats())
def test_a_number_is_read_back_as_it_was(number: float) -> None:
    for form in FORMS:
        read = float(go_number(number, form))
        assert read == number or (math.isnan(read) and math.isnan(number))


def test_bounds_are_gos_in_the_classic_form_and_floats_in_openmetrics() -> None:
    bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    classic = text_of(histogram())
    assert [
        line.split('le="')[1].split('"')[0] for line in classic.splitlines() if "le=" in line
    ] == bounds
    openmetrics = text_of(histogram(), form=Format.OPENMETRICS)
    assert 'le="1.0"' in openmetrics
    assert 'le="10.0"' in openmetrics


@pytest.mark.parametrize("form", FORMS)
def test_a_histogram_is_read_back_with_cumulative_buckets(form: Format) -> None:
    (family,) = READERS[form](text_of(histogram(), form=form))
    assert family.type == "histogram"
    by_bound = {float(s.labels["le"]): s.value for s in family.samples if "le" in s.labels}
    assert by_bound == {
        0.005: 0, 0.01: 1, 0.025: 1, 0.05: 1, 0.1: 1, 0.25: 1, 0.5: 1, 1: 3, 2.5: 3, 5: 3, 10: 3,
        math.inf: 4,
    }  # fmt: skip
    rest = {s.name: s.value for s in family.samples if "le" not in s.labels}
    assert rest == {"a_duration_seconds_sum": 13.25, "a_duration_seconds_count": 4}


PRINTED = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(st.tuples(PRINTED, PRINTED), min_size=1, max_size=5, unique=True))
def test_any_label_value_is_read_back_as_it_was(pairs: list[tuple[str, str]]) -> None:
    family = Counters("a_total", 'Help with "quotes", a \\ and\na second line', ("one", "two"))
    for number, pair in enumerate(pairs, start=1):
        family.add(pair, number)
    for form in FORMS:
        (found,) = READERS[form](text_of(family, form=form))
        read = {(s.labels["one"], s.labels["two"]): s.value for s in found.samples}
        assert read == {pair: number for number, pair in enumerate(pairs, start=1)}
        assert found.documentation == family.help


def test_values_with_nul_are_kept_apart_as_far_as_they_differ() -> None:
    family = Counters("a_total", "A", ("one", "two"))
    for pair in (("x\0", "y"), ("x", "\0y"), ("x", "y"), ("\0x", "\0")):
        family.add(pair, 1)
        family.add(pair, 1)
    (found,) = read_classic(text_of(family))
    assert [(*s.labels.values(), s.value) for s in found.samples] == [
        ("x", "y", 2), ("x", "\ufffdy", 2), ("x\ufffd", "y", 2), ("\ufffdx", "\ufffd", 2),
    ]  # fmt: skip


def test_a_lone_surrogate_does_not_stop_a_scrape() -> None:
    family = Counters("a_total", "A", ("one",))
    family.add(("\udcff",), 1)
    assert text_of(family).endswith('a_total{one="?"} 1\n')


def test_series_come_in_the_order_of_their_values_however_they_arrive() -> None:
    values = [(f"{a}", f"{b}") for a in range(70) for b in range(70)]
    assert len(values) > 2 * STEP
    shuffled = random.Random(7).sample(values, len(values))
    family = Counters("a_total", "A", ("one", "two"))
    for part in (shuffled[:100], shuffled[100:]):  # a scrape in between
        for pair in part:
            family.add(pair, 1)
        (found,) = read_classic(text_of(family))
    assert [tuple(s.labels.values()) for s in found.samples] == sorted(values)


def test_labels_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match="sort them"):
        Counters("a_total", "A", ("two", "one"))


def test_a_series_is_there_from_its_first_event_unless_declared() -> None:
    family = Counters("a_total", "A", ("one",))
    family.slot(("unused",))
    family.declare(("known",))
    assert text_of(family).splitlines()[2:] == ['a_total{one="known"} 0']


def test_a_family_without_series_is_not_there_at_all() -> None:
    assert text_of(Counters("a_total", "A", ("one",))) == ""
    assert text_of(Counters("a_total", "A"), form=Format.OPENMETRICS) == "# EOF\n"


def test_a_family_without_labels_has_no_braces() -> None:
    family = Counters("a_total", "A")
    family.add((), 3)
    assert text_of(family).splitlines()[2:] == ["a_total 3"]


def test_a_total_stays_at_the_largest_number() -> None:
    family = Counters("a_total", "A")
    family.add((), 2**64 - 1)
    family.add((), 5)
    assert text_of(family).splitlines()[2:] == [f"a_total {2**63 - 1}"]


def test_a_scrape_shows_one_moment() -> None:
    family = Counters("a_total", "A", ("one",))
    family.add(("old",), 1)
    chunks = render([family], Format.CLASSIC)
    text = next(chunks)
    family.add(("old",), 1)
    family.add(("new",), 1)
    assert (text + b"".join(chunks)).decode().splitlines()[2:] == ['a_total{one="old"} 1']
    assert text_of(family).splitlines()[2:] == ['a_total{one="new"} 1', 'a_total{one="old"} 2']


def test_a_large_family_is_written_in_chunks() -> None:
    family = Counters("a_total", "A", ("one",))
    for number in range(10 * STEP):
        family.add((f"{number:06}",), 1)
    for _ in range(2):
        sizes = [len(chunk) for chunk in render([family], Format.CLASSIC)]
        assert len(sizes) >= 5
        assert max(sizes) < 100 * STEP


def test_a_chunk_of_a_histogram_is_no_larger_than_that_of_a_counter() -> None:
    family = Histograms("a_duration_seconds", "A", ("one",))
    for n in range(STEP):
        family.observe((f"{n:0200}",), [1, *[0] * 11], 10**6)
    assert max(map(len, render([family], Format.CLASSIC))) < 8 * CHUNK


def test_gzip_is_read_back_by_gzip() -> None:
    text = b"".join(render([histogram()], Format.CLASSIC))
    assert gzip.decompress(b"".join(gzipped(render([histogram()], Format.CLASSIC)))) == text


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.CLASSIC),
        ("*/*", Format.CLASSIC),
        ("text/html, application/xhtml+xml;q=0.9, */*;q=0.8", Format.CLASSIC),
        ("application/json", Format.CLASSIC),
        (
            # Prometheus 2.42
            ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
            "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
            Format.OPENMETRICS,
        ),
        (
            # Prometheus 3
            ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
            "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"),
            Format.OPENMETRICS,
        ),
        # Prometheus that wants native histograms; we have none
        ("application/vnd.google.protobuf;q=0.7,text/plain;q=0.3", Format.CLASSIC),
        ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", Format.CLASSIC),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.8", Format.CLASSIC),
        ("application/openmetrics-text;q=nonsense", Format.CLASSIC),
        ("application/openmetrics-text;q=0", Format.CLASSIC),
    ],
)  # fmt: skip
def test_the_form_is_the_one_the_reader_prefers(accept: str, form: Format) -> None:
    assert negotiate(accept) is form


@pytest.mark.parametrize(
    ("header", "accepted"),
    [("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("gzip;q=0.0", False),
     ("", False), ("identity", False), ("br, GZIP", True)],
)  # fmt: skip
def test_gzip_is_sent_only_to_who_takes_it(header: str, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize("form", FORMS)
def test_a_registry_is_read_back_without_created_series(form: Format) -> None:
    registry = CollectorRegistry()
    Counter("c_total", "C", ("one",), registry=registry).labels('a"\n\\').inc(3)
    Gauge("g", "G", registry=registry).set(1.5e9)
    Histogram("h", "H", buckets=(1, 10), registry=registry).observe(2)
    text = b"".join(render(registry_families(registry), form)).decode()
    read = {(s.name, *s.labels.values()): s.value for f in READERS[form](text) for s in f.samples}
    bounds = ("1", "10") if form is Format.CLASSIC else ("1.0", "10.0")
    assert read == {
        ("c_total", 'a"\n\\'): 3, ("g",): 1.5e9, ("h_bucket", bounds[0]): 0,
        ("h_bucket", bounds[1]): 1, ("h_bucket", "+Inf"): 1, ("h_sum",): 2, ("h_count",): 1,
    }  # fmt: skip


def test_histograms_keep_their_buckets_while_the_family_grows() -> None:
    family = Histograms("a_duration_seconds", "Durations", ("method",))
    for n in range(100):
        family.observe((f"M{n:02}",), [n, *[0] * 10, 1], n * 1_000_000_000)
    (found,) = read_classic(text_of(family))
    first = {s.labels["method"]: s.value for s in found.samples if s.labels.get("le") == "0.005"}
    sums = {s.labels["method"]: s.value for s in found.samples if s.name.endswith("_sum")}
    assert first == sums == {f"M{n:02}": n for n in range(100)}
