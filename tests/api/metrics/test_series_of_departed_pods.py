"""A pod's series go a minute after it did, and what they counted is not lost."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from api.metrics.departed import DELAY, DepartedPods
from api.metrics.exposition import Format, render
from api.metrics.family import STEP, Counters, Histograms
from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from parsers.agent_events import AgentEvent, EndpointUpdate, IpcacheUpdate
from parsers.flow_batch import FlowTables
from parsers.pipeline import AgentRecord
from tests.api.metrics.readers import read_classic
from tests.api.metrics.recorded_flows import batch_of, new_tables

PODS = ("cart-0", "cart-1", "cart-2")


def flow(source: str, destination: str, **more: Any) -> dict[str, Any]:
    def side(pod: str) -> dict[str, Any]:
        return {"namespace": "shop", "pod_name": pod, "workloads": [{"name": pod, "kind": "Pod"}]}

    return {
        "event_type": {"type": 4}, "verdict": "FORWARDED", "is_reply": False,
        "IP": {"ipVersion": "IPv4"}, "l4": {"TCP": {"destination_port": 80}},
        "source": side(source), "destination": side(destination), **more,
    }  # fmt: skip


def counted(option: str) -> tuple[HubbleMetrics, FlowTables]:
    metrics, tables = HubbleMetrics(option), new_tables()
    metrics.count(batch_of([flow(a, b) for a in PODS for b in PODS], tables))
    return metrics, tables


def series(metrics: HubbleMetrics) -> dict[tuple[str, ...], float]:
    metrics.fold()
    text = b"".join(render(metrics.families, Format.CLASSIC)).decode()
    return {
        tuple(v for k, v in s.labels.items() if "source" in k or "destination" in k): s.value
        for f in read_classic(text)
        for s in f.samples
        if "lost" not in s.name
    }


def told(kind: int, pod: str) -> AgentRecord:
    if kind in (flow_pb2.ENDPOINT_CREATED, flow_pb2.ENDPOINT_DELETED):
        return AgentRecord(0, 0, AgentEvent(kind, EndpointUpdate(7, (), "", pod, "shop")))
    update = IpcacheUpdate("10.0.2.9/32", 7, None, "", "", 0, "shop", pod)
    return AgentRecord(0, 0, AgentEvent(kind, update))


def sweep(departed: DepartedPods, now: float) -> None:
    for _ in departed.sweep(now):
        pass


@pytest.mark.parametrize(
    ("option", "left"),
    [
        ("flow:sourceContext=pod", {("shop/cart-0",), ("shop/cart-2",)}),
        ("flow:destinationIngressContext=dns;destinationContext=ip|pod",
         {("shop/cart-0",), ("shop/cart-2",)}),
        ("flow:labelsContext=source_namespace,source_pod",
         {("shop", "cart-0"), ("shop", "cart-2")}),
        ("port-distribution:sourceContext=pod", {("shop/cart-0",), ("shop/cart-2",)}),
        # As in Hubble: what does not name a pod beyond doubt, stays.
        ("flow:sourceContext=workload", {("shop/cart-0",), ("shop/cart-1",), ("shop/cart-2",)}),
        ("flow:labelsContext=source_pod", {("cart-0",), ("cart-1",), ("cart-2",)}),
    ],
)  # fmt: skip
def test_series_that_name_the_pod_go(option: str, left: set[tuple[str, ...]]) -> None:
    metrics, _ = counted(option)
    departed = DepartedPods(metrics)
    departed.observe(told(flow_pb2.ENDPOINT_DELETED, "cart-1"), 100.0)
    sweep(departed, 100.0 + DELAY - 1)
    assert 3 == len(series(metrics))
    sweep(departed, 100.0 + DELAY)
    assert left == series(metrics).keys()


def test_what_was_counted_is_live_or_expired() -> None:
    metrics, tables = counted("flow:sourceContext=pod;destinationContext=pod tcp:sourceContext=pod")
    departed = DepartedPods(metrics)
    departed.observe(told(flow_pb2.ENDPOINT_DELETED, "cart-1"), 0.0)
    sweep(departed, DELAY)
    (family,) = (f for f in metrics.families if f.name == "hubble_flows_processed_total")
    assert 5 == family.expired
    assert 4 == len(series(metrics))
    # Late flows of the pod count again, from zero, and the others where they were.
    metrics.count(batch_of([flow(a, b) for a in PODS for b in PODS], tables))
    found = series(metrics)
    assert 1 == found["shop/cart-1", "shop/cart-0"] or 1 == found["shop/cart-0", "shop/cart-1"]
    assert 2 == found["shop/cart-0", "shop/cart-0"]
    assert 18 == sum(found.values()) + family.expired


def test_series_that_stay_are_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, tables = counted("flow:sourceContext=pod;destinationContext=pod")
    for _ in metrics.remove_pods([("shop", "cart-1")]):
        pass
    looked_up: list[tuple[str, ...]] = []
    slot = Counters.slot

    def noting(self: Counters, values: tuple[str, ...], context: tuple[str, ...] = ()) -> int:
        looked_up.append(context)
        return slot(self, values, context)

    monkeypatch.setattr(Counters, "slot", noting)
    metrics.count(batch_of([flow(a, b) for a in PODS for b in PODS], tables))
    assert 9 == len(series(metrics))
    assert 5 == len(looked_up)
    assert all("shop/cart-1" in context for context in looked_up)


@pytest.mark.parametrize(
    ("gone", "here"),
    [
        (flow_pb2.ENDPOINT_DELETED, flow_pb2.ENDPOINT_CREATED),
        (flow_pb2.IPCACHE_DELETED, flow_pb2.IPCACHE_UPSERTED),  # on another node
    ],
)
def test_a_pod_that_came_back_keeps_its_series(gone: int, here: int) -> None:
    metrics, _ = counted("flow:sourceContext=pod")
    departed = DepartedPods(metrics)
    departed.observe(told(gone, "cart-1"), 0.0)
    departed.observe(told(gone, "cart-2"), 0.0)
    departed.observe(told(here, "cart-1"), 30.0)
    sweep(departed, DELAY)
    assert {("shop/cart-0",), ("shop/cart-1",)} == series(metrics).keys()


def test_histograms_keep_the_numbers_of_the_series_that_stay() -> None:
    metrics, tables = HubbleMetrics("httpV2:sourceContext=pod;destinationContext=pod"), new_tables()
    http = {"type": "RESPONSE", "http": {"method": "GET", "code": 200, "protocol": "HTTP/1.1"}}
    answers = [
        flow(
            "client", pod, Type="L7", event_type={"type": 129},
            l7={**http, "latency_ns": str(10**9 * (n + 1))},
        )
        for n, pod in enumerate(PODS)
    ]  # fmt: skip
    metrics.count(batch_of(answers, tables))
    departed = DepartedPods(metrics)
    departed.observe(told(flow_pb2.ENDPOINT_DELETED, "cart-0"), 0.0)
    sweep(departed, DELAY)
    text = b"".join(render(metrics.families, Format.CLASSIC)).decode()
    sums = {
        s.labels["source"]: s.value
        for f in read_classic(text)
        for s in f.samples
        if s.name == "hubble_http_request_duration_seconds_sum"
    }
    assert {"shop/cart-1": 2.0, "shop/cart-2": 3.0} == sums


def test_an_address_that_is_gone_takes_the_pods_of_other_nodes_with_it() -> None:
    metrics, _ = counted("flow:sourceContext=pod")
    departed = DepartedPods(metrics)
    gone = IpcacheUpdate("10.0.0.1/32", 7, None, "", "", 0, "shop", "cart-1")
    departed.observe(AgentRecord(0, 0, AgentEvent(flow_pb2.IPCACHE_DELETED, gone)), 0.0)
    sweep(departed, DELAY)
    assert {("shop/cart-0",), ("shop/cart-2",)} == series(metrics).keys()


def expire(metrics: HubbleMetrics, now: float, idle: float) -> None:
    for _ in metrics.expire(now, idle):
        pass


def test_series_that_count_nothing_for_long_go_and_begin_anew() -> None:
    metrics, tables = counted("flow:sourceContext=pod tcp drop:sourceContext=pod")
    expire(metrics, 0.0, 100.0)
    metrics.count(batch_of([flow("cart-0", "cart-1")], tables))
    expire(metrics, 50.0, 100.0)
    assert 3 == len(series(metrics))
    expire(metrics, 100.0, 100.0)
    assert {("shop/cart-0",): 4} == series(metrics)
    metrics.count(batch_of([flow("cart-2", "cart-1")], tables))
    assert {("shop/cart-0",): 4, ("shop/cart-2",): 1} == series(metrics)
    expire(metrics, 150.0, 100.0)
    assert {("shop/cart-2",): 1} == series(metrics)
    (family,) = (f for f in metrics.families if f.name == "hubble_flows_processed_total")
    assert 10 == family.expired


def test_what_folded_is_never_taken_back() -> None:
    metrics, tables = HubbleMetrics("flow:sourceContext=pod", series=1), new_tables()
    metrics.count(batch_of([flow(pod, "cart-0") for pod in PODS], tables))
    expire(metrics, 0.0, 100.0)
    assert 2 == metrics.statistics().folded
    expire(metrics, 100.0, 100.0)
    assert {("other",): 2} == series(metrics)
    assert 2 == metrics.statistics().folded


def test_a_metric_with_few_series_keeps_them() -> None:
    metrics, _ = counted("flow")
    expire(metrics, 0.0, 100.0)
    expire(metrics, 1000.0, 100.0)
    assert 9 == sum(series(metrics).values())


@pytest.mark.parametrize("was_scraped", [False, True])
@pytest.mark.parametrize("written", [0, 1, 2, 4, 6])
def test_a_scrape_that_is_being_written_sees_nothing_of_it(written: int, was_scraped: bool) -> None:
    pods = {f"pod-{n:05}": n + 1.0 for n in range(2 * STEP)}
    counters = Counters("b_total", "B", ("pod",))
    histograms = Histograms("a_seconds", "A", ("pod",))
    for pod, number in pods.items():
        counters.add((pod,), int(number))
        histograms.observe((pod,), [int(number), *[0] * 11], int(number) * 10**9)
    families = (counters, histograms)
    if was_scraped:
        list(render(families, Format.CLASSIC))
    scrape = render(families, Format.CLASSIC)
    chunks = list(islice(scrape, written))
    for family in families:
        for _ in family.remove(lambda values: values[0] < "pod-00100"):
            pass
    counters.add(("new",), 5)  # takes the slot of another
    histograms.observe(("new",), [5, *[0] * 11], 5 * 10**9)
    found = list(read_classic(b"".join((*chunks, *scrape)).decode()))
    told = {
        name: {s.labels["pod"]: s.value for f in found for s in f.samples if s.name == name}
        for name in ("b_total", "a_seconds_count", "a_seconds_sum")
    }
    assert {"b_total", "a_seconds_count", "a_seconds_sum"} == told.keys()
    for series in told.values():
        assert pods.keys() - {f"pod-{n:05}" for n in range(100)} <= series.keys()
        assert all(value == pods.get(pod, 5) for pod, value in series.items())
