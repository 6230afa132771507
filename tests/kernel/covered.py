"""Pods whose veths are counted from their first packet on, so all counters begin at zero."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from native_probes.engine import LibbpfEngine
from native_probes.tc import Attachment, TcHooks
from native_probes.traffic import TrafficProbe, TrafficSettings
from parsers.probe_records import FLOW_REPORT, INTERFACE_TOTALS, POINT_EGRESS, POINT_INGRESS
from parsers.windows import Columns
from tests.kernel.lab import Lab, Pod, inside


@dataclass(slots=True)
class Counting:
    """The traffic probe at the veths of a lab's pods."""

    lab: Lab
    probe: TrafficProbe
    hooks: TcHooks
    attached: list[Attachment] = field(default_factory=list)
    lost: int = 0
    _reports: list[Columns] = field(default_factory=lambda: [np.empty(0, FLOW_REPORT)])
    _totals: list[Columns] = field(default_factory=lambda: [np.empty(0, INTERFACE_TOTALS)])

    def add_pod(self) -> Pod:
        return self.lab.add_pod(before_up=self.cover)

    def cover(self, pod: Pod) -> None:
        ifindex = self.lab.ifindex(pod.interface)
        self.probe.cover(ifindex)
        with inside(self.lab.node):
            for point in (POINT_INGRESS, POINT_EGRESS):
                program = self.probe.program(point, link_header=True)
                self.attached.append(self.hooks.attach(ifindex, point, program))

    def reports(self, **wanted: int) -> Columns:
        """All FLOW_REPORT rows so far with these values."""
        swept = self.probe.sweep()
        self._reports.append(swept.reports)
        self._totals.append(swept.totals)
        self.lost += swept.lost
        return chosen(np.concatenate(self._reports), **wanted)

    def totals(self, **wanted: int) -> Columns:
        """All INTERFACE_TOTALS rows up to the last call of ``reports``."""
        return chosen(np.concatenate(self._totals), **wanted)

    def interface_counters(self, pod: Pod) -> dict[int, tuple[int, int]]:
        """Packets and bytes by point, as the kernel counted them for the interface."""
        (shown,) = json.loads(self.lab.ip("-s", "-j", "link", "show", pod.interface))
        counted = shown["stats64"]
        return {
            point: (counted[way]["packets"], counted[way]["bytes"])
            for point, way in ((POINT_INGRESS, "rx"), (POINT_EGRESS, "tx"))
        }

    def equals_the_interface(self, pod: Pod) -> None:
        """Flows, totals and the interface's own counters agree; asked when it is quiet."""
        ifindex = self.lab.ifindex(pod.interface)
        before = None
        while before != (before := self.interface_counters(pod)):
            reports = self.reports(ifindex=ifindex)  # until nothing came meanwhile
        for of in (reports, self.totals(ifindex=ifindex)):
            ours = {
                point: tuple(int(chosen(of, point=point)[c].sum()) for c in ("skbs", "bytes"))
                for point in (POINT_INGRESS, POINT_EGRESS)
            }
            assert before == ours


def chosen(rows: Columns, **wanted: int) -> Columns:
    """Rows with these values."""
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows


@contextmanager
def counting(
    lab: Lab, settings: TrafficSettings | None = None, *, tcx: bool | None = None
) -> Iterator[Counting]:
    probe = TrafficProbe(LibbpfEngine(), settings or TrafficSettings())
    counting = Counting(lab, probe, TcHooks(tcx=tcx))
    try:
        yield counting
    finally:
        with inside(lab.node):
            for attachment in counting.attached:
                attachment.detach()
        probe.close()
