"""However many label values come, series stay few, and their sums stay true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from tests.api.metrics.readers import read_classic
from tests.api.metrics.recorded_flows import batch_of, batches, new_tables

BUDGET = 1000
ROOT = Path(__file__).parents[3]
FLOWS = "hubble_flows_processed"


def request(pod: int, **more: Any) -> dict[str, Any]:
    """A forwarded packet of some pod's."""
    return {
        "event_type": {"type": 4}, "verdict": "FORWARDED", "is_reply": False,
        "IP": {"ipVersion": "IPv4"}, "l4": {"TCP": {"destination_port": 80}},
        "source": {"namespace": "jobs", "pod_name": f"job-{pod}"}, **more,
    }  # fmt: skip


def totals(metrics: HubbleMetrics, family: str) -> dict[tuple[str, ...], float]:
    metrics.fold()
    text = b"".join(render(metrics.families, Format.CLASSIC)).decode()
    (found,) = (f for f in read_classic(text) if f.name == family)
    return {tuple(s.labels.values()): s.value for s in found.samples}


def test_newcomers_fold_and_who_was_admitted_stays() -> None:
    metrics, tables = HubbleMetrics("flow:sourceContext=pod", series=3), new_tables()
    metrics.count(batch_of([request(n) for n in range(3)], tables))
    before = totals(metrics, FLOWS)
    metrics.count(batch_of([request(n) for n in range(10)], tables))
    after = totals(metrics, FLOWS)
    series = {values[1]: number for values, number in after.items()}
    assert {"jobs/job-0": 2, "jobs/job-1": 2, "jobs/job-2": 2, "other": 7} == series
    assert all(after[values] >= number for values, number in before.items())
    assert 7 == metrics.statistics().folded


def test_a_pod_that_goes_makes_room_for_one_that_folded() -> None:
    metrics, tables = HubbleMetrics("flow:sourceContext=pod", series=3), new_tables()
    for batch in batches(tables, [request(n) for n in range(4)], 1):
        metrics.count(batch)
    for _ in metrics.remove_pods([("jobs", "job-1")]):
        pass
    metrics.count(batch_of([request(n) for n in (0, 2, 3)], tables))
    series = {values[1]: number for values, number in totals(metrics, FLOWS).items()}
    assert {"jobs/job-0": 2, "jobs/job-2": 2, "other": 1, "jobs/job-3": 1} == series


def test_labels_with_few_values_are_kept_by_folded_series() -> None:
    metrics, tables = HubbleMetrics("flow:sourceContext=pod", series=1), new_tables()
    flows = [request(0), request(1), request(2, verdict="DROPPED", drop_reason=133)]
    metrics.count(batch_of(flows, tables))
    verdicts = {values[1:]: number for values, number in totals(metrics, FLOWS).items()}
    assert {
        ("jobs/job-0", "to-endpoint", "Trace", "FORWARDED"): 1,
        ("other", "to-endpoint", "Trace", "FORWARDED"): 1,
        ("other", "to-endpoint", "Trace", "DROPPED"): 1,
    } == verdicts


def test_a_metric_without_open_labels_has_no_need_to_fold() -> None:
    metrics = HubbleMetrics("flow", series=1)
    flows = [request(0), request(1, verdict="DROPPED", drop_reason=133)]
    metrics.count(batch_of(flows, new_tables()))
    assert 2 == len(totals(metrics, FLOWS))
    assert 0 == metrics.statistics().folded


def test_a_storm_of_tuples_takes_no_more_memory_than_a_tenth_of_it() -> None:
    flows = 1_000_000 if os.environ.get("CI") == "true" else 200_000
    # In a process of its own, tuned as the agent's is.
    command = [
        sys.executable, "-m", "tests.api.metrics.storm_of_tuples", str(flows), str(BUDGET),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, timeout=500)
    told = json.loads(done.stdout)
    assert [[flows // 10 * (n + 1)] * 3 for n in range(10)] == told["sums"]
    assert max(told["series"]) <= BUDGET + 2
    assert 3 * (flows - BUDGET) == told["folded"]
    # And so a scrape has as much to write at the end as after a tenth.
    assert max(told["scrape_bytes"]) < 1.05 * told["scrape_bytes"][0]
    assert max(told["resident"]) < told["resident"][0] + (24 << 20)
