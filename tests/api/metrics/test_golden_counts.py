"""Our counts of a recorded stream are those of Hubble's own handlers, line by line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from parsers.framing import PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline
from parsers.world import directory_of
from tests.api.metrics.recorded_flows import batches, flows, new_tables, recorded_batches
from tests.fixtures import release_number, stream_bytes, world

GOLDEN = Path(__file__).parents[2] / "data" / "metrics"


class Golden(NamedTuple):
    """A recording, and the option with which Hubble counted it."""

    release: str
    mix: str
    config: str
    option: str


def recorded() -> list[Golden]:
    return [
        Golden(release, mix, config, option)
        for release, mix in (("v1.19", "all"), ("v1.19", "steady"), ("v1.20", "all"))
        for config, option in json.loads(
            (GOLDEN / release / mix / "configs.json").read_text()
        ).items()
        # What 1.20 knows no more, we still count for older agents.
        if config != "unknown-is-noted"
    ]


RECORDED = recorded()
(EVERY,) = (g for g in RECORDED if g[:3] == ("v1.19", "all", "all-handlers"))
CONTEXTS = [g for g in RECORDED if g.config in ("source-pod", "labels-context", "ingress-egress")]
STEADY = [g for g in RECORDED if g.mix == "steady"]

DIFFERENCES = (
    # Of a release, what Hubble writes, what we do, and why.
    (
        "v1.19",
        "# HELP hubble_dns_responses_total Number of DNS queries observed",
        "# HELP hubble_dns_responses_total Number of DNS responses observed",
        "Hubble corrected the text in 1.20",
    ),
    (
        "v1.19",
        "# HELP hubble_dns_response_types_total Number of DNS queries observed",
        "# HELP hubble_dns_response_types_total Number of DNS response types observed",
        "Hubble corrected the text in 1.20",
    ),
    (
        "v1.19",
        'reason="207"',
        'reason="DROP_FRAG_NOT_FOUND_WORLD"',
        "the reason got its name in 1.20",
    ),
)


def as_ours(release: str, text: str) -> str:
    """Hubble's exposition with the known differences put right."""
    for of, theirs, ours, _ in DIFFERENCES:
        if of == release:
            text = text.replace(theirs, ours)
    return text


def hubble_lines(golden: Golden) -> list[str]:
    path = GOLDEN / golden.release / golden.mix / f"{golden.config}.prom.gz"
    return sorted(as_ours(golden.release, gzip.decompress(path.read_bytes()).decode()).splitlines())


def our_lines(golden: Golden, size: int = 1000) -> list[str]:
    metrics = HubbleMetrics(golden.option)
    for batch in recorded_batches(golden.release, golden.mix, size):
        metrics.count(batch)
    return [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]


def text_of(metrics: HubbleMetrics, form: Format = Format.CLASSIC) -> str:
    metrics.fold()
    return b"".join(render(metrics.families, form)).decode()


def numbers_apart(lines: Iterable[str]) -> tuple[list[str], list[float]]:
    """The lines without the sums of durations, and those sums.

    Hubble adds binary fractions one by one; ours is the exact sum of the nanoseconds.
    """
    lines = list(lines)
    sums = [line.rpartition(" ") for line in lines if "_seconds_sum" in line]
    rest = [line for line in lines if "_seconds_sum" not in line]
    return rest + [name for name, _, _ in sums], [float(number) for _, _, number in sums]


@pytest.mark.parametrize("golden", RECORDED, ids=lambda g: f"{g.release}-{g.mix}-{g.config}")
def test_every_line_is_hubbles(golden: Golden) -> None:
    ours, our_sums = numbers_apart(sorted(our_lines(golden)))
    hubbles, hubble_sums = numbers_apart(hubble_lines(golden))
    assert ours == hubbles
    assert our_sums == pytest.approx(hubble_sums, rel=1e-12)


@pytest.mark.parametrize("golden", [EVERY, CONTEXTS[0]], ids=lambda g: g.config)
def test_lines_come_in_hubbles_order(golden: Golden) -> None:
    path = GOLDEN / golden.release / golden.mix / f"{golden.config}.prom.gz"
    theirs = gzip.decompress(path.read_bytes()).decode().splitlines()
    ours = our_lines(golden)
    both = set(ours) & set(theirs)
    assert len(both) > 600
    assert [line for line in ours if line in both] == [line for line in theirs if line in both]


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("golden", [EVERY, CONTEXTS[0]], ids=lambda g: g.config)
def test_counts_do_not_depend_on_the_size_of_batches(golden: Golden, size: int) -> None:
    ours, _ = numbers_apart(sorted(our_lines(golden, size)))
    assert ours == numbers_apart(hubble_lines(golden))[0]


def test_no_count_is_lost_or_moved_when_class_rows_are_reclaimed() -> None:
    golden = EVERY
    metrics, tables = HubbleMetrics(golden.option), new_tables()
    freed = 0
    for batch in batches(tables, flows(golden.release, golden.mix), 50):
        metrics.count(batch)
        in_use = np.zeros(tables.classes.capacity, dtype=np.bool_)
        metrics.forget(np.flatnonzero(~in_use))
        freed += tables.classes.reclaim(in_use)
    lines = [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]
    assert freed > 500
    assert numbers_apart(sorted(lines))[0] == numbers_apart(hubble_lines(golden))[0]


def test_batches_of_several_pipelines_are_told_apart() -> None:
    golden = EVERY
    metrics, events = HubbleMetrics(golden.option), flows(golden.release, golden.mix)
    for start in range(0, len(events), 500):  # the rows of each mean something else
        for batch in batches(new_tables(), events[start : start + 500]):
            metrics.count(batch)
    lines = [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]
    assert numbers_apart(sorted(lines))[0] == numbers_apart(hubble_lines(golden))[0]


@pytest.mark.parametrize("golden", STEADY, ids=lambda g: g.config)
def test_counts_of_the_parsed_stream_are_hubbles_too(golden: Golden) -> None:
    pipeline = MonitorPipeline(
        new_tables(),
        directory_of(world(golden.release)),
        Ledger(),
        release=release_number(golden.release),
    )
    stream, metrics = PayloadStream(), HubbleMetrics(golden.option)
    pipeline.label_queries(wanted=metrics.wants_queries)
    stream.feed(stream_bytes(golden.release, golden.mix))
    while (payloads := stream.take()) is not None:
        metrics.count(pipeline.parse(payloads, lambda n: n.astype(np.int64)).flows)
    lines = [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]
    ours, our_sums = numbers_apart(sorted(lines))
    hubbles, hubble_sums = numbers_apart(hubble_lines(golden))
    assert ours == hubbles
    assert our_sums == pytest.approx(hubble_sums, rel=1e-12)
