"""The agent's own metrics tell the ledger's truth, and ``promtool`` has nothing to say."""

from __future__ import annotations

import subprocess

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry, Histogram

from api.metrics.agent import AgentMetrics, watch_loop_lag
from api.metrics.exposition import Format, registry_families, render
from api.metrics.hubble import DEFAULT_HANDLERS, HubbleMetrics
from api.metrics.scrapes import ScrapeCounts
from parsers.errors import UsageError
from parsers.ledger import NOT_OBSERVABLE, STAGES, Ledger
from tests.api.hubble.probe_flows import as_probes_tell
from tests.api.metrics.readers import read_openmetrics
from tests.api.metrics.recorded_flows import batches, flows, new_tables, recorded_batches
from tests.api.metrics.test_golden_counts import RECORDED
from tests.programs import program


def scrape(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    text = b"".join(render(registry_families(registry), Format.OPENMETRICS)).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in read_openmetrics(text)
        for sample in family.samples
    }


def test_the_ledger_is_told_by_stage_and_reason() -> None:
    registry, ledger = CollectorRegistry(), Ledger()
    AgentMetrics(registry, ledger, "1.2.3")
    ledger.book("parser", incoming=10, outgoing=6)
    ledger.book_lost("parser", "decode", 3)
    ledger.stages["parser"].waiting = 1
    read = scrape(registry)
    assert read["ciliary_events_received_total", "parser"] == 10
    assert read["ciliary_events_passed_total", "parser"] == 6
    assert read["ciliary_events_waiting", "parser"] == 1
    assert read["ciliary_events_lost_total", "parser", "decode"] == 3
    assert {read["ciliary_events_unexplained", stage] for stage in STAGES} == {0}
    ledger.chained = True
    ledger.book_kinds("parser", flows=4, agent=1)
    ledger.book("history", incoming=3)
    told = scrape(registry)
    assert told["ciliary_events_parsed_total", "agent"] == 1
    assert told["ciliary_events_unexplained_between_stages", "parser", "history"] == 1
    ledger.book("parser", incoming=5)
    ledger.book("parser", incoming=2)
    assert scrape(registry)["ciliary_events_unexplained", "parser"] == 2


def test_what_nobody_can_know_is_said_and_is_no_zero() -> None:
    registry, ledger = CollectorRegistry(), Ledger()
    AgentMetrics(registry, ledger, "1.2.3")
    before = scrape(registry)
    assert {before["ciliary_loss_not_observable", *pair] for pair in NOT_OBSERVABLE} == {1}
    name = "ciliary_loss_not_observable_occasions_total"
    assert not [key for key in before if key[0] == name]
    ledger.book_unobservable("socket", "gap")
    assert scrape(registry)[name, "socket", "gap"] == 1


def test_gauges_ask_the_part_that_knows() -> None:
    registry = CollectorRegistry()
    agent = AgentMetrics(registry, Ledger(), "1.2.3")
    followers = [object()]
    agent.followers.set_function(lambda: len(followers))
    followers.append(object())
    agent.source_connected.labels("cilium").set(1)
    read = scrape(registry)
    assert read["ciliary_followers",] == 2
    assert read["ciliary_source_connected", "cilium"] == 1
    assert read["ciliary_process_resident_memory_bytes",] > 1 << 20


def test_two_agents_do_not_share_a_registry() -> None:
    for _ in range(2):
        AgentMetrics(CollectorRegistry(), Ledger(), "1.2.3")


async def test_loop_lag_is_how_late_a_sleeper_wakes(autojump_clock: trio.testing.MockClock) -> None:
    registry = CollectorRegistry()
    lag = Histogram("lag", "Lag", buckets=(0.01, 0.1), registry=registry)
    with trio.move_on_after(1.05):
        await watch_loop_lag(lag)
    read = scrape(registry)
    assert read["lag_count",] == 10
    assert read["lag_bucket", "0.01"] == 10


@pytest.mark.parametrize(
    "option",
    sorted({" ".join(DEFAULT_HANDLERS), *(golden.option for golden in RECORDED)}),
)
def test_promtool_has_nothing_to_say(option: str) -> None:
    promtool = program("promtool", "prometheus")
    metrics = HubbleMetrics(option)
    for batch in recorded_batches("v1.19", "all"):
        metrics.count(batch)
    metrics.fold()
    metrics.count_lost("perf_event_ring_buffer", 2)
    registry, ledger = CollectorRegistry(), Ledger()
    agent = AgentMetrics(registry, ledger, "1.2.3")
    agent.source_connected.labels("cilium").set(1)
    agent.source_connects.labels("cilium").inc()
    ledger.book_lost("parser", "decode", 1)
    ledger.book_unobservable("socket", "gap")
    scrapes = ScrapeCounts()
    scrapes.observe("/metrics", 200, 0.02)
    families = [*metrics.families, *scrapes.families, *registry_families(registry)]
    text = b"".join(render(families, Format.CLASSIC))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (done.stdout + done.stderr).decode() == ""
    assert done.returncode == 0


def test_openmetrics_readers_take_every_family() -> None:
    tables = new_tables()
    metrics = HubbleMetrics(reasons=tables.reasons)
    for batch in batches(tables, flows("v1.19", "all")):
        metrics.count(as_probes_tell(batch))
    metrics.fold()
    text = b"".join(render(metrics.families, Format.OPENMETRICS)).decode()
    read = {family.name: family for family in read_openmetrics(text)}
    assert {name for name, family in read.items() if family.type == "counter"} == {
        family.name.removesuffix("_total")
        for family in metrics.families
        if family.kind == "counter"
    }
    # Every flow of the recording is one event.
    assert sum(s.value for s in read["hubble_flows_processed"].samples) == len(
        flows("v1.19", "all")
    )


def test_lost_events_are_counted_by_source_and_shown_from_the_start() -> None:
    metrics = HubbleMetrics(())

    def lost() -> list[str]:
        text = b"".join(render(metrics.families, Format.CLASSIC)).decode()
        return [line for line in text.splitlines() if not line.startswith("#")]

    # The sources that a running Hubble shows before anything was lost.
    assert lost() == [
        'hubble_lost_events_total{source="observer_events_queue"} 0',
        'hubble_lost_events_total{source="perf_event_ring_buffer"} 0',
    ]
    metrics.count_lost("hubble_ring_buffer", 7)
    assert lost()[0] == 'hubble_lost_events_total{source="hubble_ring_buffer"} 7'
    with pytest.raises(UsageError, match="not at socket"):
        metrics.count_lost("socket", 1)


@pytest.mark.parametrize(
    ("handlers", "complaint"),
    [(["flows"], "no metric handler is called flows; there are dns, drop"),
     (["http", "httpV2"], "take one")],
)  # fmt: skip
def test_wrong_handlers_are_refused_with_the_remedy(handlers: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        HubbleMetrics(handlers)


def test_only_scrapes_are_counted_as_scrapes() -> None:
    scrapes = ScrapeCounts()
    for path, status in (("/metrics", 200), ("/metrics", 200), ("/healthz", 200), ("", 400)):
        scrapes.observe(path, status, 0.2)
    text = b"".join(render(scrapes.families, Format.CLASSIC)).decode().splitlines()
    assert 'hubble_metrics_http_handler_requests_total{code="200"} 2' in text
    name = "hubble_metrics_http_handler_request_duration_seconds"
    assert f'{name}_bucket{{code="200",le="0.1"}} 0' in text
    assert f'{name}_bucket{{code="200",le="0.25"}} 2' in text
    assert not [line for line in text if 'code="400"' in line]
