"""Which interfaces are covered, and how they get and lose their programs.

Strategy: one thread attaches, as the kernel does one at a time whatever we do (each takes
12-16 ms), and works off what changed, newest state first: an interface that has gone while
it waited costs nothing. The thread is made where ``Coverage`` is, so it acts in the network
namespace of its maker.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from native_probes import leftovers
from native_probes.links import Link, one_link
from native_probes.report import Finding
from native_probes.tc import Attachment, TcHooks
from native_probes.traffic import TrafficProbe
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS

_MOST_DEPARTED = 1024
_BUNDLING = {"bond", "team"}
_SPLITTING = {"vlan", "macvlan", "ipvlan"}


@dataclass(frozen=True, slots=True)
class InterfacePatterns:
    """Names as shell patterns. Without ``uplinks``, hardware and what bundles it is taken, and
    interfaces of default routes (``may_be_uplink``).
    """

    pods: tuple[str, ...] = ("azv*", "cali*", "cilium_*", "eni*", "gke*", "lxc*", "veth*")
    uplinks: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def is_pod(self, link: Link) -> bool:
        """Whether an interface is the node's end of a pod's."""
        return _any(self.pods, link.name)

    def match(self, link: Link) -> bool:
        """Whether an interface is one of those to cover.

        Of a bundle only the bundle is: its parts see the same packets.
        """
        if link.is_loopback or _any(self.excluded, link.name):
            return False
        if self.is_pod(link) or _any(self.uplinks, link.name):
            return True
        if self.uplinks or link.slave_kind in _BUNDLING:
            return False
        return not link.kind or link.kind in _BUNDLING

    def may_be_uplink(self, link: Link) -> bool:
        """Whether an interface is one to cover if the node reaches anywhere by it."""
        return not (self.uplinks or link.is_loopback or _any(self.excluded, link.name))


@lru_cache(4096)  # asked at every drain, of the same names
def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def ways_in(known: Collection[Link], covered: Iterable[int]) -> set[int]:
    """Interfaces whose packets a covered one has seen when they come in.

    These are the covered ones, what they are ports of, and what splits their packets by
    VLAN or MAC address. A tunnel's end is none, as its packets were inside of others.
    """
    seen = set(covered)
    count = -1
    while len(seen) != count:
        count = len(seen)
        for link in known:
            if link.ifindex in seen and link.master:
                seen.add(link.master)
            if link.kind in _SPLITTING and link.peer_namespace < 0 and link.lower in seen:
                seen.add(link.ifindex)
    return seen


def far_ends(known: Collection[Link], covered: Iterable[int]) -> set[int]:
    """Covered veths whose other end is covered, too, in the same namespace.

    What comes in by one of them has left by the other.
    """
    seen = set(covered)
    return {
        link.ifindex
        for link in known
        if link.kind == "veth"
        and link.peer_namespace < 0
        and link.ifindex in seen
        and link.lower in seen
    }


@dataclass(slots=True)
class CoverageStatistics:
    """Since the beginning, but for ``covered`` and ``waiting``."""

    covered: int = 0
    waiting: int = 0
    attached: int = 0
    failed: int = 0
    leftovers: int = 0  # filters of an earlier run that were removed
    missed_packets: int = 0  # that new interfaces counted before they were covered


@dataclass(frozen=True, slots=True)
class _Wanted:
    link: Link
    is_new: bool  # it appeared while we ran, so what it has counted we have missed
    instead: bool = False  # an interface that is gone had its number


def judge_hooks(finding: Finding, hooks: TcHooks) -> Finding:
    """The traffic probe's finding, degraded where programs can only be attached the old way."""
    if hooks.tcx is False:
        return Finding(
            finding.probe,
            "degraded",
            "the kernel has no TCX, so clsact filters are used, which outlive a killed agent",
            "run ciliary detach when it is gone for good, or use a newer kernel",
            "6.6",
        )
    return finding


