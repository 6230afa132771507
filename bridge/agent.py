"""The agent: what a configuration asks for, put together and kept running.

``Agent`` builds everything that needs no socket (tables, pipeline, history, metrics), so
that a wrong configuration is found before anything starts. ``run`` starts one supervised
part for the source and one for each listener. So that the first flows have names, the
identity file is read before; only when it cannot be, a part goes on trying.
"""

from __future__ import annotations

import dataclasses
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from api.history import History
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.hubble.peers import Peer, Peers
from api.hubble.services import services_of
from api.metrics.agent import (
    AgentMetrics,
    GuessedHeaders,
    ProbeStates,
    SeriesCollector,
    watch_loop_lag,
)
from api.metrics.departed import DepartedPods
from api.metrics.exposition import Writable
from api.metrics.hubble import HubbleMetrics
from api.metrics.names import CorrectedFlows, UnnamedSides
from api.metrics.options import HandlerSpec, parse_handlers
from api.metrics.routes import health_route, ledger_route, metrics_route
from api.metrics.scrapes import ScrapeCounts
from bridge import __version__
from bridge.certificates import CertificateFiles
from bridge.cilium.client import MonitorClient
from bridge.cilium.rest import CiliumApi
from bridge.config import Config
from bridge.event_log import EventLog
from bridge.flow_path import FlowPath
from bridge.http_listener import http_part
from bridge.hubble_listener import hubble_part
from bridge.identity.file import load_identity_file
from bridge.kubernetes.credentials import from_kubeconfig, in_cluster, is_in_cluster
from bridge.kubernetes.label_filter import LabelFilter
from bridge.kubernetes.metrics import KubernetesCollector
from bridge.kubernetes.names import Names
from bridge.kubernetes.naming import Naming
from bridge.kubernetes.source import KubernetesSource
from bridge.memory_limit import flows_that_fit
from bridge.metrics_file import follow_metrics_file
from bridge.neighbours import Neighbours
from bridge.node_address import hubble_address
from bridge.probes import Probes
from bridge.rising_clock import RisingClock
from bridge.source_switch import SourceSwitch
from bridge.supervision import STARTING, Part, Supervisor
from parsers.answered_names import AnsweredNames
from parsers.directory import Directory
from parsers.errors import UsageError
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, ParsedBatch, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.world import directory_of, node_name_of

_RELOADED = {"log.level", "metrics.hubble.enabled"}  # by ``Agent.reload``
_SERIES_INTERVAL = 5.0


