"""Which source's events count: Cilium's where its agent speaks, own probes' elsewhere.

``source: auto`` connects to the monitor socket for ever, and runs own probes while nothing
comes from there. A connection proves itself by its first payload. From then on:

1. Own probes are told to end. Until they are detached and what they had is delivered,
   Cilium's events are those of traffic that they tell of, so these are discarded and booked
   (``FlowPath.discard``), and a little longer: some wait in the agent.
2. Cilium's events count. What of own probes is pinned is removed, or it would go on counting
   for them.
3. When the connection ends, it has some time to come back, as an agent that restarts does.
   Then own probes run again.

So nothing counts twice, and of each change the ledger has the gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NoReturn, Protocol, TypeAlias

import trio

from bridge.event_log import EventLog
from bridge.flow_path import FlowPath
from parsers.framing import PayloadBatch

Choice: TypeAlias = Literal["auto", "cilium", "probes"]


class ProbesPart(Protocol):
    """Own probes."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Until cancelled; ``ready`` is called when they are attached."""

    async def leave(self) -> None:
        """Take away what of them outlives ``run``."""


PATIENCE = 3.0
"""Seconds that a connection may be away, or silent from its beginning."""

_FIRST_TRY = 0.3  # s in which a connection is made at the agent's start, if there is a socket
_SETTLING = 0.3  # s: what the agent had queued, and what was drained of it, comes within


class SourceSwitch:
    """One for an agent. ``path`` gets what counts."""

    __slots__ = (
        "_choice", "_connected", "_log", "_path", "_probing", "_quiet_until", "_speaks", "_spoke",
        "_turned", "_unheard_since",
    )  # fmt: skip

    def __init__(self, choice: Choice, path: FlowPath, log: EventLog) -> None:
        self._choice = choice
        self._path = path
        self._log = log
        self._connected = False
        self._speaks = self._spoke = False  # this connection, and any
        self._probing = False
        self._quiet_until = self._unheard_since = -math.inf
        self._turned = trio.Event()

    @property
    def reads_cilium(self) -> bool:
        """Whether the monitor socket is a source at all."""
        return self._choice != "probes"

    @property
    def may_probe(self) -> bool:
        """Whether own probes are a source at all."""
        return self._choice != "cilium"

    @property
    def source(self) -> str:
        """Whose events count now: "cilium", "probes", or "" while there is none."""
        if self._probing:
            return "probes"
        return "cilium" if self._speaks else ""

    def connected(self) -> None:
        """A connection to the monitor socket was made."""
        self._connected = True
        self._turn()

    def disconnected(self) -> None:
        """It has ended."""
        self._connected = False
        if self._speaks:
            self._speaks = False
            self._unheard_since = trio.current_time()
        self._turn()

    def deliver(self, payloads: PayloadBatch) -> None:
        """Take what the monitor socket said."""
        if len(payloads) and not self._speaks:
            self._speaks = self._spoke = True
            self._turn()
        if self._probing or trio.current_time() < self._quiet_until:
            self._path.discard(payloads)
        else:
            self._path.deliver(payloads)

    async def keep_probes(self, probes: ProbesPart, ready: Callable[[], None]) -> NoReturn:
        """Run own probes whenever nothing comes from Cilium."""
        if not self._spoke:
            self._unheard_since = trio.current_time()
        while True:
            await self._until_needed(probes, ready)
            await self._probe(probes, ready)

    async def _until_needed(self, probes: ProbesPart, ready: Callable[[], None]) -> None:
        while self._choice == "auto":
            patience = PATIENCE if self._connected or self._spoke else _FIRST_TRY
            left = self._unheard_since + patience - trio.current_time()
            turned = self._turned
            if self._speaks:
                await probes.leave()
                ready()
                await turned.wait()
            elif left > 0:
                with trio.move_on_after(left):
                    await turned.wait()
            else:
                return

    async def _probe(self, probes: ProbesPart, ready: Callable[[], None]) -> None:
        """Until Cilium speaks."""
        attached = False

        def begun() -> None:
            nonlocal attached
            attached = True
            self._log.info("source.changed", source="probes")
            ready()

        self._probing = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_when_cilium_speaks, nursery.cancel_scope)
                await probes.run(begun)
        finally:
            self._probing = False
            if attached:
                self._quiet_until = trio.current_time() + _SETTLING
                self._path.book_gap("probes")
        self._log.info("source.changed", source="cilium")

    async def _end_when_cilium_speaks(self, scope: trio.CancelScope) -> None:
        while self._choice == "probes" or not self._speaks:
            await self._turned.wait()
        scope.cancel()

    def _turn(self) -> None:
        self._turned.set()
        self._turned = trio.Event()
