"""The drop probe: what the kernel gives up, with its own reason for it.

``bpf/drops.bpf.c`` hangs on the tracepoint ``kfree_skb`` and sends a record for each packet.
What is no news (``DEFAULT_QUIET``) is left out: rules on a reason alone are in the kernel
from the beginning. A rule on a reason at a function cannot be, as only the kernel knows where
its functions lie; so the first such record comes through, is left out here, and its code
address is put into the kernel for those that follow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from native_probes import syscalls
from native_probes.engine import LoadedProbe, unloaded_on_failure
from native_probes.event_counters import EventCounters, RecursionMisses, what_happened
from native_probes.family import Drained, Place
from native_probes.kernel_enums import TRACEFS, kernel_reasons
from native_probes.kernel_symbols import KernelSymbols
from native_probes.namespaces import NamespaceList
from native_probes.report import Finding
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from parsers.errors import UsageError
from parsers.kernel_drop_reasons import NETFILTER_DROP, NOT_SPECIFIED, KernelReasons
from parsers.probe_drops import DROP_RECORD, symbol_name
from parsers.windows import Columns

NAME = "drops"
PROGRAMS = {"drop_packet": "kfree_skb"}
"""The tracepoint of each."""

DEFAULT_QUIET = (
    "CONSUMED",  # used up, not dropped
    "OTHERHOST",  # what a bridge floods or a promiscuous interface overhears
    "QUEUE_PURGE",  # what waits in a queue that is thrown away: a closed socket's
    "TCP_OFOMERGE",  # data that came twice
    "TCP_OLD_DATA",
    "UNIX_DISCONNECT",
    "UNIX_SKIP_OOB",
    "NOT_SPECIFIED@ip6_mc_input",  # multicast that nobody here has joined
    "NOT_SPECIFIED@tcp_rcv_established",  # an acknowledgement that has done its work
    "NOT_SPECIFIED@tcp_v4_rcv",
    "NOT_SPECIFIED@tcp_v6_rcv",
    "NOT_SPECIFIED@udp_destruct_common",  # what a closed socket has not read
    "NOT_SPECIFIED@udp_destruct_sock",  # its name before 5.18
)
"""Reasons that say nothing about the network, as REASON or REASON@FUNCTION."""

COUNTERS = ("seen", "ring_full", "suppressed", "foreign")
"""``enum drop_counter`` of ``bpf/drops.h``."""

DROP_RULE = np.dtype([("location", "<u8"), ("reason", "<u4"), ("reserved", "<u4")])
"""``struct drop_rule`` of ``bpf/drops.h``."""
_MOST_RULES = 1024  # as in the source
_ONE = np.ones(1, np.uint8)


@dataclass(frozen=True, slots=True)
class DropSettings:
    """``quiet``: what is not reported; see ``DEFAULT_QUIET``.

    ``ring_bytes``: room for records that are not read yet, of 152 bytes each.
    """

    quiet: tuple[str, ...] = DEFAULT_QUIET
    ring_bytes: int = 1 << 20


def drop_spec(settings: DropSettings, reasons: KernelReasons, place: Place) -> ProbeSpec:
    """The spec of the probe for a kernel with these reasons."""
    return ProbeSpec(
        NAME,
        constants=struct.pack(
            "<II", reasons.numbers.get(NETFILTER_DROP, 0), place.namespaces is not None
        ),
        sizes={"drops": settings.ring_bytes},
        tracepoints=PROGRAMS,
    )


class QuietRules:
    """What is not reported, by number of reason in this kernel and name of function.

    Raises ``UsageError`` for a rule that is none; one whose reason this kernel does not
    have is kept and never applies.
    """

    __slots__ = ("anywhere", "located")

    def __init__(self, rules: Iterable[str], reasons: KernelReasons) -> None:
        self.anywhere: set[int] = set()
        self.located: set[tuple[int, str]] = set()
        for rule in rules:
            reason, at, function = rule.partition("@")
            if not reason or (at and not function) or not rule.replace("@", "").isidentifier():
                raise UsageError(f"{rule!r} is no rule on drops; write REASON or REASON@FUNCTION")
            number = reasons.numbers.get(reason, 0 if reason == NOT_SPECIFIED else None)
            if number is None:
                continue
            if at:
                self.located.add((number, function))
            else:
                self.anywhere.add(number)


class DropProbe:
    """The loaded and attached probe; a ``Family``."""

    def __init__(self, place: Place, settings: DropSettings) -> None:
        self.reasons = kernel_reasons()
        self._symbols = KernelSymbols()
        self._quiet = 0  # left out here, since the last drain
        self._rules = QuietRules(settings.quiet, self.reasons)
        self._known: set[tuple[int, int]] = set()  # located rules that are in the kernel
        self.loaded: LoadedProbe = place.engine.load(drop_spec(settings, self.reasons, place))
        with unloaded_on_failure(NAME, self.loaded):
            self._rule_map = self.loaded.map_fd("drop_rules")
            for reason in self._rules.anywhere:
                self._forbid(0, reason)
            self._namespaces = NamespaceList(self.loaded.map_fd("namespaces"))
            self._namespaces.become(place.namespaces or frozenset())
            self._counters = EventCounters(self.loaded.map_fd("drop_counters"), COUNTERS)
            self._ring = Ring(self.loaded.map_fd("drops"), settings.ring_bytes, DROP_RECORD)
            for program in PROGRAMS:
                self.loaded.attach(program)
            self._misses = RecursionMisses(map(self.loaded.program_fd, PROGRAMS))

    def belong(self, namespaces: frozenset[int]) -> None:
        """See ``Family``."""
        self._namespaces.become(namespaces)

    def has_news(self) -> bool:
        """See ``Family``."""
        return self._ring.has_news()

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``."""
        drops = self._without_quiet(self._with_symbols(self._ring.read()))
        new = self._counters.new()
        quiet, self._quiet = self._quiet + new["suppressed"], 0
        return Drained(
            {"drops": drops},
            what_happened(ring_full=new["ring_full"], recursion=self._misses.new()),
            what_happened(quiet=quiet, foreign=new["foreign"]),
            {"drop_reasons": self.reasons},
        )

    def finding(self) -> Finding:
        """See ``Family``."""
        if self.reasons.numbers:
            return Finding(NAME, "works")
        return Finding(
            NAME,
            "degraded",
            "the kernel gives no reasons for drops, or does not say their names",
            f"use a newer kernel; without type information, mount tracefs at {TRACEFS}",
            "5.17",
        )

    def close(self) -> None:
        """Detach and unload."""
        self.loaded.close()

    def _with_symbols(self, drops: Columns) -> Columns:
        """Names of functions where the program has none: by bcc, and before 5.13."""
        unnamed = drops["symbol"] == b""
        if unnamed.any():
            locations = drops["location"][unnamed].tolist()
            names = self._symbols.names(locations)
            drops["symbol"][unnamed] = [names[location] for location in locations]
        return drops

    def _without_quiet(self, drops: Columns) -> Columns:
        keep = np.ones(len(drops), np.bool_)
        candidates = np.isin(drops["reason"], [reason for reason, _ in self._rules.located])
        for row in candidates.nonzero()[0].tolist():
            drop = drops[row]
            reason, location = int(drop["reason"]), int(drop["location"])
            if (reason, symbol_name(drop["symbol"])) in self._rules.located:
                keep[row] = False
                if (reason, location) not in self._known and len(self._known) < _MOST_RULES // 2:
                    self._known.add((reason, location))
                    self._forbid(location, reason)
        quiet = int(np.count_nonzero(~keep))
        self._quiet += quiet
        return drops[keep] if quiet else drops

    def _forbid(self, location: int, reason: int) -> None:
        syscalls.put(self._rule_map, np.array([(location, reason, 0)], DROP_RULE), _ONE)
