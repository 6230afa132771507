"""Context labels: which sides of a flow its series name, and how.

A ``ContextSpec`` is what Hubble's context options say; ``values`` applies it to the two
sides of one flow. ``Contexts`` does so a batch at a time: the answer depends on the
conversation and the traffic direction alone, so it is worked out once for each pair of
these and read from a table from then on.

Rules are those of Hubble 1.20 (``pkg/hubble/metrics/api``): of several identifiers the first
that is not empty; an option for the flow's direction wins over the one for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from api.metrics.family import Labels
from parsers.addresses import address_text
from parsers.conversations import Conversations
from parsers.entities import Entity
from parsers.flow_batch import ABSENT_DESTINATION, ABSENT_SOURCE, U32, FlowBatch
from parsers.intern import lengthened

INGRESS, EGRESS = 1, 2
"""flow.TrafficDirection."""

_DIRECTIONS: Final = ("unknown", "ingress", "egress")
_APP_KEYS: Final = ("k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:app=")
_RESERVED: Final = "reserved:"
_API_SERVER: Final = "reserved:kube-apiserver"


class Side(NamedTuple):
    """One end of a flow."""

    entity: Entity
    address: str
    names: tuple[str, ...]


def _pod(side: Side) -> str:
    namespace, name = side.entity.namespace, side.entity.pod_name
    return f"{namespace}/{name}" if namespace else name


def _reserved_identity(side: Side) -> str:
    labels = side.entity.labels
    if _API_SERVER in labels:
        return _API_SERVER
    return next((label for label in labels if label.startswith(_RESERVED)), "")


def _workload(side: Side) -> str:
    workloads, namespace = side.entity.workloads, side.entity.namespace
    if not workloads:
        return ""
    return f"{namespace}/{workloads[0].name}" if namespace else workloads[0].name


def _workload_name(side: Side) -> str:
    return side.entity.workloads[0].name if side.entity.workloads else ""


def _workload_kind(side: Side) -> str:
    return side.entity.workloads[0].kind if side.entity.workloads else ""


def _app(side: Side) -> str:
    for label in side.entity.labels:
        for key in _APP_KEYS:
            if label.startswith(key) and len(label) > len(key):
                return label[len(key) :]
    return ""


def _namespace(side: Side) -> str:
    return side.entity.namespace


def _pod_name(side: Side) -> str:
    return side.entity.pod_name


def _ip(side: Side) -> str:
    return side.address


IDENTIFIERS: Final[Mapping[str, Callable[[Side], str]]] = {
    "identity": lambda side: ",".join(side.entity.labels),
    "namespace": _namespace,
    "pod": _pod,
    "pod-name": _pod_name,
    "dns": lambda side: ",".join(side.names),
    "ip": _ip,
    "reserved-identity": _reserved_identity,
    "workload": _workload,
    "workload-name": _workload_name,
    "app": _app,
}
"""What ``sourceContext`` and its kin may name."""

_OF_SIDE: Final[Mapping[str, Callable[[Side], str]]] = {
    "ip": _ip,
    "pod": _pod_name,
    "namespace": _namespace,
    "workload": _workload_name,
    "workload_kind": _workload_kind,
    "app": _app,
}
LABELS: Final = (
    *(f"source_{name}" for name in _OF_SIDE),
    *(f"destination_{name}" for name in _OF_SIDE),
    "traffic_direction",
)
"""What ``labelsContext`` may name, in Hubble's order."""

Identifiers = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """Context options of one handler; identifiers in order of preference.

    ``swapped``: source and destination change places, for what counts requests by their
    responses.
    """

    source: Identifiers = ()
    source_egress: Identifiers = ()
    source_ingress: Identifiers = ()
    destination: Identifiers = ()
    destination_egress: Identifiers = ()
    destination_ingress: Identifiers = ()
    labels: Identifiers = ()
    swapped: bool = False

    @property
    def names(self) -> Labels:
        """The labels it adds, in the order of ``values``."""
        sided: list[str] = []
        if self.source or self.source_egress or self.source_ingress:
            sided.append("source")
        if self.destination or self.destination_egress or self.destination_ingress:
            sided.append("destination")
        return (*sided, *self.labels)

    @property
    def uses_addresses(self) -> bool:
        """Whether an address may be among the values."""
        named = (
            *self.source, *self.source_egress, *self.source_ingress,
            *self.destination, *self.destination_egress, *self.destination_ingress,
        )  # fmt: skip
        return "ip" in named or not {"source_ip", "destination_ip"}.isdisjoint(self.labels)

    def pod_labels(self) -> Iterator[tuple[str, ...]]:
        """The labels that name a pod: one as ``namespace/pod``, or a pair for the two."""
        sided = {
            "source": (self.source, self.source_egress, self.source_ingress),
            "destination": (self.destination, self.destination_egress, self.destination_ingress),
        }
        for side, options in sided.items():
            if any("pod" in identifiers for identifiers in options):
                yield (side,)
            pair = (f"{side}_namespace", f"{side}_pod")
            if set(pair) <= set(self.labels):
                yield pair

    def values(self, source: Side, destination: Side, direction: int) -> Labels:
        """The values of ``names`` for a flow; empty texts where nothing is known."""
        sided = {
            "source": _first(
                self._of(direction, self.source, self.source_ingress, self.source_egress), source
            ),
            "destination": _first(
                self._of(
                    direction, self.destination, self.destination_ingress, self.destination_egress
                ),
                destination,
            ),
        }
        if self.swapped:
            source, destination = destination, source
            sided["source"], sided["destination"] = sided["destination"], sided["source"]
        found: list[str] = []
        for name in self.names:
            if name in sided:
                found.append(sided[name])
            elif name == "traffic_direction":
                found.append(_DIRECTIONS[direction] if direction < len(_DIRECTIONS) else "unknown")
            else:
                which, _, what = name.partition("_")
                found.append(_OF_SIDE[what](source if which == "source" else destination))
        return tuple(found)

    @staticmethod
    def _of(
        direction: int, always: Identifiers, ingress: Identifiers, egress: Identifiers
    ) -> Identifiers:
        if direction == INGRESS and ingress:
            return ingress
        if direction == EGRESS and egress:
            return egress
        return always


