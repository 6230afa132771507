"""Who is behind an address: entities, and the conversations between two of them.

An ``Entity`` is what the API calls an Endpoint: everything that is printed about one
side of a flow. Rows are immutable and shared. A conversation is resolved to its two
entities once, not per flow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import CONVERSATION, U32
from parsers.intern import InternTable, Keys


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


class Entities:
    """Rows of ``Entity``; row 0 is no endpoint at all (the message is absent)."""

    __slots__ = ("_row_of", "_rows", "endpoint_id", "identity")

    def __init__(self) -> None:
        self._rows: list[Entity] = [Entity()]
        self._row_of: dict[Entity, int] = {}
        self.endpoint_id: U32 = np.zeros(64, dtype=np.uint32)  # by row
        self.identity: U32 = np.zeros(64, dtype=np.uint32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Entity:
        return self._rows[row]

    def intern(self, entity: Entity) -> int:
        """The row of an equal entity, made when there is none; never 0."""
        row = self._row_of.get(entity)
        if row is None:
            row = self._row_of[entity] = len(self._rows)
            self._rows.append(entity)
            if row >= len(self.endpoint_id):
                self.endpoint_id = np.resize(self.endpoint_id, 2 * row)
                self.identity = np.resize(self.identity, 2 * row)
            self.endpoint_id[row] = entity.endpoint_id
            self.identity[row] = entity.identity
        return row


class Conversations:
    """Rows of ``CONVERSATION`` and what they resolve to.

    ``source_entity`` and ``destination_entity`` (uint32, by conversation row) are rows of
    ``entities``. ``names`` (uint32, by conversation row) is a row of ``name_pairs``:
    (source_names, destination_names), pair 0 being empty. The arrays are replaced when
    they grow: take them anew for each batch.
    """

    __slots__ = ("_keys", "destination_entity", "entities", "name_pairs", "names", "source_entity")

    def __init__(self, entities: Entities) -> None:
        self.entities = entities
        self._keys = InternTable(CONVERSATION)
        self.source_entity: U32 = np.zeros(self._keys.capacity, dtype=np.uint32)
        self.destination_entity: U32 = np.zeros(self._keys.capacity, dtype=np.uint32)
        self.names: U32 = np.zeros(self._keys.capacity, dtype=np.uint32)
        self.name_pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), ())]

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rows(self) -> Keys:
        """Keys by row, dtype ``CONVERSATION``."""
        return self._keys.rows

    @property
    def capacity(self) -> int:
        """Row numbers are below it."""
        return self._keys.capacity

    def reclaim(self, in_use: NDArray[np.bool_]) -> int:
        """Free the rows whose flag is false."""
        return self._keys.reclaim(in_use)
