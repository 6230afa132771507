"""Our counts of a recorded stream are those of Hubble's own handlers, line by line."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from api.metrics.exposition import Format, render
from api.metrics.hubble import DEFAULT_HANDLERS, HubbleMetrics
from parsers.framing import PayloadStream
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline
from parsers.world import directory_of
from tests.api.metrics.recorded_flows import batches, flows, new_tables
from tests.fixtures import release_number, stream_bytes, world

GOLDEN = Path(__file__).parents[2] / "data" / "metrics"


class Golden(NamedTuple):
    """A recording and the handlers whose counts of it Hubble printed."""

    release: str
    mix: str
    config: str
    handlers: tuple[str, ...]


# The "all" recordings of Hubble have DNS series with a query label; "default" has them without.
EVERY = ("drop", "tcp", "flow", "port-distribution", "icmp", "httpV2", "policy", "flows-to-world")
RECORDED = [
    Golden("v1.19", "all", "default", DEFAULT_HANDLERS),
    Golden("v1.19", "all", "all-handlers", (*EVERY, "kafka")),
    Golden("v1.19", "steady", "default", DEFAULT_HANDLERS),
    Golden("v1.19", "steady", "all-handlers", (*EVERY, "kafka")),
    Golden("v1.20", "all", "default", DEFAULT_HANDLERS),
    Golden("v1.20", "all", "all-handlers", (*EVERY, "sctp")),
]

DIFFERENCES = {
    # A line of Hubble's: ours, and why. Each stands for one release.
    ("v1.19", "# HELP hubble_dns_responses_total Number of DNS queries observed"): (
        "# HELP hubble_dns_responses_total Number of DNS responses observed",
        "Hubble corrected the text in 1.20",
    ),
    ("v1.19", "# HELP hubble_dns_response_types_total Number of DNS queries observed"): (
        "# HELP hubble_dns_response_types_total Number of DNS response types observed",
        "Hubble corrected the text in 1.20",
    ),
    ("v1.19", 'hubble_drop_total{protocol="TCP",reason="207"} 1'): (
        'hubble_drop_total{protocol="TCP",reason="DROP_FRAG_NOT_FOUND_WORLD"} 1',
        "the reason got its name in 1.20",
    ),
}


def hubble_lines(golden: Golden) -> list[str]:
    path = GOLDEN / golden.release / golden.mix / f"{golden.config}.prom.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return sorted(
        DIFFERENCES.get((golden.release, line), (line, ""))[0]
        for line in lines
        if "dns" in golden.handlers or "hubble_dns_" not in line
    )


def our_lines(golden: Golden, size: int = 1000) -> list[str]:
    metrics, tables = HubbleMetrics(golden.handlers), new_tables()
    for batch in batches(tables, flows(golden.release, golden.mix), size):
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


@pytest.mark.parametrize("golden", RECORDED[1:2], ids=["v1.19-all"])
def test_lines_come_in_hubbles_order(golden: Golden) -> None:
    path = GOLDEN / golden.release / golden.mix / f"{golden.config}.prom.gz"
    theirs = gzip.decompress(path.read_bytes()).decode().splitlines()
    ours = our_lines(golden)
    both = set(ours) & set(theirs)
    assert len(both) > 600
    assert [line for line in ours if line in both] == [line for line in theirs if line in both]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_counts_do_not_depend_on_the_size_of_batches(size: int) -> None:
    ours, _ = numbers_apart(sorted(our_lines(RECORDED[1], size)))
    assert ours == numbers_apart(hubble_lines(RECORDED[1]))[0]


def test_no_count_is_lost_or_moved_when_class_rows_are_reclaimed() -> None:
    golden = RECORDED[1]
    metrics, tables = HubbleMetrics(golden.handlers), new_tables()
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
    golden = RECORDED[1]
    metrics, events = HubbleMetrics(golden.handlers), flows(golden.release, golden.mix)
    for start in range(0, len(events), 500):  # the rows of each mean something else
        for batch in batches(new_tables(), events[start : start + 500]):
            metrics.count(batch)
    lines = [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]
    assert numbers_apart(sorted(lines))[0] == numbers_apart(hubble_lines(golden))[0]


@pytest.mark.parametrize("golden", RECORDED[2:4], ids=lambda g: g.config)
def test_counts_of_the_parsed_stream_are_hubbles_too(golden: Golden) -> None:
    pipeline = MonitorPipeline(
        new_tables(),
        directory_of(world(golden.release)),
        Ledger(),
        release=release_number(golden.release),
    )
    stream, metrics = PayloadStream(), HubbleMetrics(golden.handlers)
    stream.feed(stream_bytes(golden.release, golden.mix))
    while (payloads := stream.take()) is not None:
        metrics.count(pipeline.parse(payloads, lambda n: n.astype(np.int64)).flows)
    lines = [line for line in text_of(metrics).splitlines() if "hubble_lost_events" not in line]
    ours, our_sums = numbers_apart(sorted(lines))
    hubbles, hubble_sums = numbers_apart(hubble_lines(golden))
    assert ours == hubbles
    assert our_sums == pytest.approx(hubble_sums, rel=1e-12)