def _first(identifiers: Identifiers, side: Side) -> str:
    for identifier in identifiers:
        if value := IDENTIFIERS[identifier](side):
            return value
    return ""


class Contexts:
    """Numbers the distinct values of a spec; number 0 is never given."""

    __slots__ = (
        "_conversations", "_generation", "_numbers", "_of", "_uses_addresses", "_values", "spec",
    )  # fmt: skip

    def __init__(self, spec: ContextSpec) -> None:
        self.spec = spec
        self._uses_addresses = spec.uses_addresses
        self._conversations: Conversations | None = None
        self._generation = 0
        self._of: U32 = np.zeros(0, dtype=np.uint32)  # by conversation and direction
        self._numbers: dict[Labels, int] = {}
        self._values: list[Labels] = [()]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, number: int) -> Labels:
        return self._values[number]

    def clear(self) -> None:
        """Forget all numbers; whoever keeps some has to forget them, too."""
        self._of[:] = 0
        self._numbers.clear()
        del self._values[1:]

    def of(self, batch: FlowBatch, directions: NDArray[np.uint8]) -> U32:
        """The number of each flow's values; ``directions`` are the flows'."""
        conversations = batch.tables.conversations
        if conversations is not self._conversations or conversations.generation != self._generation:
            self._conversations, self._generation = conversations, conversations.generation
            self._of[:] = 0
        if 4 * conversations.end > len(self._of):
            self._of = lengthened(self._of, 8 * conversations.end)
        keys = batch.conversation.astype(np.int64) << 2 | directions & 3
        found: U32 = self._of[keys]
        missing = found == 0
        if missing.any():
            fresh = np.unique(keys[missing])
            self._of[fresh] = [self._number(conversations, *divmod(k, 4)) for k in fresh.tolist()]
            found = self._of[keys]
        if self._uses_addresses:
            self._put_odd_addresses(batch, directions, found)
        return found

    def _put_odd_addresses(
        self, batch: FlowBatch, directions: NDArray[np.uint8], found: U32
    ) -> None:
        """Set the numbers of flows whose L7 record names an address that is none."""
        conversations, details = batch.tables.conversations, batch.tables.details
        absent = conversations.rows["absent"][batch.conversation] != 0
        for index in (absent & (batch.detail != 0)).nonzero()[0].tolist():
            detail = details[int(batch.detail[index])]
            texts = detail.source_address, detail.destination_address
            if any(texts):
                row, direction = int(batch.conversation[index]), int(directions[index])
                found[index] = self._number(conversations, row, direction, texts)

    def _number(
        self,
        conversations: Conversations,
        row: int,
        direction: int,
        texts: tuple[str, str] = ("", ""),
    ) -> int:
        """``texts`` stand where a side has no address."""
        key = conversations.rows[row]
        own, peer = key["source_ip"].tobytes(), key["destination_ip"].tobytes()
        absent = int(key["absent"])
        if not key["ip_version"]:
            absent = ABSENT_SOURCE | ABSENT_DESTINATION
        names = conversations.name_pairs[int(conversations.names[row])]
        entities = conversations.entities
        source = Side(
            entities[int(conversations.source_entity[row])],
            texts[0] if absent & ABSENT_SOURCE else address_text(own),
            names[0],
        )
        destination = Side(
            entities[int(conversations.destination_entity[row])],
            texts[1] if absent & ABSENT_DESTINATION else address_text(peer),
            names[1],
        )
        values = self.spec.values(source, destination, direction)
        number = self._numbers.get(values)
        if number is None:
            number = self._numbers[values] = len(self._values)
            self._values.append(values)
        return number
