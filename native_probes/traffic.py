"""The traffic probe: packets and bytes of each flow, and what happens in it at once.

``bpf/traffic.bpf.c`` counts; here counters and events become reports. Events carry the
packets that they tell of, counters all others, so both are simply put in a row.

Losses are found by comparison: each packet is also counted with its interface, and what no
report has told of was lost, because its flow found no room or was thrown out for another
before it was read. Interfaces are read first, so that packets between two reads are never
taken for lost.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from native_probes import syscalls
from native_probes.counters import Differences, HashMap, Memory, memory_rows, per_cpu
from native_probes.engine import Engine, LoadedProbe
from native_probes.family import Drained
from native_probes.pins import PinFolder
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from parsers.probe_records import (
    CAUSE_SWEEP,
    FLOW_EVENT,
    FLOW_KEY,
    FLOW_REPORT,
    FLOW_VALUE,
    INTERFACE_KEY,
    INTERFACE_TOTALS,
    INTERFACE_VALUE,
    POINT_EGRESS,
    POINT_INGRESS,
)
from parsers.windows import Columns

NAME = "traffic"
PROGRAMS = {
    (POINT_INGRESS, True): "ciliary_tc_in",
    (POINT_EGRESS, True): "ciliary_tc_out",
    (POINT_INGRESS, False): "ciliary_l3_in",
    (POINT_EGRESS, False): "ciliary_l3_out",
}
"""By point, and whether the interface has a link header."""

_INTERFACES = 4096  # times points; as in the source
_COUNTED = ("skbs", "more_segments", "bytes")
_TOLD = 6  # counters of a flow (both directions') and of an interface; see struct told
_ALSO_COUNTED = ("inserted", "not_inserted", "folded")  # of an interface
_ICMP, _ICMPV6 = 1, 58
_PINNED = ("flows", "interfaces", "events", "told_flows", "told_interfaces")


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """``sample``: an event for one packet of so many; 1 is each, 0 none.

    ``flows`` and ``ring_bytes`` size the kernel's tables; a flow takes about 200 bytes there.
    They are swept every ``sweep_seconds``, and a flow that was idle for ``idle_seconds`` is
    forgotten. With ``pins``, counting goes on while no agent runs, and the next one tells it.
    """

    flows: int = 65536
    ring_bytes: int = 1 << 20
    sample: int = 0
    sweep_seconds: float = 1.0
    idle_seconds: float = 60.0
    vxlan_ports: tuple[int, int] = (4789, 8472)
    geneve_port: int = 6081
    pins: PinFolder | None = None


def traffic_spec(settings: TrafficSettings) -> ProbeSpec:
    """The spec of the probe, set so."""
    pins = settings.pins
    return ProbeSpec(
        NAME,
        constants=struct.pack(
            "<IHHHH", settings.sample, *settings.vxlan_ports, settings.geneve_port, 0
        ),
        sizes={"flows": settings.flows, "events": settings.ring_bytes}
        | (
            {"told_flows": memory_rows(settings.flows), "told_interfaces": memory_rows(_INTERFACES)}
            if pins
            else {}
        ),
        pins={name: pins.map_path(name) for name in _PINNED} if pins else {},
    )


def _load(engine: Engine, settings: TrafficSettings) -> LoadedProbe:
    """With maps of an earlier process where they fit."""
    spec = traffic_spec(settings)
    if settings.pins is None:
        return engine.load(spec)
    settings.pins.prepare()
    try:
        return engine.load(spec)
    except ProbeUnavailableError:
        if not settings.pins.remove_maps():
            raise
        return engine.load(spec)


@dataclass(frozen=True, slots=True)
class TrafficSweep:
    """``reports``: FLOW_REPORT; ``totals``: INTERFACE_TOTALS; ``lost``: packets."""

    reports: Columns
    totals: Columns
    lost: int


@dataclass(slots=True)
class TrafficStatistics:
    """Since the beginning. What the first two cost in packets is booked as lost.

    ``evicted``: flows that were thrown out for others; ``not_inserted``: packets whose flow
    found no room; ``folded``: events that found no room and were counted with their flow.
    """

    evicted: int = 0
    not_inserted: int = 0
    folded: int = 0


class TrafficProbe:
    """The loaded probe. One thread reads; interfaces may be put in by another."""

    def __init__(self, engine: Engine, settings: TrafficSettings) -> None:
        self.loaded = _load(engine, settings)
        self._idle_ns = round(settings.idle_seconds * 1e9)
        self._ring = Ring(self.loaded.map_fd("events"), settings.ring_bytes, FLOW_EVENT)
        self._flows = HashMap(self.loaded.map_fd("flows"), settings.flows, FLOW_KEY, FLOW_VALUE)
        self._interfaces = HashMap(
            self.loaded.map_fd("interfaces"), _INTERFACES, INTERFACE_KEY, per_cpu(INTERFACE_VALUE)
        )
        self._flow_news = Differences(
            _TOLD, self._memory("told_flows", settings.flows) if settings.pins else None
        )
        self._interface_news = Differences(
            _TOLD, self._memory("told_interfaces", _INTERFACES) if settings.pins else None
        )
        self._statistics = TrafficStatistics()
        self._departed: deque[int] = deque()
        self._sweep_ns = round(settings.sweep_seconds * 1e9)
        self._next_sweep = 0
        self._inserted = len(self._flow_news)  # flows since the beginning
        self._deleted = 0
        self._departing = threading.Lock()
        self._counted = self._told = self._lost = 0  # packets since the beginning

    def _memory(self, name: str, entries: int) -> Memory:
        return Memory(self.loaded.map_fd(name), entries, _TOLD)

    def program(self, point: int, *, link_header: bool) -> int:
        """The fd of the program to attach there."""
        return self.loaded.program_fd(PROGRAMS[point, link_header])

    def cover(self, ifindex: int) -> None:
        """Make room for an interface, before a program is attached to it."""
        nothing = np.zeros(1, per_cpu(INTERFACE_VALUE))
        with self._departing:
            if ifindex in self._departed:
                self._departed.remove(ifindex)
            for point in (POINT_INGRESS, POINT_EGRESS):
                self._interfaces.insert(np.array([(ifindex, point)], INTERFACE_KEY), nothing)

    def uncover(self, ifindex: int) -> None:
        """Give its room back with the next sweep, after its programs are detached."""
        self._departed.append(ifindex)

    def counted(self, ifindex: int) -> int:
        """Packets (skbs) of an interface so far, both ways."""
        value = np.zeros(1, per_cpu(INTERFACE_VALUE))
        count = 0
        for point in (POINT_INGRESS, POINT_EGRESS):
            key = np.array([(ifindex, point)], INTERFACE_KEY)
            if syscalls.look_up(self.loaded.map_fd("interfaces"), key, value):
                count += int(value["skbs"].sum())
        return count

    def events(self) -> Columns:
        """FLOW_REPORT: packets that were told of at once, since the last call."""
        reports = _event_reports(self._ring.read(), np.uint64(_time_asleep()))
        self._told += int(reports["skbs"].sum())
        return reports

    def sweep(self) -> TrafficSweep:
        """All that is new since the last sweep and is not in events."""
        totals = self._interface_totals()
        events = self.events()
        reports = np.concatenate([events, self._flow_reports(np.uint64(_time_asleep()))])
        self._counted += int(totals["skbs"].sum())
        self._told += int(reports["skbs"].sum()) - int(events["skbs"].sum())
        lost = max(0, self._counted - self._told - self._lost)
        self._lost += lost
        self._flow_news.save()
        self._interface_news.save()
        return TrafficSweep(reports, totals, lost)

    def statistics(self) -> TrafficStatistics:
        """As of the last sweep."""
        return self._statistics

    def extend(self, point: int, program: int, *, link_header: bool) -> None:
        """Let a program (its fd) have the packets of DNS ports, after they are counted."""
        index = point + (0 if link_header else 2)
        syscalls.put(
            self.loaded.map_fd("dns_programs"),
            np.array([index], "<u4"),
            np.array([program], "<u4"),
        )

    def belong(self, namespaces: frozenset[int]) -> None:
        """Nothing to do: interfaces are those of one namespace."""

    def has_news(self) -> bool:
        """See ``Family``."""
        return self._ring.has_news() or time.monotonic_ns() >= self._next_sweep

    def drain(self, *, now_ns: int) -> Drained:
        """Events, and a sweep when it is time for one (by the monotonic clock)."""
        if now_ns < self._next_sweep:
            return Drained({"traffic": self.events()})
        self._next_sweep = now_ns + self._sweep_ns
        return self.last_drain()

    def last_drain(self) -> Drained:
        """Everything that is new."""
        swept = self.sweep()
        lost = {"map_full": swept.lost} if swept.lost else {}
        return Drained({"traffic": swept.reports, "totals": swept.totals}, lost)

    def finding(self) -> Finding:
        """Of the program; whether interfaces are covered is ``Coverage``'s to say."""
        return Finding(NAME, "works")

    def close(self) -> None:
        """Unload."""
        self.loaded.close()

    def _interface_totals(self) -> Columns:
        with self._departing:
            departed = list(self._departed)
            self._departed.clear()
            return self._read_interfaces(departed)

    def _read_interfaces(self, departed: list[int]) -> Columns:
        keys, values = self._interfaces.read()
        counted = np.stack([values[name].sum(axis=1) for name in _COUNTED + _ALSO_COUNTED], axis=1)
        ids = keys["ifindex"].astype(np.uint64) << np.uint64(32) | keys["point"]
        new = self._interface_news.update(ids, counted)
        inserted, not_inserted, folded = new[:, len(_COUNTED) :].sum(axis=0)
        self._inserted += int(inserted)
        self._statistics.not_inserted += int(not_inserted)
        self._statistics.folded += int(folded)
        gone = np.isin(keys["ifindex"], departed)
        if gone.any():  # and read for the last time
            self._interfaces.delete(keys[gone])
            self._interface_news.forget(ids[gone])
        totals = np.zeros(len(keys), INTERFACE_TOTALS)
        totals["ifindex"], totals["point"] = keys["ifindex"], keys["point"]
        totals["skbs"], totals["bytes"] = new[:, 0], new[:, 2]
        totals["packets"] = new[:, 0] + new[:, 1]
        return totals[totals["skbs"] > 0]

    def _flow_reports(self, boot_offset: np.uint64) -> Columns:
        keys, values = self._flows.read()
        ids = values["id"].copy()
        counters = np.concatenate([values[name] for name in _COUNTED], axis=1)
        new = self._flow_news.update(ids, counters)
        evicted = self._inserted - self._deleted - len(ids)
        self._statistics.evicted = max(self._statistics.evicted, evicted)
        parts = []
        for back in (0, 1):
            rows = np.flatnonzero(new[:, back])
            reports = _directed(keys[rows], np.full(len(rows), back))
            skbs, more, octets = (new[rows, back + 2 * i] for i in range(3))
            reports["skbs"], reports["packets"], reports["bytes"] = skbs, skbs + more, octets
            of = values[rows]
            reports["first_ns"] = of["first_ns"] + boot_offset
            reports["last_ns"] = of["last_ns"] + boot_offset
            reports["tcp_flags"] = of["tcp_flags"][:, back]
            reports["opener"] = _from_source(of["opener"], back)
            reports["first"] = of["first"] == back
            reports["received_on"] = of["received_on"][:, back]
            reports["cause"] = CAUSE_SWEEP
            parts.append(reports)
        now = time.monotonic_ns()
        # An entry that is being made has no time yet.
        idle = (values["last_ns"] != 0) & (
            values["last_ns"] + np.uint64(self._idle_ns) < np.uint64(now)
        )
        if idle.any():
            self._deleted += self._flows.delete(keys[idle])
            self._flow_news.forget(ids[idle])
        return np.concatenate(parts)


