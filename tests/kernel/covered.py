"""Pods whose veths are counted from their first packet on, so all counters begin at zero."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from native_probes.engine import Engine, LibbpfEngine
from native_probes.tc import Attachment, TcHooks
from native_probes.traffic import TrafficProbe, TrafficSettings
from parsers.probe_records import FLOW_REPORT, INTERFACE_TOTALS, POINT_EGRESS, POINT_INGRESS
from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside

_PATIENCE = 30.0


@dataclass(slots=True)
class Counting:
    """The traffic probe at the veths of a lab's pods."""

    lab: Lab
    probe: TrafficProbe
    hooks: TcHooks
    attached: list[Attachment] = field(default_factory=list)
    covered: list[Pod] = field(default_factory=list)
    lost: int = 0
    _reports: list[Columns] = field(default_factory=lambda: [np.empty(0, FLOW_REPORT)])
    _totals: list[Columns] = field(default_factory=lambda: [np.empty(0, INTERFACE_TOTALS)])

    def add_pod(self) -> Pod:
        pod = self.lab.add_pod(before_up=self.cover)
        self.lab.introduce(pod)
        return pod

    def cover(self, pod: Pod) -> None:
        ifindex = self.lab.ifindex(pod.interface)
        self.covered.append(pod)
        self.probe.cover(ifindex)
        with inside(self.lab.node):
            for point in (POINT_INGRESS, POINT_EGRESS):
                program = self.probe.program(point, link_header=True)
                self.attached.append(self.hooks.attach(ifindex, point, program))

    def reports(self, **wanted: int) -> Columns:
        """All FLOW_REPORT rows so far with these values, once nothing is under way.

        A veth counts a packet when it is sent, and its program runs somewhat later.
        """
        deadline = time.monotonic() + _PATIENCE
        while (before := self._packets()) != self._counted() or before != self._packets():
            assert time.monotonic() < deadline, (before, self._counted())
            time.sleep(0.01)
        return self.reports_now(**wanted)

    def reports_now(self, **wanted: int) -> Columns:
        """The same, whatever the interfaces have counted."""
        self._sweep()
        return chosen(np.concatenate(self._reports), **wanted)

    def _sweep(self) -> None:
        swept = self.probe.sweep()
        self._reports.append(swept.reports)
        self._totals.append(swept.totals)
        self.lost += swept.lost

    def _counted(self) -> dict[tuple[int, int], int]:
        """Packets by interface and point, as the programs counted them."""
        self._sweep()
        totals = np.concatenate(self._totals)
        return {
            (ifindex, point): int(chosen(totals, ifindex=ifindex, point=point)["skbs"].sum())
            for ifindex, point in self._interfaces()
        }

    def _packets(self) -> dict[tuple[int, int], int]:
        return {where: packets for where, (packets, _) in self._interfaces().items()}

    def _interfaces(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Packets and bytes as the kernel counted them for the interfaces."""
        names = {pod.interface for pod in self.covered}
        return {
            (shown["ifindex"], point): (counted["packets"], counted["bytes"])
            for shown in json.loads(self.lab.ip("-s", "-j", "link", "show"))
            if shown["ifname"] in names
            for point, way in ((POINT_INGRESS, "rx"), (POINT_EGRESS, "tx"))
            for counted in [shown["stats64"][way]]
        }

    def totals(self, **wanted: int) -> Columns:
        """All INTERFACE_TOTALS rows up to the last call of ``reports``."""
        return chosen(np.concatenate(self._totals), **wanted)

    def equals_the_interface(self, pod: Pod) -> None:
        """Flows, totals and the interface's own counters agree, once nothing is under way."""
        ifindex = self.lab.ifindex(pod.interface)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            shown = {at: counts for at, counts in self._interfaces().items() if at[0] == ifindex}
            flows = _by_point(self.reports_now(ifindex=ifindex))
            totals = _by_point(self.totals(ifindex=ifindex))
            if shown == flows == totals:
                return
            time.sleep(0.01)
        assert shown == flows
        assert shown == totals


def _by_point(rows: Columns) -> dict[tuple[int, int], tuple[int, int]]:
    """Packets and bytes by interface and point, of one interface."""
    return {
        (int(ifindex), point): (int(of["skbs"].sum()), int(of["bytes"].sum()))
        for ifindex in np.unique(rows["ifindex"])
        for point in (POINT_INGRESS, POINT_EGRESS)
        for of in [chosen(rows, point=point)]
    }


def chosen(rows: Columns, **wanted: int) -> Columns:
    """Rows with these values."""
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows


@contextmanager
def counting(
    lab: Lab,
    settings: TrafficSettings | None = None,
    *,
    tcx: bool | None = None,
    engine: Engine | None = None,
) -> Iterator[Counting]:
    probe = TrafficProbe(engine or LibbpfEngine(), settings or TrafficSettings())
    counting = Counting(lab, probe, TcHooks(tcx=tcx))
    try:
        yield counting
    finally:
        with inside(lab.node):
            for attachment in counting.attached:
                attachment.detach()
        probe.close()
