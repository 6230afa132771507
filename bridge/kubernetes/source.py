"""The part that keeps names current: which resources there are, and a watch for each.

Kubernetes' own resources are watched from the start, Cilium's while their definitions
exist: discovery is asked now and then, and when a watch finds its resource gone. Without a
definition everything known by it is taken back; without an answer nothing is.

What is known stays with this object: a part that is started again goes on with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from bridge.backoff import Backoff
from bridge.event_log import EventLog
from bridge.http_client import ServerAwayError
from bridge.kubernetes.api_server import ApiServer, follow
from bridge.kubernetes.credentials import Access
from bridge.kubernetes.objects import Pod
from bridge.kubernetes.resources import (
    CILIUM_VERSIONS,
    Resource,
    cilium_resources,
    core_resources,
)
from bridge.kubernetes.server_time import ServerTime
from bridge.kubernetes.sink import Sink
from bridge.kubernetes.watch import ObjectWatch, Piece
from bridge.kubernetes.wire import DECODE_ERRORS, RefusedError, decode_resources
from parsers.errors import UsageError

DISCOVERY: Final = 60.0  # s between two looks for Cilium's definitions
_BETWEEN_LOOKS = 1.0  # s at least, however often a watch finds its resource gone
_NOTICED = 10**9  # ns by which the difference of the clocks must differ from what was told
_FORBIDDEN, _NOT_FOUND = 403, 404


class KubernetesSource:
    """Feeds ``sink`` with what the API server has; ``node``: pods of that node only."""

    def __init__(
        self,
        sink: Sink,
        log: EventLog,
        *,
        agent: str,
        node: str = "",
        clock: Callable[[], int] = time.time_ns,
        now: Callable[[], float] = time.monotonic,
        discovery: float = DISCOVERY,
    ) -> None:
        self._sink = sink
        self._log = log
        self._agent = agent
        self._clock = clock
        self._now = now
        self._discovery = discovery
        self._watches = {r: ObjectWatch(r, clock, now=now) for r in core_resources(node)}
        self._optional: dict[Resource, trio.CancelScope] = {}  # watched now, may cease to exist
        self._discovered = False  # once
        self._undiscovered = ""  # why not
        self._synced = self._has_everything = False  # as the sink was told
        self._told: tuple[bool, tuple[Resource, ...]] = (False, ())
        self._look_again = trio.Event()
        self._time = ServerTime()
        self._ahead = 0

    @property
    def watches(self) -> Sequence[ObjectWatch]:
        """Of the resources that exist."""
        return tuple(self._watches.values())

    def age(self) -> float:
        """Seconds since all names were last known to be current; 0 while they are."""
        lost = [watch.lost_at for watch in self.watches if watch.lost_at is not None]
        return self._now() - min(lost) if lost else 0.0

    def complaint(self, stopped: str = "") -> str:
        """Why names are not current, and how old they are; empty when they are.

        ``stopped``: why nothing is watched.
        """
        behind = [watch for watch in self.watches if watch.lost_at is not None]
        if not behind:
            return self._undiscovered and f"no answer to what is defined: {self._undiscovered}"
        of = ", ".join(sorted(watch.resource.name for watch in behind))
        if not self._synced:
            state = "no names yet"
        elif any(watch.has_listed for watch in behind):
            state = f"names are {self.age():.0f} s old"
        else:
            state = "names do without"
        missing = "; ".join(watch.complaint for watch in behind if watch.forbidden)
        others = next((watch.complaint for watch in behind if watch.complaint), "being listed")
        return f"{state} ({of}): {stopped or missing or others}"

    async def run(self, access: Access, ready: Callable[[], None]) -> None:
        """Until cancelled; ``ready`` once everything was listed."""
        server = ApiServer(access, self._agent, self._time)
        async with trio.open_nursery() as nursery:
            for watch in self.watches:
                # What was under way when we were ended may not have reached the sink.
                watch.begin_anew("restart")
                scope = self._start(nursery, server, watch, ready)
                if watch.resource in self._optional:
                    self._optional[watch.resource] = scope
            await self._discover_for_ever(nursery, server, ready)

    def _start(
        self,
        nursery: trio.Nursery,
        server: ApiServer,
        watch: ObjectWatch,
        ready: Callable[[], None],
    ) -> trio.CancelScope:
        scope = trio.CancelScope()
        nursery.start_soon(self._keep, server, watch, scope, ready)
        return scope

    async def _keep(
        self,
        server: ApiServer,
        watch: ObjectWatch,
        scope: trio.CancelScope,
        ready: Callable[[], None],
    ) -> None:
        with scope:
            while True:
                try:
                    async with server.connect() as connection:
                        await follow(
                            watch, connection, self._deliver, partial(self._is_current, ready)
                        )
                except (ServerAwayError, RefusedError, UsageError) as error:
                    delay = watch.failed(error)
                    if isinstance(error, RefusedError) and error.status == _NOT_FOUND:
                        self._look_again.set()
                    self._look_whether_synced()
                    self._tell()
                    await trio.sleep(delay)

    def _deliver(self, watch: ObjectWatch, piece: Piece) -> None:
        ahead = self._time.ahead(self._clock())
        if abs(ahead - self._ahead) > _NOTICED:
            self._ahead = ahead
            self._log.warning("kubernetes.clocks_differ", our_clock_is_ahead_by=ahead / 1e9)
            self._sink.clock_is_ahead(ahead)
        self._sink.apply(watch.resource.kind, piece.changed, piece.removed, piece.at)

    def _is_current(self, ready: Callable[[], None]) -> None:
        self._look_whether_synced()
        if self._has_everything:
            ready()
        self._tell()

    def _look_whether_synced(self) -> None:
        """Without a right to some kind the others serve, but for pods, as most names are theirs."""
        if not self._discovered or self._has_everything:
            return
        self._has_everything = all(watch.has_listed for watch in self.watches)
        settled = all(
            watch.has_listed or (watch.forbidden and watch.resource.kind is not Pod)
            for watch in self.watches
        )
        if self._has_everything or (settled and not self._synced):
            self._synced = True
            self._sink.synced(everything=self._has_everything)

    def _tell(self) -> None:
        """Log when names stop and begin to be current, and which rights are missing; no more."""
        behind = any(watch.complaint for watch in self.watches)
        said = behind, tuple(watch.resource for watch in self.watches if watch.forbidden)
        if said != self._told:
            if behind:
                self._log.warning("kubernetes.behind", reason=self.complaint())
            else:
                self._log.info("kubernetes.current", objects=sum(map(len, self.watches)))
        self._told = said

    async def _discover_for_ever(
        self, nursery: trio.Nursery, server: ApiServer, ready: Callable[[], None]
    ) -> None:
        backoff = Backoff()
        while True:
            self._look_again = trio.Event()
            try:
                found, refused = await _discover(server, tuple(self._optional))
            except (ServerAwayError, RefusedError, UsageError) as error:
                self._undiscovered = "" if self._discovered else str(error)
                await trio.sleep(backoff.next_delay())
                continue
            if refused:
                patience = backoff.next_delay()
            else:
                backoff.reset()
                patience = self._discovery * random.uniform(0.8, 1.2)  # noqa: S311
            await self._watch_optional(found, nursery, server, ready)
            self._discovered, self._undiscovered = True, ""
            self._is_current(ready)
            with trio.move_on_after(patience):
                await self._look_again.wait()
            await trio.sleep(_BETWEEN_LOOKS)

    async def _watch_optional(
        self,
        found: Sequence[Resource],
        nursery: trio.Nursery,
        server: ApiServer,
        ready: Callable[[], None],
    ) -> None:
        for resource in found:
            if resource not in self._optional:
                self._log.info("kubernetes.resource_found", resource=resource.name)
                watch = ObjectWatch(resource, self._clock, now=self._now)
                self._watches[resource] = watch
                self._optional[resource] = self._start(nursery, server, watch, ready)
        lost = self._optional.keys() - set(found)
        for resource in lost:
            self._log.info("kubernetes.resource_lost", resource=resource.name)
            self._optional.pop(resource).cancel()
            watch = self._watches.pop(resource)
            for piece in watch.forget():
                self._deliver(watch, piece)
                await trio.lowlevel.checkpoint()
        if lost and not self._optional:
            self._sink.cilium_is_gone(self._clock())


async def _discover(
    server: ApiServer, known: Sequence[Resource]
) -> tuple[tuple[Resource, ...], bool]:
    """Those of Cilium's resources that are defined now, as far as we may know, and whether we were
    forbidden to look.

    A server that was just started may refuse everything for a while, so what it forbids to look at
    is what was ``known`` of it.
    """
    refused = False
    found: dict[str, list[str]] = {}
    for version in CILIUM_VERSIONS:
        try:
            body = await server.read(version, version)
            found[version] = [r.name for r in decode_resources(body).resources or ()]
        except RefusedError as error:
            if error.status == _FORBIDDEN:
                refused = True
                found[version] = [r.name for r in known if r.path == f"{version}/{r.name}"]
            elif error.status != _NOT_FOUND:
                raise
        except DECODE_ERRORS as error:
            raise RefusedError(f"{version}: not a list of resources: {error}") from None
    return cilium_resources(found), refused