class Coverage:
    """Attaches the traffic probe to interfaces, in a thread of its own.

    ``cover`` and ``uncover`` return at once. ``last_error`` says why an interface could not
    be covered, "" when none failed. ``taken_over`` are interfaces at which the programs of an
    earlier process go on until ours replace them.
    """

    def __init__(
        self, probe: TrafficProbe, hooks: TcHooks, taken_over: Collection[int] = ()
    ) -> None:
        self._probe = probe
        self._taken_over = taken_over
        self._hooks = hooks
        self._attachments: dict[int, list[Attachment]] = {}
        self._links: dict[int, Link] = {}  # as they were when they were covered
        self._departed: deque[Link] = deque(maxlen=_MOST_DEPARTED)
        self._changes: dict[int, _Wanted | None] = {}  # in order; None is to uncover
        self._changed = threading.Condition()
        self._in_hand = 0  # changes that are being made
        self._stopping = False
        self._statistics = CoverageStatistics()
        self.last_error = ""
        self._thread = threading.Thread(target=self._work, name="attach", daemon=True)
        self._thread.start()

    def cover(self, link: Link, *, is_new: bool) -> None:
        """Soon; nothing happens if it is covered already."""
        wanted = _Wanted(link, is_new)
        with self._changed:
            if link.ifindex in self._changes:
                before = self._changes[link.ifindex]
                wanted = (
                    _Wanted(link, is_new or before.is_new, before.instead)
                    if before
                    else _Wanted(link, is_new, instead=True)
                )
            self._changes[link.ifindex] = wanted
            self._changed.notify()

    def uncover(self, ifindex: int) -> None:
        """Soon; nothing happens if it is not covered."""
        with self._changed:
            self._changes[ifindex] = None
            self._changed.notify()

    def covered(self) -> list[int]:
        """Their ifindexes."""
        return list(self._attachments)

    def covered_lately(self) -> dict[int, Link]:
        """By ifindex, those and the last ones that were: they may yet be reported of."""
        return {link.ifindex: link for link in [*self._departed, *list(self._links.values())]}

    def statistics(self) -> CoverageStatistics:
        """As of now."""
        self._statistics.covered = len(self._attachments)
        with self._changed:
            self._statistics.waiting = len(self._changes) + self._in_hand
        return self._statistics

    def stop(self) -> None:
        """Uncover everything, which takes 8-16 ms for each program; with pins, let go of it."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def judge(self, finding: Finding) -> Finding:
        """The traffic probe's finding, degraded if its programs are attached less than well."""
        if self.last_error:
            return Finding(
                finding.probe,
                "degraded",
                f"{self._statistics.failed} times an interface could not be covered, "
                f"last {self.last_error}",
                "see the reason given, and leave out interfaces that are not wanted",
            )
        return judge_hooks(finding, self._hooks)

    def _work(self) -> None:
        self._remove_leftovers()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._changes or self._stopping)
                if self._stopping:
                    break
                ifindex = next(iter(self._changes))
                change = self._changes.pop(ifindex)
                self._in_hand = 1
            if change is None or change.instead:
                self._uncover(ifindex)
            if change is not None and ifindex not in self._attachments:
                self._cover(change)
            self._in_hand = 0
        if self._hooks.pins is None:
            for ifindex in self.covered():
                self._uncover(ifindex)
        for attachments in self._attachments.values():
            for attachment in attachments:
                attachment.leave()
        self._attachments.clear()

    def _remove_leftovers(self) -> None:
        """With pins, what is at an interface stays until ours takes its place."""
        kept = set(self._taken_over)
        try:
            if self._hooks.pins:
                self._hooks.pins.remove_links_except(kept)
            found = [left for left in leftovers.find_leftovers() if left.ifindex not in kept]
            self._statistics.leftovers = leftovers.remove(found)
        except OSError as error:
            self.last_error = f"leftovers of an earlier run: {error.strerror}"

    def _cover(self, wanted: _Wanted) -> None:
        ifindex = wanted.link.ifindex
        header = wanted.link.has_link_header
        attachments: list[Attachment] = []
        try:
            self._probe.cover(ifindex)
            before = self._probe.counted(ifindex)  # of another one that had its number
            for point in (POINT_INGRESS, POINT_EGRESS):
                program = self._probe.program(point, link_header=header)
                attachments.append(self._hooks.attach(ifindex, point, program))
            if wanted.is_new:
                missed = one_link(ifindex).packets - (self._probe.counted(ifindex) - before)
                self._statistics.missed_packets += max(0, missed)
        except OSError as error:
            for attachment in attachments:
                attachment.detach()
            self._probe.uncover(ifindex)
            if error.errno not in {errno.ENODEV, errno.ENXIO}:  # else it has gone meanwhile
                self._statistics.failed += 1
                self.last_error = f"{wanted.link.name}: {error.strerror}"
            return
        self._links[ifindex] = wanted.link
        self._attachments[ifindex] = attachments
        self._statistics.attached += 1

    def _uncover(self, ifindex: int) -> None:
        attachments = self._attachments.get(ifindex)
        if attachments is None:
            return
        self._departed.append(self._links.pop(ifindex))
        del self._attachments[ifindex]
        for attachment in attachments:
            attachment.detach()
        self._probe.uncover(ifindex)
