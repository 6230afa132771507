"""The source of own probes: loads them, follows the interfaces, drains, delivers.

Each family stands alone: one that cannot start is found (``findings``), left out, and tried again
at growing intervals, and so is one that cannot be read any more; only when none starts, or the
traffic probe cannot be read, does ``run`` fail. Loading, attaching and reading are done in threads;
the loop sees batches. When ``run`` is cancelled, everything is detached and what was
counted until then is delivered.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trio

from native_probes import links
from native_probes.conntrack import EVENT_SIDES, Translations
from native_probes.engine import Engine, LibbpfEngine, refused
from native_probes.families import Families
from native_probes.family import Drained, StartFamily
from native_probes.interfaces import (
    Coverage,
    CoverageStatistics,
    InterfacePatterns,
    far_ends,
    judge_hooks,
    ways_in,
)
from native_probes.node_interfaces import NodeInterfaces
from native_probes.node_namespaces import is_whole_machine, node_namespaces
from native_probes.own_thread import in_own_thread
from native_probes.report import Finding, Log, ProbeUnavailableError
from native_probes.tc import TcHooks
from native_probes.traffic import NAME as TRAFFIC
from native_probes.traffic import TrafficProbe, TrafficSettings
from parsers.node_network import NodeNetwork
from parsers.probe_batch import ProbeBatch
from parsers.probe_records import POINT_INGRESS

_LONGEST_REST = 1.0  # s between two drains
_LONGEST_RETRY = 64  # times the first interval
_RECORDS_AT_ONCE = 1000  # new conversations take some 12 µs each, while the loop waits


def _own_namespace() -> int:
    """Inode of the calling thread's network namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """``interval_seconds``: between two drains, if there is news. ``traffic``: None leaves that
    probe out.

    ``families`` are the other probes by name. ``retry_seconds``: after which one that does not
    work is tried again for the first time; later ones take twice as long each.
    """

    traffic: TrafficSettings | None = field(default_factory=TrafficSettings)
    families: Mapping[str, StartFamily] = field(default_factory=dict)
    interfaces: InterfacePatterns = field(default_factory=InterfacePatterns)
    interval_seconds: float = 0.1
    retry_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Since the source was made. ``interfaces`` is None without the traffic probe."""

    interfaces: CoverageStatistics | None
    batches: int
    seen: Mapping[str, int]
    lost: Mapping[tuple[str, str], int]


def _starts(settings: SourceSettings) -> dict[str, StartFamily]:
    traffic = settings.traffic
    if traffic is None:
        return dict(settings.families)
    return {TRAFFIC: lambda place: TrafficProbe(place.engine, traffic), **settings.families}


