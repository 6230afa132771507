"""Metrics configured by a file: a change counts at once, a fault leaves all as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing

from api.hubble.node import LocalNode
from api.metrics.hubble import HubbleMetrics
from api.metrics.options import HandlerSpec, read_handlers
from bridge.config import ConfigError, parse_config
from bridge.metrics_file import INTERVAL, follow_metrics_file
from parsers.errors import UsageError
from tests.api.metrics.recorded_flows import batch_of, new_tables

FLOW = {
    "event_type": {"type": 4}, "verdict": "FORWARDED", "is_reply": False,
    "IP": {"ipVersion": "IPv4"}, "l4": {"TCP": {"destination_port": 80, "flags": {"SYN": True}}},
    "source": {"namespace": "shop", "pod_name": "cart-0"},
}  # fmt: skip


def write(path: Path, *metrics: object) -> None:
    whole = path.with_suffix(".new")  # so that nobody reads the half of it
    whole.write_text(json.dumps({"metrics": metrics}))
    whole.replace(path)


def totals(metrics: HubbleMetrics) -> dict[str, int]:
    metrics.fold()
    return {f.name: int(f.totals.sum()) for f in metrics.families if "lost" not in f.name}


async def test_what_stays_keeps_its_counts_and_what_goes_is_gone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path, metrics, tables = tmp_path / "metrics.yaml", HubbleMetrics(()), new_tables()
    applied: list[tuple[HandlerSpec, ...]] = []

    def apply(specs: tuple[HandlerSpec, ...]) -> None:
        metrics.configure(specs)
        applied.append(specs)

    async def times(count: int) -> None:
        # The file is read in a thread, for which the clock of the test does not wait.
        while len(applied) < count:
            await trio.sleep(INTERVAL)

    write(path, {"name": "tcp"}, {"name": "flow"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_metrics_file, path, apply, lambda: None)
        await times(1)
        metrics.count(batch_of([FLOW] * 3, tables))
        assert {"hubble_tcp_flags_total": 3, "hubble_flows_processed_total": 3} == totals(metrics)
        await trio.sleep(3 * INTERVAL)
        assert 1 == len(applied)
        shop = {"includeFilters": [{"source_pod": ["shop/"]}]}
        other = {"excludeFilters": [{"source_pod": ["shop/"]}]}
        write(path, {"name": "tcp"}, {"name": "drop"}, {"name": "port-distribution", **shop},
              {"name": "flow", **other})  # fmt: skip
        await times(2)
        metrics.count(batch_of([FLOW] * 4, tables))
        assert {
            "hubble_tcp_flags_total": 7,
            "hubble_drop_total": 0,
            "hubble_port_distribution_total": 4,
            "hubble_flows_processed_total": 3,  # filters may change, as in Hubble
        } == totals(metrics)
        nursery.cancel_scope.cancel()


def test_filters_know_the_node_by_its_newest_name() -> None:
    here = {"name": "flow", "includeFilters": [{"node_name": ["node-a"]}]}
    metrics, tables = HubbleMetrics(read_handlers({"metrics": [here]})), new_tables()
    metrics.count(batch_of([FLOW] * 3, tables))
    assert {"hubble_flows_processed_total": 0} == totals(metrics)
    metrics.move_to(LocalNode("node-a"))
    metrics.count(batch_of([FLOW] * 4, tables))
    assert {"hubble_flows_processed_total": 4} == totals(metrics)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("metrics: [{name: x}]", "metrics[0]: no metric handler is called x"),
        ("metrics: [", "is no YAML"),
        ("\xff", "is no YAML"),
        (None, "cannot read"),
    ],
)
async def test_a_wrong_file_says_what_and_changes_nothing(
    tmp_path: Path, content: str | None, told: str
) -> None:
    path = tmp_path / "metrics.yaml"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    applied: list[tuple[HandlerSpec, ...]] = []
    with pytest.raises(UsageError) as refused:
        await follow_metrics_file(path, applied.append, lambda: None)
    assert str(path) in str(refused.value)
    assert told in str(refused.value)
    assert str(refused.value).endswith("(metrics.hubble.dynamic)")
    assert not applied


def test_only_one_of_list_and_file_says_what_is_counted() -> None:
    both = {"enabled": ["tcp"], "dynamic": "/etc/metrics.yaml"}
    with pytest.raises(ConfigError) as refused:
        parse_config({"metrics": {"hubble": both}}, {})
    assert "enabled and dynamic" in str(refused.value)
    parse_config({"metrics": {"hubble": {"dynamic": "/etc/metrics.yaml"}}}, {})
