"""Who is behind an address: entities, and the conversations between two of them.

An ``Entity`` is what the API calls an Endpoint: everything that is printed about one
side of a flow. Rows are immutable and shared. A conversation is resolved to its two
entities once, not per flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import ABSENT_DESTINATION, ABSENT_SOURCE, CONVERSATION, I64, U32
from parsers.intern import InternTable, Keys

if TYPE_CHECKING:
    from parsers.directory import Directory


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
    """Rows of ``Entity``; row 0 is no endpoint at all (the message is absent).

    ``reclaim`` forgets entities, but their numbers are not used again: what is cached by
    row stays true, and a row costs 8 bytes once its entity is gone.
    """

    __slots__ = ("_row_of", "_rows", "endpoint_id", "generation", "identity")

    def __init__(self) -> None:
        self._rows: list[Entity | None] = [Entity()]
        self._row_of: dict[Entity, int] = {}
        self.generation = 0  # rises when entities were forgotten: who interned must again
        self.endpoint_id: U32 = np.zeros(64, dtype=np.uint32)  # by row
        self.identity: U32 = np.zeros(64, dtype=np.uint32)

    def __len__(self) -> int:
        """Entities there are, the absent one included."""
        return len(self._row_of) + 1

    def __getitem__(self, row: int) -> Entity:
        entity = self._rows[row]
        if entity is None:
            raise IndexError(row)
        return entity

    def reclaim(self, used: U32) -> int:
        """Forget every entity but those of the rows ``used``; returns how many."""
        in_use = np.zeros(len(self._rows), dtype=np.bool_)
        in_use[used] = True
        in_use[0] = True
        before = len(self)
        for row in np.flatnonzero(~in_use).tolist():
            entity = self._rows[row]
            if entity is not None:
                del self._row_of[entity]
                self._rows[row] = None
        self.generation += 1
        return before - len(self)

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


# A CONVERSATION without its MACs.
_KEY = Struct("<16s16s12xIIIIBBH")
_ANSWER = ("source_entity", "destination_entity", "names", "services", "_until", "_since")
"""The columns that a conversation is resolved to."""

_SINCE_EVER = -(2**63)
_FOR_EVER = 2**63 - 1
_ENTITY_CACHE = 1 << 16
_FEWEST_ENTITIES = 1 << 14  # below it they are not worth a look
_VERSION_SHIFT = 2  # versions live above the bits of ``absent``


class Conversations:
    """Rows of ``CONVERSATION`` and what they resolve to.

    ``source_entity`` and ``destination_entity`` (uint32, by conversation row) are rows of
    ``entities``. ``names`` (uint32, by conversation row) is a row of ``name_pairs``:
    (source_names, destination_names), pair 0 being empty. ``services`` (uint8) has bit 1
    where the source and bit 2 where the destination is the address of some service.
    The arrays are replaced when they grow: take them anew for each batch.

    A row never changes. When the directory learns something that changes the answer, the
    same key gets a further row (its version stands in the spare bits of ``absent``) and
    events are given the row that held at their time.
    """

    __slots__ = (
        "_current",
        "_entity_limit",
        "_entity_of",
        "_first_seen",
        "_fresh",
        "_generation",
        "_keys",
        "_pair_of",
        "_previous",
        "_since",
        "_until",
        "destination_entity",
        "entities",
        "generation",
        "name_pairs",
        "names",
        "services",
        "source_entity",
    )  # fmt: skip

    _BY_ROW = (
        "source_entity", "destination_entity", "names", "services",
        "_current", "_previous", "_since", "_until", "_first_seen", "_fresh",
    )  # fmt: skip

    def __init__(self, entities: Entities) -> None:
        self.entities = entities
        self.generation = 0  # rises when rows were freed: caches by row are void then
        self._keys = InternTable(CONVERSATION)
        size = self._keys.capacity
        self.source_entity: U32 = np.zeros(size, dtype=np.uint32)
        self.destination_entity: U32 = np.zeros(size, dtype=np.uint32)
        self.names: U32 = np.zeros(size, dtype=np.uint32)
        self.services = np.zeros(size, dtype=np.uint8)
        self._current: U32 = np.zeros(size, dtype=np.uint32)  # newest version, by first row
        self._previous: U32 = np.zeros(size, dtype=np.uint32)  # version before, 0 for none
        self._since = np.full(size, _SINCE_EVER, dtype=np.int64)
        self._until = np.full(size, _FOR_EVER, dtype=np.int64)
        self._first_seen: I64 = np.zeros(size, dtype=np.int64)  # scratch of ``lookup``
        self._fresh = np.zeros(size, dtype=np.bool_)
        self._generation = -1
        self.name_pairs: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), ())]
        self._pair_of: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {((), ()): 0}
        self._entity_of: dict[tuple[bytes | None, int, int], int] = {}
        self._entity_limit = _FEWEST_ENTITIES

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

    def nbytes(self) -> int:
        """Bytes of keys and of the columns by row."""
        return self._keys.nbytes() + sum(int(getattr(self, c).nbytes) for c in self._BY_ROW)

    def lookup(self, keys: Keys, time: I64, directory: Directory) -> U32:
        """The rows of ``keys`` as they were named at ``time`` (ns, same length)."""
        first, made = self._keys.lookup(keys)
        if directory.generation != self._generation:
            self._generation = directory.generation
            self._fresh[:] = False
            self._entity_of.clear()
        if len(made):
            self._grow()
            self._first_seen[first[::-1]] = time[::-1]
            self._current[made], self._previous[made] = made, 0
            self._fill(made, self._first_seen[made].tolist(), directory)
        rows = self._current[first]
        # Answers from before the directory changed, and those that ended; at the earliest
        # event first, so that a row in use is never resolved for a time it skipped over.
        stale = ~self._fresh[rows] | (time >= self._until[rows])
        while stale.any():
            order = np.flatnonzero(stale)[np.argsort(-time[stale], kind="stable")]
            when = dict(zip(first[order].tolist(), time[order].tolist(), strict=True))
            for row, at in when.items():
                self._renew(row, at, directory)
            rows = self._current[first]
            stale = time >= self._until[rows]
        for index in np.flatnonzero(time < self._since[rows]).tolist():
            row = int(rows[index])
            while time[index] < self._since[row] and self._previous[row]:
                row = int(self._previous[row])
            rows[index] = row
        return rows

    def reclaim(self, in_use: NDArray[np.bool_]) -> int:
        """Free the rows whose flag is false, other versions of a used key excepted."""
        keep = in_use.copy()
        moved = (self._current != 0) & (self._current != np.arange(self.capacity))
        for row in np.flatnonzero(moved).tolist():
            version = int(self._current[row])
            chain = [row]
            while version and version != row:
                chain.append(version)
                version = int(self._previous[version])
            keep[chain] = keep[chain].any()
        freed = self._keys.reclaim(keep)
        dead = ~keep
        self._current[dead] = 0
        self._previous[dead] = 0
        self.generation += 1
        if len(self.entities) > self._entity_limit:
            live = self._keys.live_rows()
            sides = np.concatenate([self.source_entity[live], self.destination_entity[live]])
            self.entities.reclaim(sides)
            self._entity_of.clear()
            self._entity_limit = max(_FEWEST_ENTITIES, 2 * len(self.entities))
        return freed

    def _grow(self) -> None:
        size = self.capacity
        if size > len(self._since):
            for name in self._BY_ROW:
                old = getattr(self, name)
                column = np.zeros(size, dtype=old.dtype)
                column[: len(old)] = old
                setattr(self, name, column)

    def _fill(self, rows: U32, time: list[int], directory: Directory) -> None:
        """Resolve ``rows``, each at its time, and fill their columns."""
        resolve = self._resolve
        keys = _KEY.iter_unpack(self.rows[rows].tobytes())
        answers = [resolve(key, at, directory) for key, at in zip(keys, time, strict=True)]
        for name, values in zip(_ANSWER, zip(*answers, strict=True), strict=True):
            getattr(self, name)[rows] = values
        self._fresh[rows] = True

    def _resolve(self, key: tuple[Any, ...], time: int, directory: Directory) -> tuple[int, ...]:
        """The values of the columns ``_ANSWER`` for a key."""
        source, destination, identity, peer_identity, entity, peer_entity, _, version, absent = key
        if not version or absent & ABSENT_SOURCE:
            source = None
        if not version or absent & ABSENT_DESTINATION:
            destination = None
        changed = directory.changed_addresses
        since, until = peer_since, peer_until = _SINCE_EVER, _FOR_EVER
        if source in changed:
            since, until = directory.valid_between(source, time)
        if destination in changed:
            peer_since, peer_until = directory.valid_between(destination, time)
        entity = (
            entity
            or self._entity_of.get((source, identity, since))
            or self._entity(source, identity, since, time, directory)
        )
        peer_entity = (
            peer_entity
            or self._entity_of.get((destination, peer_identity, peer_since))
            or self._entity(destination, peer_identity, peer_since, time, directory)
        )
        number = 0
        if source in directory.named_addresses or destination in directory.named_addresses:
            pair = (
                directory.names_of(self.entities[peer_entity].endpoint_id, source),
                directory.names_of(self.entities[entity].endpoint_id, destination),
            )
            number = self._pair_of.setdefault(pair, len(self.name_pairs))
            if number == len(self.name_pairs):
                self.name_pairs.append(pair)
        services = directory.service_addresses
        served = (source in services) | (destination in services) << 1
        until = min(until, peer_until)
        return entity, peer_entity, number, served, until, max(since, peer_since)

    def _renew(self, first: int, time: int, directory: Directory) -> None:
        """Resolve a key again after the directory changed; a new answer gets a new row."""
        row = int(self._current[first])
        self._fresh[row] = True
        before = [int(getattr(self, name)[row]) for name in _ANSWER]
        answer = self._resolve(_KEY.unpack(self.rows[row].tobytes()), time, directory)
        if before[:-2] == list(answer[:-2]):
            self._until[row] = answer[-2]
            return
        key = self.rows[row : row + 1].copy()
        key["absent"] += 1 << _VERSION_SHIFT
        numbers, _ = self._keys.lookup(key)
        version = int(numbers[0])
        self._grow()
        for name, value in zip(_ANSWER, answer, strict=True):
            getattr(self, name)[version] = value
        self._current[first], self._current[version] = version, version
        self._previous[version], self._fresh[version] = row, True

    def _entity(
        self, address: bytes | None, identity: int, since: int, time: int, directory: Directory
    ) -> int:
        """Ask the directory for an entity, and remember it until the directory changes."""
        if len(self._entity_of) >= _ENTITY_CACHE:
            self._entity_of.clear()
        row = self.entities.intern(directory.entity(address, identity, time))
        self._entity_of[address, identity, since] = row
        return row
