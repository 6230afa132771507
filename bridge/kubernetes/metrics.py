"""``ciliary_kubernetes_*``: how current names are, and what it takes to keep them so."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bridge.kubernetes.source import KubernetesSource


class KubernetesCollector(Collector):
    """Read from the source's watches when a scrape asks."""

    def __init__(self, source: KubernetesSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Families with the values of now."""
        by_resource = ("resource",)
        by_reason = ("resource", "reason")
        age = GaugeMetricFamily(
            "ciliary_kubernetes_age_seconds",
            "How long ago names were last known to be current; 0 while they are.",
        )
        age.add_metric((), self._source.age())
        current = GaugeMetricFamily(
            "ciliary_kubernetes_current", "1 while a resource is watched.", labels=by_resource
        )
        objects = GaugeMetricFamily(
            "ciliary_kubernetes_objects", "Objects known of a resource.", labels=by_resource
        )
        changes = CounterMetricFamily(
            "ciliary_kubernetes_changes", "Objects listed, changed or removed.", labels=by_resource
        )
        watches = CounterMetricFamily(
            "ciliary_kubernetes_watches", "Watches asked for.", labels=by_resource
        )
        malformed = CounterMetricFamily(
            "ciliary_kubernetes_malformed",
            "Objects that could not be decoded, and were left as they were.",
            labels=by_resource,
        )
        lists = CounterMetricFamily(
            "ciliary_kubernetes_lists",
            "Lists begun, by why: first, expired (the version was compacted), restart, back.",
            labels=by_reason,
        )
        failures = CounterMetricFamily(
            "ciliary_kubernetes_failures",
            "Lists and watches that failed: unreachable, answer, or the status of HTTP.",
            labels=by_reason,
        )
        for watch in self._source.watches:
            name, counts = (watch.resource.name,), watch.counts
            current.add_metric(name, watch.lost_at is None)
            objects.add_metric(name, len(watch))
            changes.add_metric(name, counts.changes)
            watches.add_metric(name, counts.watches)
            malformed.add_metric(name, counts.malformed)
            for reason, count in counts.lists.items():
                lists.add_metric((*name, reason), count)
            for reason, count in counts.failures.items():
                failures.add_metric((*name, reason), count)
        yield from (age, current, objects, changes, watches, malformed, lists, failures)
