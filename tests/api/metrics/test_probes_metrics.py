"""What flows of own probes add to the metrics."""

from __future__ import annotations

from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from tests.api.hubble.from_json import batch_of, flows_of, new_tables
from tests.api.hubble.probe_flows import DROPPED, as_probes_tell, probe_tables


def samples(metrics: HubbleMetrics, name: str) -> dict[str, float]:
    metrics.fold()
    text = b"".join(render(metrics.families, Format.CLASSIC)).decode()
    lines = (line for line in text.splitlines() if line.startswith(name + "{"))
    return {labels: float(value) for labels, value in (line.rsplit(" ", 1) for line in lines)}


def test_drops_are_counted_by_the_kernels_own_reason_and_volumes_add_up() -> None:
    tables = probe_tables(new_tables())
    metrics = HubbleMetrics(("drop", "volume"), reasons=tables.reasons)
    batch = as_probes_tell(batch_of(flows_of("v1.20", "steady")[:900], tables))
    cilium = batch.attribute("origin") == 1
    metrics.count(batch.select(~cilium))
    drops = samples(metrics, "hubble_drop_total")
    assert sum(n for labels, n in drops.items() if 'reason="NETFILTER_DROP"' in labels) == 300
    assert 'hubble_drop_total{protocol="TCP",reason="POLICY_DENIED"}' in drops
    numbers = [n + 1 for n in range(897) if n % 3]
    packets = samples(metrics, "ciliary_flow_packets_total")
    assert sum(packets.values()) == sum(numbers)
    assert batch.packets is not None
    dropped = batch.packets[~cilium & (batch.attribute("verdict") == DROPPED)]
    assert sum(v for k, v in packets.items() if "DROPPED" in k) == dropped.sum()
    assert sum(samples(metrics, "ciliary_flow_bytes_total").values()) == sum(numbers) << 20


def test_flows_without_counts_have_no_volume() -> None:
    metrics = HubbleMetrics(("volume",))
    metrics.count(batch_of(flows_of("v1.20", "steady"), new_tables()))
    assert samples(metrics, "ciliary_flow_packets_total") == {}
