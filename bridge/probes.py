"""Own probes as a part of the agent: made of the configuration, run when they are wanted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from bridge.config import NativeProbes
from bridge.event_log import EventLog
from bridge.process_tuning import give_back_memory
from native_probes import custom, dns, drops, netfilter, sockets, tcp
from native_probes.bcc_engine import BccEngine
from native_probes.engine import Engine, LibbpfEngine
from native_probes.family import StartFamily
from native_probes.interfaces import InterfacePatterns
from native_probes.pins import PinFolder
from native_probes.report import ProbeUnavailableError
from native_probes.source import ProbeSource, SourceSettings
from native_probes.traffic import NAME as TRAFFIC
from native_probes.traffic import TrafficSettings
from parsers.node_network import NodeNetwork
from parsers.probe_batch import ProbeBatch


def source_settings(config: NativeProbes) -> SourceSettings:
    """What the configuration asks for."""
    optional: dict[str, StartFamily] = {
        sockets.NAME: partial(sockets.socket_probe, settings=sockets.SocketSettings()),
        # behind the drops, which its records are about
        netfilter.NAME: partial(netfilter.NetfilterProbe, settings=netfilter.NetfilterSettings()),
    }
    families: dict[str, StartFamily] = {
        drops.NAME: partial(drops.DropProbe, settings=drops.DropSettings(quiet=config.quiet_drops)),
        tcp.NAME: partial(tcp.tcp_probe, settings=tcp.TcpSettings()),
        dns.NAME: partial(dns.DnsProbe, settings=dns.DnsSettings()),
    }
    families |= {name: start for name, start in optional.items() if name in config.optional}
    families |= {c.name: partial(custom.CustomProbe, settings=c.settings) for c in config.custom}
    return SourceSettings(
        traffic=TrafficSettings(
            flows=config.flows,
            sample=config.sample,
            sweep_seconds=config.sweep,
            pins=PinFolder(config.pins) if config.pins else None,
        )
        if TRAFFIC not in config.disabled
        else None,
        families={name: start for name, start in families.items() if name not in config.disabled},
        interfaces=InterfacePatterns(
            config.pod_interfaces, config.uplinks, config.excluded_interfaces
        ),
        interval_seconds=config.interval,
    )


def engine_of(config: NativeProbes) -> Engine:
    """The engine that the configuration names."""
    return BccEngine() if config.engine == "bcc" else LibbpfEngine()


class Probes:
    """Makes a source of its own for each time that own probes run.

    ``tell`` is called with what the node's addresses and routes tell of others, and with None
    when probes end: with Cilium's events comes what its datapath knows.
    """

    __slots__ = (
        "_deliver", "_engine", "_log", "_pins", "_settings", "_source", "_tell", "running",
    )  # fmt: skip

    def __init__(
        self,
        config: NativeProbes,
        deliver: Callable[[ProbeBatch], None],
        log: EventLog,
        *,
        tell: Callable[[NodeNetwork | None], None],
    ) -> None:
        self._settings = source_settings(config)
        self._engine = engine_of(config)
        self._pins = PinFolder(config.pins) if config.pins is not None else None
        self._deliver = deliver
        self._tell = tell
        self._log = log
        self._source: ProbeSource | None = None
        self.running = False

    async def run(self, ready: Callable[[], None]) -> None:
        """Until cancelled; ``ProbeUnavailableError`` if no probe works here."""
        self._source = ProbeSource(
            self._settings, self._deliver, self._log, engine=self._engine, tell=self._tell
        )

        def begun() -> None:
            self.running = True
            give_back_memory()  # the kernel's types, which loading reads, are some 10 MB
            ready()

        try:
            await self._source.run(begun)
        finally:
            self.running = False
            self._tell(None)

    async def leave(self) -> None:
        """Remove pins, where there are any: they would count for us while another source does."""
        if self._pins is not None:
            # no such folder, or no right to it: then there are no pins of ours
            with suppress(OSError, ProbeUnavailableError):
                await trio.to_thread.run_sync(self._pins.remove_all)

    def states(self) -> list[tuple[str, str]]:
        """Name and state of each probe, as it was when they ran last."""
        if self._source is None:
            return []
        return [(finding.probe, finding.state) for finding in self._source.findings()]

    def covered(self) -> int:
        """How many interfaces are observed now."""
        if not self.running or self._source is None:
            return 0
        interfaces = self._source.statistics().interfaces
        return interfaces.covered if interfaces is not None else 0

    def interface_name(self, index: int) -> str:
        """The name of an interface of the node, "" if it is not known."""
        return self._source.interface_name(index) if self._source is not None else ""