class ProbeSource:
    """Runs the probes of one node; ``deliver`` is called on the loop with each batch.

    ``tell`` is called likewise with what the node's addresses and routes tell of addresses.
    """

    def __init__(
        self,
        settings: SourceSettings,
        deliver: Callable[[ProbeBatch], None],
        log: Log,
        *,
        engine: Engine | None = None,
        hooks: TcHooks | None = None,
        tell: Callable[[NodeNetwork], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._deliver = deliver
        self._log = log
        self._families = Families(_starts(settings), engine or LibbpfEngine(), log)
        self._hooks = hooks or TcHooks(pins=settings.traffic.pins if settings.traffic else None)
        self._coverage: Coverage | None = None
        self._interfaces = NodeInterfaces(settings.interfaces, tell, log)
        self._missed = 0
        self._batches = 0
        self._retry_after, self._retry_at = settings.retry_seconds, math.inf
        self._drained = 0.0
        self._netns = 0
        self._translations: Translations | None = None
        self._namespaces: frozenset[int] | None = None  # None: the whole machine is the node
        self._seen: Counter[str] = Counter()
        self._lost: Counter[tuple[str, str]] = Counter()

    async def run(self, ready: Callable[[], None]) -> None:
        """Until cancelled. Raises ``ProbeUnavailableError`` if no probe works."""
        self._netns = _own_namespace()
        with contextlib.suppress(OSError):  # a kernel without connection tracking translates none
            self._translations = Translations()
        if not is_whole_machine():
            self._namespaces = await self._find_namespaces()
        try:
            try:
                await trio.to_thread.run_sync(self._families.start, self._namespaces)
            except ProbeUnavailableError:
                # beside a cancellation, an error would go where nobody expects it
                await trio.lowlevel.checkpoint_if_cancelled()
                raise
            self._cover()
            async with trio.open_nursery() as nursery:
                await nursery.start(self._interfaces.follow)
                if self._namespaces is not None:
                    nursery.start_soon(self._follow_namespaces)
                ready()
                self._retry_at = trio.current_time() + self._retry_after
                while True:
                    await self._drain_when_due()
                    if not self._families.complete and trio.current_time() >= self._retry_at:
                        await self._retry()
        finally:
            with trio.CancelScope(shield=True):
                await self._end()

    async def _end(self) -> None:
        """Detach, which takes seconds with hundreds of interfaces and is drained meanwhile."""
        try:
            if self._coverage:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._detach, self._coverage, nursery.cancel_scope)
                    while True:
                        await self._drain_when_due()
        finally:
            await self._hand_over(await trio.to_thread.run_sync(self._stop))

    async def _detach(self, coverage: Coverage, then: trio.CancelScope) -> None:
        await trio.to_thread.run_sync(coverage.stop)
        then.cancel()

    async def _drain_when_due(self) -> None:
        await trio.sleep(self._settings.interval_seconds)
        if self._has_news():
            await self._hand_over(await trio.to_thread.run_sync(self._drain))

    def examine(self) -> tuple[Finding, ...]:
        """How each probe does here: load all of them, and let them go. For a thread.

        Tracing probes are attached for that time; nothing is left at any interface.
        """
        try:
            self._families.start(self._namespaces)
            if (traffic := self._families.traffic) is not None:
                self._hooks.look(traffic.program(POINT_INGRESS, link_header=True))
        except ProbeUnavailableError:
            pass  # each is in the findings
        except OSError as error:
            self._families.give_up(refused(TRAFFIC, error).finding(TRAFFIC))
        try:
            return tuple(
                judge_hooks(f, self._hooks) if f.probe == TRAFFIC and f.state == "works" else f
                for f in self.findings()
            )
        finally:
            self._stop()

    def findings(self) -> tuple[Finding, ...]:
        """One for each probe that was to run; empty before ``run`` tried."""
        found = self._families.findings()
        if self._coverage and self._families.traffic:
            found = [self._coverage.judge(f) if f.probe == TRAFFIC else f for f in found]
        return tuple(found)

    def interface_name(self, ifindex: int) -> str:
        """Of an interface that is there, or was covered lately; "" for others."""
        return self._interfaces.name(ifindex)

    def statistics(self) -> SourceStatistics:
        """As of now."""
        return SourceStatistics(
            self._coverage.statistics() if self._coverage else None,
            self._batches,
            dict(self._seen),
            dict(self._lost),
        )

    def _to_take_over(self) -> list[int]:
        if self._hooks.pins is None:
            return []
        matches = self._settings.interfaces.match
        return [link.ifindex for link in links.all_links() if matches(link)]

    async def _retry(self) -> None:
        """Start what does not run, and wait longer before the next time, unless all was well."""
        now, first = trio.current_time(), self._settings.retry_seconds
        longest = _LONGEST_RETRY * first
        calm = now - self._retry_at > longest
        self._retry_after = first if calm else min(2 * self._retry_after, longest)
        self._retry_at = now + self._retry_after
        await trio.to_thread.run_sync(self._families.start_missing, self._namespaces)
        self._cover()

    def _cover(self) -> None:
        """Cover interfaces once the traffic probe works.

        On the loop, as the thread acts in the network namespace of the one that makes it.
        """
        traffic = self._families.traffic
        if traffic is not None and self._coverage is None:
            self._coverage = Coverage(traffic, self._hooks, self._to_take_over())
            self._interfaces.cover_by(self._coverage)

    def _has_news(self) -> bool:
        """Whether to drain; counters without records are worth it once in a while."""
        rested = time.monotonic() - self._drained >= _LONGEST_REST
        return rested or self._families.has_news()

    def _drain(self) -> ProbeBatch:
        self._drained = time.monotonic()
        if self._namespaces is not None:
            self._families.belong(self._namespaces)
        now_ns = time.monotonic_ns()
        return self._batch(self._families.read(lambda family: family.drain(now_ns=now_ns)))

    def _stop(self) -> ProbeBatch:
        if self._coverage:
            self._coverage.stop()
        batch = self._batch(self._families.read(lambda family: family.last_drain()))
        self._families.close()
        if self._translations:
            self._translations.close()
            self._translations = None
        return batch

    def _batch(self, drained: Mapping[str, Drained]) -> ProbeBatch:
        fields: dict[str, Any] = {}
        for part in drained.values():
            for name, rows in part.records.items():
                fields[name] = np.concatenate([fields[name], rows]) if name in fields else rows
            fields |= part.about
        self._translate(fields)
        lost = {(name, why): n for name, part in drained.items() for why, n in part.lost.items()}
        ignored = {(name, w): n for name, part in drained.items() for w, n in part.ignored.items()}
        seen = {name: part.seen for name, part in drained.items() if part.seen}
        if self._coverage:
            missed = self._coverage.statistics().missed_packets
            if missed > self._missed:
                lost[TRAFFIC, "not_covered"] = missed - self._missed
                seen[TRAFFIC] = seen.get(TRAFFIC, 0) + missed - self._missed
                self._missed = missed
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        patterns = self._settings.interfaces
        covered = self._coverage.covered_lately() if self._coverage else {}
        now_covered = self._coverage.covered() if self._coverage else []
        known = self._interfaces.known()
        return ProbeBatch(
            boot_offset=time.time_ns() - now_ns,
            now_ns=now_ns,
            covered=frozenset(ways_in(known, covered)),
            far_ends=frozenset(far_ends(known, now_covered)),
            pods=frozenset(i for i, link in covered.items() if patterns.is_pod(link)),
            lost=lost,
            ignored=ignored,
            seen=seen,
            netns=self._netns,
            **fields,
        )

    def _translate(self, fields: dict[str, Any]) -> None:
        """Put the real ends of connections into records."""
        if self._translations is None:
            return
        try:
            if "traffic" in fields:
                self._translations.apply(fields["traffic"])
            for part in EVENT_SIDES.keys() & fields.keys():
                fields[part] = self._translations.joined(part, fields[part])
        except OSError as error:
            self._log.warning("probe.no_translations", reason=str(error))
            self._translations.close()
            self._translations = None

    async def _hand_over(self, batch: ProbeBatch) -> None:
        if len(batch) or len(batch.totals) or batch.lost or batch.ignored:
            self._batches += 1
            self._seen.update(batch.seen)
            self._lost.update(batch.lost)
            with trio.CancelScope(shield=True):  # what was drained is delivered
                for piece in batch.pieces(_RECORDS_AT_ONCE):
                    self._deliver(piece)
                    await trio.lowlevel.checkpoint()

    async def _follow_namespaces(self) -> None:
        while True:
            await self._interfaces.pods_changed.wait()
            self._namespaces = await self._find_namespaces()

    async def _find_namespaces(self) -> frozenset[int]:
        is_pod = self._settings.interfaces.is_pod
        return await in_own_thread(
            lambda: node_namespaces([link for link in links.all_links() if is_pod(link)])
        )
