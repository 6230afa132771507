"""Follows the node's interfaces, addresses and routes, and has those covered that are wanted.

Which interfaces are wanted follows from their names and kinds, and for uplinks that look like
something else from the routes: the interface of a default route is one, unless its packets are
seen at others anyway. News of interfaces are acted on at once; routes are read when they, or
interfaces, have changed, at most a hundredth of the time.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection

import trio

from native_probes import links
from native_probes.interfaces import Coverage, InterfacePatterns, ways_in
from native_probes.own_thread import in_own_thread
from native_probes.report import Log
from native_probes.routes import Routing, open_routing_socket, read_routing
from parsers.node_network import NodeNetwork

_RECEIVE_BYTES = 1 << 16
_SETTLING = 0.1  # s; changes come in bursts
_REST = 100  # times as long as routes took to read, they are not read again
_RETRY = 10.0  # s
_SERVICES = ("kube-ipvs0", "kube-dummy-if")
"""Where kube-proxy and kube-router have every service's address when they use IPVS."""


class NodeInterfaces:
    """``tell`` is called with what addresses and routes tell of others, whenever that changes."""

    def __init__(
        self, patterns: InterfacePatterns, tell: Callable[[NodeNetwork], None], log: Log
    ) -> None:
        self._patterns = patterns
        self._tell = tell
        self._log = log
        self._links: dict[int, links.Link] = {}
        self._coverage: Coverage | None = None
        self._routing = Routing({}, (), complete=False)
        self._by_route: frozenset[int] = frozenset()  # wanted as a default route uses them
        self._network: NodeNetwork | None = None
        self._changed = trio.Event()
        self._pods_changed = trio.Event()

    def known(self) -> Collection[links.Link]:
        """Those that are there."""
        return list(self._links.values())

    def name(self, ifindex: int) -> str:
        """Of an interface that is there, or was covered lately; "" for others."""
        link = self._links.get(ifindex)
        if link is None and self._coverage:
            link = self._coverage.covered_lately().get(ifindex)
        return link.name if link else ""

    def cover_by(self, coverage: Coverage) -> None:
        """Have ``coverage`` cover those that are wanted, and that will be."""
        self._coverage = coverage
        for ifindex, link in self._links.items():
            if self._patterns.match(link) or ifindex in self._by_route:
                coverage.cover(link, is_new=False)

    async def pods_changed(self) -> None:
        """A pod's interface has come, gone, or got another end since this was called last."""
        await self._pods_changed.wait()
        self._pods_changed = trio.Event()

    async def follow(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started when those that are there are known."""
        with (
            trio.socket.from_stdlib_socket(links.open_link_socket()) as link_news,
            trio.socket.from_stdlib_socket(open_routing_socket()) as routing_news,
        ):
            self._list(at_start=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_links, link_news)
                nursery.start_soon(self._hear_routing, routing_news)
                rest = await self._read_routing()
                task_status.started()
                while True:
                    await self._changed.wait()
                    await trio.sleep(rest)
                    rest = await self._read_routing()

    async def _hear_links(self, listening: trio.socket.SocketType) -> None:
        while True:
            try:
                data = await listening.recv(_RECEIVE_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._log.warning("probe.link_news_overran")
                self._list(at_start=False)
                continue
            for news in links.read_news(data):
                self._take(news.link, gone=news.gone, is_new=True)

    async def _hear_routing(self, listening: trio.socket.SocketType) -> None:
        while True:
            try:
                await listening.recv(_RECEIVE_BYTES)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            self._changed.set()

    async def _read_routing(self) -> float:
        """Act on what it is now; returns for how many seconds not to read it again."""
        self._changed = trio.Event()
        began = time.perf_counter()
        try:
            self._routing = await in_own_thread(read_routing)
            rest = max(_SETTLING, _REST * (time.perf_counter() - began))
        except OSError as error:  # it stays as it was last
            self._log.warning("probe.no_routing", reason=error.strerror)
            self._changed.set()
            rest = _RETRY
        self._use_routing()
        return rest

    def _use_routing(self) -> None:
        wanted = {i for i, link in self._links.items() if self._patterns.match(link)}
        below, before = ways_in(self.known(), wanted), self._by_route
        self._by_route = frozenset(
            ifindex
            for ifindex in self._routing.default_interfaces() - below
            if ifindex in self._links and self._patterns.may_be_uplink(self._links[ifindex])
        )
        if self._coverage is not None:
            for ifindex in self._by_route - before:
                self._coverage.cover(self._links[ifindex], is_new=False)
            for ifindex in before - self._by_route - wanted:
                self._coverage.uncover(ifindex)
        pods = {i: link.master for i, link in self._links.items() if self._patterns.is_pod(link)}
        services = {i for i, link in self._links.items() if link.name in _SERVICES}
        network = self._routing.network(wanted - pods.keys(), pods.values(), services)
        if network != self._network:
            self._network = network
            self._tell(network)

    def _list(self, *, at_start: bool) -> None:
        present = {link.ifindex: link for link in links.all_links()}
        for link in [link for link in self._links.values() if link.ifindex not in present]:
            self._take(link, gone=True, is_new=False)
        for link in present.values():
            self._take(link, gone=False, is_new=not at_start)

    def _take(self, link: links.Link, *, gone: bool, is_new: bool) -> None:
        known = self._links.pop(link.ifindex, None)
        if not gone:
            self._links[link.ifindex] = link
        if gone or known is None or _place(known) != _place(link):
            self._changed.set()
            if self._patterns.is_pod(link):
                self._pods_changed.set()
        if self._coverage is None:
            return
        if not gone and (self._patterns.match(link) or link.ifindex in self._by_route):
            self._coverage.cover(link, is_new=is_new and known is None)
        elif known:
            self._coverage.uncover(link.ifindex)


def _place(link: links.Link) -> tuple[str, int, int]:
    """What of an interface says where it belongs; most news are of something else."""
    return link.name, link.master, link.peer_namespace
