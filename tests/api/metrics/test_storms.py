"""Many new labels at once: nothing is lost, and what waits for a scrape is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np

from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from parsers.flow_batch import FLOW_CLASS, L4_ICMPV4, FlowBatch
from tests.api.metrics.readers import read_classic
from tests.api.metrics.recorded_flows import batch_of, batches, new_tables


def totals(metrics: HubbleMetrics) -> dict[str, float]:
    metrics.fold()
    text = b"".join(render(metrics.families, Format.CLASSIC)).decode()
    return {
        family.name: sum(s.value for s in family.samples if not s.name.endswith("_bucket"))
        for family in read_classic(text)
    }


def test_a_port_scan_is_counted_port_by_port() -> None:
    tables = new_tables()
    probe: dict[str, Any] = {
        "event_type": {"type": 4}, "verdict": "FORWARDED", "is_reply": False,
        "IP": {"ipVersion": "IPv4"},
    }  # fmt: skip
    scan = [
        {**probe, "l4": {"TCP": {"destination_port": port, "flags": {"SYN": True}}}}
        for port in range(0, 1 << 16, 8)
    ]
    metrics = HubbleMetrics(("port-distribution", "tcp"))
    for found in batches(tables, scan * 2):
        metrics.count(found)
    assert totals(metrics) == {
        "hubble_lost_events": 0,
        "hubble_port_distribution": 2 * len(scan),
        "hubble_tcp_flags": 2 * len(scan),
    }
    assert metrics.statistics().series == 2 + len(scan) + 1
    assert metrics.statistics().classes == 1


def test_pings_of_every_type_and_code_take_no_room_for_ever() -> None:
    tables = new_tables()
    row = np.zeros(1 << 16, dtype=FLOW_CLASS)
    row["event_type"], row["verdict"], row["ip_version"], row["l4"] = 4, 1, 1, L4_ICMPV4
    numbers = np.arange(1 << 16)
    row["l4_type"], row["l4_code"] = np.divmod(numbers, 256)
    zeros = np.zeros(len(numbers), dtype=np.uint32)
    pings = FlowBatch(
        tables,
        time=numbers,
        sequence=numbers.astype(np.uint64),
        flow_class=tables.classes.lookup(row)[0],
        conversation=zeros,
        source_port=zeros.astype(np.uint16),
        destination_port=zeros.astype(np.uint16),
        detail=zeros,
    )
    metrics = HubbleMetrics(("icmp", "flow"))
    for start in range(0, len(numbers), 1000):
        metrics.count(pings.select(numbers[start : start + 1000]))
    assert len(numbers) == totals(metrics)["hubble_icmp"]
    assert len(numbers) == totals(metrics)["hubble_flows_processed"]
    assert metrics.statistics().classes < len(numbers) // 3


def test_requests_with_ever_new_methods_are_all_counted() -> None:
    tables = new_tables()
    requests = [
        {
            "event_type": {"type": 129}, "verdict": "FORWARDED", "traffic_direction": "INGRESS",
            "l4": {"TCP": {}}, "l7": {"type": "REQUEST", "http": {"method": f"M{n}"}},
        }
        for n in range(3000)
    ]  # fmt: skip
    metrics = HubbleMetrics(("http",))
    for found in batches(tables, requests):
        metrics.count(found)
    l7_records = metrics._groups[0]._handlers[0]
    assert len(l7_records._tallies) < 2048  # type: ignore[attr-defined]
    assert totals(metrics)["hubble_http_requests"] == 3000
    assert not l7_records._tallies  # type: ignore[attr-defined]


def test_a_batch_without_flows_changes_nothing() -> None:
    metrics = HubbleMetrics()
    metrics.count(batch_of([], new_tables()))
    assert totals(metrics) == {"hubble_lost_events": 0}