class Agent:
    """One node's agent. ``UsageError`` when its configuration cannot work."""

    def __init__(
        self, config: Config, log: EventLog, *, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.config = config
        self.log = log
        world, self._directory = _identity(config.identity.file)
        self.ledger = Ledger()
        tables = new_tables()
        pipeline = MonitorPipeline(
            tables,
            self._directory,
            self.ledger,
            release=config.cilium.release_number,
            redaction=config.hubble.redact.redaction,
        )
        self.node = _local_node(config, world, self._link_name)
        self.history = History(tables, self.ledger, _history_size(config))
        self.metrics = HubbleMetrics(
            _handlers(config),
            series=config.metrics.hubble.series,
            node=self.node,
            reasons=tables.reasons,
        )
        self._departed = DepartedPods(self.metrics)
        self.observer = Observer(
            self.history, self.node, self.ledger, version=f"ciliary v{__version__}", clock=clock
        )
        self.peers = Peers([Peer.of(self.node)])
        self.registry = CollectorRegistry()
        self.registry.register(SeriesCollector(lambda: self.metrics.families))
        self.registry.register(GuessedHeaders(lambda: pipeline.guessed_headers))
        self.agent_metrics = AgentMetrics(self.registry, self.ledger, __version__)
        unnamed = UnnamedSides()
        self.registry.register(unnamed)
        rising = RisingClock(clock)
        self.path = FlowPath(
            pipeline, self.metrics, self.observer.publish, watch=self._watch_batch, clock=rising
        )
        self.path.followers.append(self._note_agent_events)
        self.path.followers.append(lambda parsed: unnamed.count(parsed.flows))
        self.switch = SourceSwitch(config.source, self.path, log)
        self.probes = Probes(
            config.native_probes,
            self._take_probes,
            log,
            tell=self._directory.set_node_network,
        )
        self.registry.register(ProbeStates(self.probes.states))
        self.client = MonitorClient(
            config.cilium.socket,
            self.switch.deliver,
            ledger=self.ledger,
            log=log,
            watched=lambda: self.observer.followers > 0,
            on_connect=self._on_connect,
            on_end=self.switch.disconnected,
        )
        api = config.cilium.api
        self.cilium_api = CiliumApi(api, self._directory) if api is not None else None
        self.naming = self._naming(rising)
        self.kubernetes = self._kubernetes_source(rising)
        self.supervisor = Supervisor(log)
        self._scrapes = ScrapeCounts()
        self._feed_gauges()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started at once, as every part may come later."""
        async with trio.open_nursery() as nursery:
            for name, part in self._parts():
                nursery.start_soon(self.supervisor.keep, name, part)
            nursery.start_soon(watch_loop_lag, self.agent_metrics.loop_lag)
            task_status.started()

    def complaints(self) -> Mapping[str, str]:
        """Part -> why it does not serve now; empty when all is well."""
        found = dict(self.supervisor.complaints)
        statistics = self.client.statistics()
        if self.switch.reads_cilium and not statistics.connected:
            found["cilium"] = statistics.state
        if self.kubernetes is not None:
            stopped = found.get("kubernetes", "").replace(STARTING, "")
            if complaint := self.kubernetes.complaint(stopped):
                found["kubernetes"] = complaint
        if self.config.source == "auto":
            # One source is enough; without any, both say why.
            if self.switch.source == "cilium":
                found.pop("probes", None)
            elif self.probes.running:
                found.pop("cilium", None)
        return found

    def reload(self, config: Config) -> list[str]:
        """Take over what can be changed while running; returns the keys that need a restart."""
        self.log.set_level(config.log.level)
        if self.config.metrics.hubble.dynamic is None and config.metrics.hubble.dynamic is None:
            self._count_by(parse_handlers(config.metrics.hubble.enabled))
        old, new = dict(_flat(self.config.model_dump())), dict(_flat(config.model_dump()))
        return [key for key in new if old[key] != new[key] and key not in _RELOADED]

    def _parts(self) -> Iterator[tuple[str, Part]]:
        config = self.config
        if self.switch.reads_cilium:
            yield "cilium", self._read
        if self.switch.may_probe:
            yield "probes", partial(self.switch.keep_probes, self.probes)
        if self.kubernetes is not None:
            yield "kubernetes", partial(self._watch_kubernetes, self.kubernetes)
            if self.naming is not None:
                yield "names", self.naming.keep
        elif not self._directory.synced:
            yield "identity", self._learn
        if (api := self.cilium_api) is not None:
            yield "cilium api", api.run
        services = services_of(self.observer, self.peers, version=__version__)
        yield "hubble", hubble_part(services, config.hubble, self.supervisor)
        if (file := config.metrics.hubble.dynamic) is not None:
            yield "metrics file", partial(follow_metrics_file, file, self._count_by)
        yield "series", self._keep_series
        pages = (
            ("hubble", config.metrics.hubble, metrics_route(self._hubble_families),
             self._scrapes.observe),
            ("agent", config.metrics.agent, metrics_route(tuple, (self.registry,)), None),
        )  # fmt: skip
        for name, section, route, observe in pages:
            if section.listen is None:
                continue
            key = f"metrics.{name}"
            certificates = CertificateFiles.of(section.tls, f"{key}.tls")
            if certificates is not None:
                yield f"{name} metrics certificates", certificates.keep
            routes = {"/metrics": route}
            yield (
                f"{name} metrics",
                http_part(f"{key}.listen", section.listen, routes, observe, certificates),
            )
        if (address := config.health.listen) is not None:
            routes = {
                "/healthz": health_route(dict),
                "/readyz": health_route(self.complaints),
                "/debug/ledger": ledger_route(self.ledger),
            }
            yield "health", http_part("health.listen", address, routes)

    async def _read(self, ready: Callable[[], None]) -> None:
        ready()  # whether the socket is there is the client's to say
        await self.client.run()

    def _on_connect(self) -> None:
        self.agent_metrics.source_connects.labels("cilium").inc()
        self.switch.connected()

    def _take_probes(self, batch: ProbeBatch) -> None:
        self.path.deliver_probes(batch)
        self.agent_metrics.count_interfaces(batch.totals, self._link_name)
        self.agent_metrics.count_ignored(batch.ignored)

    def _link_name(self, index: int) -> str:
        """The identity file wins, as in a node of a recording's."""
        return self._directory.link_name(index) or self.probes.interface_name(index)

    async def _learn(self, ready: Callable[[], None]) -> None:
        """Once the identity file can be read: its names from now on."""
        file = self.config.identity.file
        world, known = await trio.to_thread.run_sync(_read_identity, file)
        self._directory.replace_by(known)
        self.peers.replace([Peer.of(self._move_to(world.get("node") or {}))])
        ready()
        await trio.sleep_forever()

    def _move_to(self, told: Mapping[str, Any]) -> LocalNode:
        """Be the node that is told of, as in an identity file."""
        node = _local_node(self.config, {"node": told}, self._link_name)
        # The uuids of flows go on as they began.
        node = dataclasses.replace(node, uuid_prefix=self.node.uuid_prefix)
        if node != self.node:
            self.node = self.observer.node = node
            self.metrics.move_to(node)
        return node

    def _naming(self, clock: Callable[[], int]) -> Naming | None:
        """What makes names of Kubernetes' objects, where they come from there."""
        config, settings = self.config, self.config.identity.kubernetes
        if not config.identity.asks_kubernetes(in_cluster=is_in_cluster()):
            return None
        self._directory.synced = False
        here = config.node.name or socket.gethostname()
        names = Names(
            self._directory,
            node=here,
            cluster=config.node.cluster,
            labels=LabelFilter(settings.labels),
            everywhere=settings.scope == "all",
            listener=Neighbours(
                config, here, move=self._move_to, peers=self.peers, departed=self._departed
            ),
        )
        dns_names = round(config.identity.dns_names * 1e9)
        naming = Naming(names, self._directory, self.history, clock, dns_names=dns_names)
        answered = AnsweredNames(self._directory)
        self.path.followers.append(lambda parsed: answered.learn(parsed.flows))
        self.registry.register(CorrectedFlows(naming.corrected))
        return naming

    def _kubernetes_source(self, clock: Callable[[], int]) -> KubernetesSource | None:
        if self.naming is None:
            return None
        node = self.config.node
        here = node.name or socket.gethostname()
        source = KubernetesSource(
            self.naming.names,
            self.log,
            agent=f"ciliary/{__version__}",
            node=here if self.config.identity.kubernetes.scope == "node" else "",
            clock=clock,
        )
        self.registry.register(KubernetesCollector(source))
        return source

    async def _watch_kubernetes(self, source: KubernetesSource, ready: Callable[[], None]) -> None:
        settings = self.config.identity.kubernetes
        if settings.kubeconfig is not None:
            access = await from_kubeconfig(settings.kubeconfig, settings.context)
        else:
            access = in_cluster(settings.service_account)
        await source.run(access, ready)

    def _count_by(self, handlers: tuple[HandlerSpec, ...]) -> None:
        if handlers != self.metrics.specs:
            self.metrics.configure(handlers)
            self.path.label_queries()
            self.log.info("metrics.configured", metrics=[spec.name for spec in handlers])

    async def _keep_series(self, ready: Callable[[], None]) -> None:
        """Remove series of pods that are gone, and tell once which metrics have too many."""
        told: set[str] = set()
        looked, idle = trio.current_time(), self.config.metrics.hubble.idle
        ready()
        while True:
            await trio.sleep(_SERIES_INTERVAL)
            now = trio.current_time()
            for _ in self._departed.sweep(now):
                await trio.lowlevel.checkpoint()
            if idle is not None and now - looked >= idle / 60:
                looked = now
                for _ in self.metrics.expire(now, idle):
                    await trio.lowlevel.checkpoint()
            for family in self.metrics.families:
                if family.folded and family.name not in told:
                    told.add(family.name)
                    self.log.warning(
                        "metrics.series_folded",
                        metric=family.name,
                        series=family.budget,
                        remedy="count it under fewer labels, or raise metrics.hubble.series",
                    )

    def _note_agent_events(self, parsed: ParsedBatch) -> None:
        for record in parsed.agent_events:
            self._departed.observe(record, trio.current_time())
            if self.cilium_api is not None:
                self.cilium_api.observe(record.event)

    def _hubble_families(self) -> tuple[Writable, ...]:
        self.metrics.fold()
        return (*self.metrics.families, *self._scrapes.families)

    def _watch_batch(self, events: int, seconds: float) -> None:
        self.agent_metrics.batch_events.observe(events)
        self.agent_metrics.batch_seconds.observe(seconds)

    def _feed_gauges(self) -> None:
        told, history, client = self.agent_metrics, self.history, self.client
        if self.switch.reads_cilium:
            told.source_connected.labels("cilium").set_function(lambda: client.connected)
        if self.switch.may_probe:
            told.source_connected.labels("probes").set_function(lambda: self.probes.running)
            told.covered_interfaces.set_function(self.probes.covered)
        told.waiting_bytes.set_function(lambda: client.statistics().waiting)
        told.followers.set_function(lambda: self.observer.followers)
        told.history_flows.set_function(lambda: len(history.flows))
        told.history_capacity.set_function(lambda: history.flows.capacity)
        told.history_bytes.set_function(history.nbytes)
        told.history_span.set_function(self._history_span)

    def _history_span(self) -> float:
        flows = self.history.flows
        if not len(flows):
            return 0.0
        (_, oldest), *_ = flows.pieces(flows.oldest, flows.oldest + 1, 1)
        (_, newest), *_ = flows.pieces(flows.end - 1, flows.end, 1)
        return float(newest.time[0] - oldest.time[0]) / 1e9


def _identity(file: Path | None) -> tuple[Mapping[str, Any], Directory]:
    """What the identity file says now; when it cannot be read, nothing, and not synced."""
    try:
        return _read_identity(file)
    except UsageError:
        return {}, Directory(synced=False)


def _read_identity(file: Path | None) -> tuple[Mapping[str, Any], Directory]:
    world = load_identity_file(file) if file is not None else {}
    return world, directory_of(world)


def _handlers(config: Config) -> tuple[str, ...]:
    """Those of the configuration; none where a file says which, before it was read."""
    return () if config.metrics.hubble.dynamic is not None else config.metrics.hubble.enabled


def _history_size(config: Config) -> int:
    if config.history.flows != "auto":
        return config.history.flows
    return flows_that_fit()


def _local_node(
    config: Config, world: Mapping[str, Any], link_name: Callable[[int], str]
) -> LocalNode:
    """The configuration's names win over the identity file's, and that over the host's."""
    told = world.get("node") or {}
    cluster = config.node.cluster
    if cluster == "default":
        cluster = told.get("cluster") or cluster
    name = config.node.name or told.get("name") or socket.gethostname()
    return LocalNode(
        name=node_name_of({"node": {"name": name, "cluster": cluster}}),
        labels=tuple(sorted(told.get("labels") or ())),
        emitter_version=__version__,
        uuid_prefix=str(uuid.uuid4())[:24],
        interface_name=link_name,
        address=hubble_address(config, told),
        tls=config.hubble.has_tls,
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
