"""``ciliary_*``: what the agent says of itself, in a registry that is a parameter.

The ledger and the process are read when a scrape asks; the rest is set, or given as a
function, by the parts that know it. Names follow Prometheus' conventions: base units,
``_total`` on counters.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import trio
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.metrics.family import Counters
from parsers import compiled
from parsers.ledger import NOT_OBSERVABLE, Ledger

_BATCH_BOUNDS: Final = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)
_DIRECTIONS: Final = ("ingress", "egress")  # as the interface sees it, by observation point
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class AgentMetrics:
    """Registers all ``ciliary_*`` families; the attributes are the ones that others feed.

    Gauges take a value (``set``) or a function that is asked at each scrape
    (``set_function``).
    """

    def __init__(self, registry: CollectorRegistry, ledger: Ledger, version: str) -> None:
        self.registry = registry
        registry.register(LedgerCollector(ledger))
        ProcessCollector(namespace="ciliary", registry=registry)
        build = Gauge(
            "ciliary_build_info",
            "Always 1; the labels tell the version of the agent and of Python, and whether the "
            "parser's compiled loops run (yes, no).",
            ("version", "python", "compiled"),
            registry=registry,
        )
        loops = "no" if compiled.kernels is None else "yes"
        build.labels(version, platform.python_version(), loops).set(1)
        self.source_connected = self._gauge(
            "source_connected", "1 while a source of events is connected.", "source"
        )
        self.source_connects = Counter(
            "ciliary_source_connects_total",
            "Connections made to a source of events.",
            ("source",),
            registry=registry,
        )
        self.covered_interfaces = self._gauge(
            "interfaces_covered", "Interfaces that own probes observe now."
        )
        self.waiting_bytes = self._gauge(
            "source_waiting_bytes", "Read from the source and not parsed yet."
        )
        self.followers = self._gauge("followers", "Requests that follow new flows now.")
        self.history_flows = self._gauge("history_flows", "Flows in the history.")
        self.history_capacity = self._gauge(
            "history_capacity_flows", "Flows that the history has room for."
        )
        self.history_bytes = self._gauge(
            "history_bytes", "Memory of the history and of what its flows refer to."
        )
        self.history_span = self._gauge(
            "history_span_seconds", "Time between the oldest and the newest flow kept."
        )
        self.batch_events = Histogram(
            "ciliary_batch_events",
            "Events a batch.",
            buckets=_BATCH_BOUNDS,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "ciliary_batch_duration_seconds",
            "Time from the decoding of a batch to its end in history and metrics.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._interface_packets = Counter(
            "ciliary_interface_packets_total",
            "Packets on the wire at an interface that own probes observe.",
            ("interface", "direction"),
            registry=registry,
        )
        self._interface_bytes = Counter(
            "ciliary_interface_bytes_total",
            "Their bytes, as the interface counts them.",
            ("interface", "direction"),
            registry=registry,
        )
        self._ignored = Counter(
            "ciliary_probe_ignored_total",
            "Events that own probes left out: quiet by the configuration, foreign to the node.",
            ("probe", "reason"),
            registry=registry,
        )
        self.loop_lag = Histogram(
            "ciliary_loop_lag_seconds",
            "How much later than asked the event loop woke a sleeper.",
            buckets=_SECONDS,
            registry=registry,
        )

    def count_interfaces(self, totals: NDArray[Any], name_of: Callable[[int], str]) -> None:
        """Count INTERFACE_TOTALS rows, of what interfaces received and sent."""
        for ifindex, point, packets, _, octets in totals.tolist():
            labels = name_of(ifindex) or str(ifindex), _DIRECTIONS[point]
            self._interface_packets.labels(*labels).inc(packets)
            self._interface_bytes.labels(*labels).inc(octets)

    def count_ignored(self, ignored: Mapping[tuple[str, str], int]) -> None:
        """Count events by probe and reason."""
        for labels, count in ignored.items():
            self._ignored.labels(*labels).inc(count)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"ciliary_{name}", text, labels, registry=self.registry)


class GuessedHeaders(Collector):
    """Records whose layout is newer than this version."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[Metric]:
        """The family with the value of now."""
        family = CounterMetricFamily(
            "ciliary_guessed_headers",
            "Records of a version newer than known, read as far as their lengths allow.",
        )
        family.add_metric((), self._count())
        yield family


