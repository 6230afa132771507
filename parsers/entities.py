"""Who is behind an address: entities.

An ``Entity`` is what the API calls an Endpoint: everything that is printed about one
side of a flow. Rows are immutable and shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parsers.flow_batch import U32
from parsers.intern import lengthened
from parsers.object_table import ObjectTable


@dataclass(frozen=True, slots=True)
class Workload:
    """The owner of a pod as people know it."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Entity:
    """One side of a flow: flow.Endpoint. Empty values mean the field is not set."""

    endpoint_id: int = 0
    identity: int = 0
    namespace: str = ""
    pod_name: str = ""
    labels: tuple[str, ...] = ()  # sorted, ``source:key=value``
    workloads: tuple[Workload, ...] = ()
    cluster_name: str = ""


class Entities(ObjectTable[Entity]):
    """Rows of ``Entity``; row 0 is no endpoint at all (the message is absent)."""

    __slots__ = ("endpoint_id", "identity")

    def __init__(self) -> None:
        super().__init__(Entity())
        self.endpoint_id: U32 = np.zeros(64, dtype=np.uint32)  # by row
        self.identity: U32 = np.zeros(64, dtype=np.uint32)

    def add(self, value: Entity) -> int:
        """A row of its own."""
        row = super().add(value)
        if row >= len(self.endpoint_id):
            self.endpoint_id = lengthened(self.endpoint_id, 2 * row)
            self.identity = lengthened(self.identity, 2 * row)
        self.endpoint_id[row] = value.endpoint_id
        self.identity[row] = value.identity
        return row