def _time_asleep() -> int:
    """What the boot clock is ahead of the monotonic one, in ns: the time in suspend."""
    return max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns())


def _event_reports(events: Columns, boot_offset: np.uint64) -> Columns:
    reports = _directed(events["key"], events["back"])
    times = events["time_ns"] + boot_offset
    reports["first_ns"] = reports["last_ns"] = times
    reports["skbs"] = 1
    reports["packets"], reports["bytes"] = events["segments"], events["bytes"]
    reports["tcp_flags"], reports["cause"] = events["tcp_flags"], events["cause"]
    reports["opener"] = _from_source(events["opener"], events["back"])
    reports["first"] = events["first"] == events["back"]
    reports["received_on"] = events["received_on"]
    return reports


def _directed(keys: Columns, back: NDArray[np.integer]) -> Columns:
    """Reports with what the keys say, from source to destination; the rest is zero."""
    reports = np.zeros(len(keys), FLOW_REPORT)
    turned = back.astype(np.bool_)
    reports["source"] = np.where(turned, keys["b"], keys["a"])
    reports["destination"] = np.where(turned, keys["a"], keys["b"])
    for name in ("ifindex", "vlan", "family", "tunnel", "kind"):
        reports[name] = keys[name]
    reports["protocol"] = keys["proto"]
    reports["point"] = keys["a_leaves"] ^ turned
    icmp = np.isin(keys["proto"], (_ICMP, _ICMPV6))
    ip = keys["family"] > 0
    reports["icmp_type"] = np.where(icmp, keys["aport"] >> 8, 0)
    reports["icmp_code"] = np.where(icmp, keys["aport"] & 0xFF, 0)
    reports["ethertype"] = np.where(ip, 0, keys["aport"])
    ports = ip & ~icmp
    reports["source_port"] = np.where(ports, np.where(turned, keys["bport"], keys["aport"]), 0)
    reports["destination_port"] = np.where(ports, np.where(turned, keys["aport"], keys["bport"]), 0)
    return reports


def _from_source(opener: NDArray[np.uint8], back: NDArray[np.integer] | int) -> NDArray[np.uint8]:
    """``opener`` counts from a; of a report it counts from the source."""
    swapped = np.array([0, 2, 1], np.uint8)[opener]
    turned: NDArray[np.uint8] = np.where(np.asarray(back).astype(np.bool_), swapped, opener)
    return turned
