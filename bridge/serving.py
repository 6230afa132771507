"""A recording served as history: parsed once, then behind the whole API like the agent's.

The clock of flows is the recording's; that of the server (uptime, for one) is the present.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from api.history import History
from api.hubble.grpc_engine import open_engine
from api.hubble.namespaces import Namespaces
from api.hubble.observer import Observer
from api.hubble.peers import Peer, Peers
from api.hubble.services import services_of
from api.metrics.exposition import Writable
from api.metrics.http import serve_http
from api.metrics.hubble import DEFAULT_HANDLERS, HubbleMetrics
from api.metrics.options import HandlerSpec
from api.metrics.routes import metrics_route
from bridge import __version__
from bridge.addresses import split_address
from bridge.http_listener import open_listeners
from bridge.memory_limit import flows_that_fit
from bridge.node_address import dialable
from bridge.recorded import Recorded
from bridge.unix_socket import make_room_for_socket
from parsers.errors import UsageError

_UNIX = "unix://"


class Serving:
    """Serve ``recorded`` on ``targets``: ``unix:///PATH`` or ``HOST:PORT``."""

    def __init__(
        self,
        recorded: Recorded,
        targets: Sequence[str],
        metrics_listen: str | None,
        metrics: str | Sequence[str | HandlerSpec] = DEFAULT_HANDLERS,
    ) -> None:
        self._recorded = recorded
        self._targets = targets
        self._metrics_listen = metrics_listen
        self.records = 0
        self.metrics = HubbleMetrics(metrics, node=recorded.node)
        recorded.label_queries(wanted=self.metrics.wants_queries)
        recorded.tables.classes.before_free.append(self.metrics.forget)
        self.observer = Observer(
            History(recorded.tables, recorded.ledger, flows_that_fit()),
            recorded.node,
            recorded.ledger,
            version=f"ciliary v{__version__}",
            namespaces=Namespaces(lifetime=None),
        )

    async def run(self, tell: Callable[[str], None]) -> None:
        """Until cancelled; ``tell`` gets a sentence once everything is there to be asked for."""
        await self._load()
        peers = Peers()
        services = services_of(self.observer, peers, version=__version__)
        async with open_engine(services) as engine, trio.open_nursery() as nursery:
            for target in self._targets:
                await engine.listen(_ready(target))
            # A relay can be told one address only: rather one that other machines can dial.
            told = min(engine.addresses, key=lambda address: address.startswith(_UNIX))
            if not told.startswith(_UNIX):
                told = dialable(told, {}) or told
            self.observer.node = dataclasses.replace(self.observer.node, address=told)
            peers.replace([Peer.of(self.observer.node)])
            if self._metrics_listen is not None:
                listeners = await open_listeners("--metrics-listen", self._metrics_listen)
                routes = {"/metrics": metrics_route(self._families)}
                await nursery.start(serve_http, routes, listeners)
            tell(self._sentence(engine.addresses))
            await trio.sleep_forever()

    async def _load(self) -> None:
        for parsed in self._recorded.batches():
            self.records += parsed.records
            for lost in parsed.lost_events:
                self.metrics.count_lost("perf_event_ring_buffer", lost.count)
            self.metrics.count(parsed.flows)
            self.observer.publish(parsed)
            await trio.lowlevel.checkpoint()
        if not self.records:
            raise UsageError(f"{self._recorded.path} has no records; record it again")

    def _families(self) -> tuple[Writable, ...]:
        self.metrics.fold()
        return self.metrics.families

    def _sentence(self, addresses: Sequence[str]) -> str:
        flows = self.observer.history.flows
        forgotten = f" (the oldest {flows.oldest:,} did not fit)" if flows.oldest else ""
        where = ", ".join(addresses)
        cut = " (and one cut off at the end, left out)" if self._recorded.cut_off else ""
        return (
            f"{flows.end:,} flows{forgotten} of {self.records:,} records{cut} on {where}; "
            "Ctrl-C ends"
        )


def _ready(target: str) -> str:
    """What an engine can listen on: nobody else's socket, and a host that is said."""
    if target.startswith(_UNIX):
        make_room_for_socket(Path(target.removeprefix(_UNIX)))
        return target
    host, port = split_address(target)
    return f"[{host}]:{port}" if ":" in host else f"{host or '[::]'}:{port}"
