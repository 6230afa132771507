"""What of a pod's object counts for names, and nothing more, as a cluster has many of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from bridge.kubernetes.label_filter import SOURCE, LabelFilter
from bridge.kubernetes.objects import Labels, Pod
from bridge.kubernetes.workloads import workload_of
from parsers.addresses import parse_address
from parsers.entities import Workload
from parsers.flow_batch import L4_SCTP, L4_TCP, L4_UDP

T = TypeVar("T")

MOST_LABELS = 256
"""Labels of one pod, or namespace, that count; more are no use to anybody."""

_SHARED = 1 << 14  # objects that equal ones are replaced by
_L4 = {"TCP": L4_TCP, "UDP": L4_UDP, "SCTP": L4_SCTP}
_ENDED = frozenset({"Succeeded", "Failed"})  # phases: the addresses were given back


class PodFacts(NamedTuple):
    """``labels``: those of the pod itself that count, as ``k8s:key=value``.

    ``addresses``: its own, none for a hostNetwork pod. ``host_addresses`` and ``host_ports``:
    where it is found on its node (``HostPorts``). ``began``: ns, when it may have got its address,
    0 if unknown.
    ``ends``: ns, when it has to be gone, 0 while it may stay.
    ``alive``: it may have addresses of its own.
    """

    labels: tuple[str, ...]
    service_account: str
    workloads: tuple[Workload, ...]
    node: str
    addresses: tuple[bytes, ...]
    host_addresses: tuple[bytes, ...]
    host_ports: tuple[int, ...]
    began: int
    ends: int
    alive: bool


class Shared:
    """The first of equal objects, for all that are equal to it.

    Pods of one workload have nearly everything in common.
    """

    def __init__(self) -> None:
        self._first: dict[Any, Any] = {}

    def facts(self, facts: PodFacts) -> PodFacts:
        """Facts that equal these."""
        return facts._replace(
            labels=self._of(facts.labels),
            service_account=self._of(facts.service_account),
            workloads=self._of(facts.workloads),
            node=self._of(facts.node),
        )

    def _of(self, value: T) -> T:
        if len(self._first) >= _SHARED:
            self._first.clear()
        first: T = self._first.setdefault(value, value)
        return first


def facts_of(pod: Pod, counts: LabelFilter) -> PodFacts:
    """The facts of a pod."""
    spec, status, metadata = pod.spec, pod.status, pod.metadata
    alive = status.phase not in _ENDED
    workload = workload_of(pod)
    ports = _host_ports(pod) if alive else ()
    return PodFacts(
        labels=texts_of(metadata.labels, counts),
        service_account=spec.service_account_name,
        workloads=(workload,) if workload is not None else (),
        node=spec.node_name,
        addresses=() if spec.host_network or not alive else _addresses(pod),
        host_addresses=_host_addresses(pod) if ports else (),
        host_ports=ports,
        began=nanoseconds(_networked(pod) or status.start_time or metadata.creation_timestamp),
        ends=nanoseconds(metadata.deletion_timestamp or ""),
        alive=alive and not spec.host_network,
    )


def texts_of(labels: Labels | None, counts: LabelFilter, prefix: str = "") -> tuple[str, ...]:
    """Labels that count, in Cilium's form, sorted."""
    found = sorted((prefix + key, value) for key, value in (labels or {}).items())
    return tuple(
        label_text(SOURCE, key, value) for key, value in found[:MOST_LABELS] if counts.counts(key)
    )


def number_of(protocol: str, port: int) -> int:
    """A port with its protocol, as ``HostPorts`` has it; 0 for none."""
    return _L4.get(protocol, 0) << 16 | port if port else 0


def label_text(source: str, key: str, value: str) -> str:
    """A label as Cilium prints it."""
    return f"{source}:{key}={value}" if value else f"{source}:{key}"


def addresses_of(*texts: str) -> tuple[bytes, ...]:
    """The addresses among texts, each once and sorted."""
    return tuple(sorted({a for text in set(texts) if (a := parse_address(text)) is not None}))


def nanoseconds(text: str) -> int:
    """A time of the API (RFC 3339) as ns since the epoch; 0 for none, a wrong one, or one that
    64 bits do not hold.
    """
    try:
        time = int(datetime.fromisoformat(text).timestamp()) * 10**9 if text else 0
    except (ValueError, OverflowError):
        return 0
    return time if 0 <= time < 1 << 63 else 0


def _networked(pod: Pod) -> str:
    """Since when the pod has a network, where the kubelet tells (since 1.29)."""
    for condition in pod.status.conditions or ():
        if condition.type == "PodReadyToStartContainers" and condition.status == "True":
            return condition.last_transition_time or ""
    return ""


def _addresses(pod: Pod) -> tuple[bytes, ...]:
    status = pod.status
    return addresses_of(status.pod_ip, *(each.ip for each in status.pod_ips or ()))


def _host_addresses(pod: Pod) -> tuple[bytes, ...]:
    of_host = addresses_of(pod.status.host_ip)
    return tuple(sorted({*of_host, *_addresses(pod)})) if pod.spec.host_network else of_host


def _host_ports(pod: Pod) -> tuple[int, ...]:
    ports = {
        number_of(port.protocol, port.host_port or port.container_port * pod.spec.host_network)
        for container in pod.spec.containers or ()
        for port in container.ports or ()
        if port.protocol in _L4
    }
    return tuple(sorted(filter(None, ports)))
