"""Pods that are gone, and when their series shall go.

A minute later, so that the last counts are scraped, as Hubble does it; a pod that came back
meanwhile keeps its series. Agent events tell: for pods of this node those about its endpoints,
for pods of other nodes those about addresses, where Hubble keeps their series for ever. Where
names come from Kubernetes, its pods tell as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from parsers.agent_events import EndpointUpdate, IpcacheUpdate
from parsers.pipeline import AgentRecord

DELAY = 60.0
"""Seconds between a pod's end and that of its series."""

_MOST = 1 << 16  # pods that wait; more than that are forgotten at once


class DepartedPods:
    """Times are those of one clock, in seconds, and do not fall."""

    __slots__ = ("_due", "_metrics")

    def __init__(self, metrics: HubbleMetrics) -> None:
        self._metrics = metrics
        self._due: OrderedDict[tuple[str, str], float] = OrderedDict()

    def observe(self, record: AgentRecord, now: float) -> None:
        """Take note of an endpoint or an address of a pod that came or went."""
        told = record.event.notification
        if not isinstance(told, EndpointUpdate | IpcacheUpdate) or not told.pod_name:
            return
        if record.event.type in (flow_pb2.ENDPOINT_DELETED, flow_pb2.IPCACHE_DELETED):
            self.depart(told.namespace, told.pod_name, now)
        else:
            self.arrive(told.namespace, told.pod_name)

    def arrive(self, namespace: str, name: str) -> None:
        """A pod is there, and keeps its series."""
        self._due.pop((namespace, name), None)

    def depart(self, namespace: str, name: str, now: float) -> None:
        """A pod is gone."""
        self._due.setdefault((namespace, name), now + DELAY)

    def sweep(self, now: float) -> Iterator[None]:
        """Remove the series of pods that are due; gives way between its steps."""
        due = []
        while self._due and (next(iter(self._due.values())) <= now or len(self._due) > _MOST):
            due.append(self._due.popitem(last=False)[0])
        if due:
            yield from self._metrics.remove_pods(due)