class ProbeStates(Collector):
    """How each of the own probes does; ``states`` tells its name and one of ``STATES``."""

    STATES: Final = ("works", "degraded", "no")

    def __init__(self, states: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """The family with the values of now."""
        family = GaugeMetricFamily(
            "ciliary_probe_state",
            "1 for the state that an own probe is in; ciliary doctor says why.",
            labels=("probe", "state"),
        )
        for probe, found in self._states():
            for state in self.STATES:
                family.add_metric((probe, state), state == found)
        yield family


class SeriesCollector(Collector):
    """Series of ``hubble_*`` metrics, and what was counted apart from them.

    Of each metric, series that are exported + expired = all that it counted.
    """

    def __init__(self, families: Callable[[], Iterable[Counters]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Families with the values of now."""
        labels = ("metric",)
        series = GaugeMetricFamily("ciliary_metrics_series", "Series of a metric.", labels=labels)
        folded = CounterMetricFamily(
            "ciliary_metrics_folded",
            "Counted under the label value other, as the metric has too many series.",
            labels=labels,
        )
        expired = CounterMetricFamily(
            "ciliary_metrics_expired",
            "Counted by series that are no longer exported, as their pods are gone.",
            labels=labels,
        )
        for family in self._families():
            series.add_metric((family.name,), len(family))
            folded.add_metric((family.name,), family.folded)
            expired.add_metric((family.name,), family.expired)
        yield from (series, folded, expired)


class LedgerCollector(Collector):
    """The loss ledger as counters by stage and reason."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterator[Metric]:
        """Families with the values of now."""
        by_stage = ("stage",)
        by_reason = ("stage", "reason")
        incoming = CounterMetricFamily(
            "ciliary_events_received", "Events that came into a stage.", labels=by_stage
        )
        outgoing = CounterMetricFamily(
            "ciliary_events_passed", "Events that a stage passed on.", labels=by_stage
        )
        lost = CounterMetricFamily(
            "ciliary_events_lost", "Events that ended in a stage, by reason.", labels=by_reason
        )
        waiting = GaugeMetricFamily(
            "ciliary_events_waiting", "Events that a stage holds now.", labels=by_stage
        )
        unexplained = GaugeMetricFamily(
            "ciliary_events_unexplained",
            "Events received but not passed, waiting or lost; 0 unless the agent has a fault.",
            labels=by_stage,
        )
        kinds = CounterMetricFamily(
            "ciliary_events_parsed", "Events that the parser made, by kind.", labels=("kind",)
        )
        between = GaugeMetricFamily(
            "ciliary_events_unexplained_between_stages",
            "Events that a stage passed and the next did not receive; 0 unless there is a fault.",
            labels=("stage", "next"),
        )
        for kind, count in self._ledger.stages["parser"].kinds.items():
            kinds.add_metric((kind,), count)
        for pair, count in self._ledger.between().items():
            between.add_metric(pair, count)
        for name, account in self._ledger.stages.items():
            stage = (name,)
            incoming.add_metric(stage, account.incoming)
            outgoing.add_metric(stage, account.outgoing)
            waiting.add_metric(stage, account.waiting)
            unexplained.add_metric(stage, account.balance())
            for reason, count in account.lost.items():
                lost.add_metric((name, reason), count)
        yield from (incoming, outgoing, kinds, lost, waiting, unexplained, between)
        yield from self._unobservable(by_reason)

    def _unobservable(self, labels: tuple[str, str]) -> Iterator[Metric]:
        known = GaugeMetricFamily(
            "ciliary_loss_not_observable",
            "Always 1: events can be lost here and nobody can know how many.",
            labels=labels,
        )
        occasions = CounterMetricFamily(
            "ciliary_loss_not_observable_occasions",
            "Times that an unknown number of events may have been lost.",
            labels=labels,
        )
        for pair in NOT_OBSERVABLE:
            known.add_metric(pair, 1)
        for pair, count in self._ledger.unobservable.items():
            occasions.add_metric(pair, count)
        yield from (known, occasions)


async def watch_loop_lag(lag: Histogram, interval: float = 0.1) -> None:
    """Observe for ever how late the event loop is; cancel to stop."""
    while True:
        due = trio.current_time() + interval
        await trio.sleep_until(due)
        lag.observe(max(0.0, trio.current_time() - due))
