"""Who is behind an address: entities, and the conversations between two of them.

An ``Entity`` is what the API calls an Endpoint: everything that is printed about one
side of a flow. Rows are immutable and shared. A conversation is resolved to its two
entities once, not per flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.flow_batch import ABSENT_DESTINATION, ABSENT_SOURCE, CONVERSATION, I64, U32
from parsers.intern import InternTable, Keys, lengthened
from parsers.object_table import ObjectTable

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


# A CONVERSATION without its MACs.
_KEY = Struct("<16s16s12xIIIIBBH")
_ANSWER = ("source_entity", "destination_entity", "names", "services", "_until", "_since")
"""The columns that a conversation is resolved to."""

NamePair: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]

_SINCE_EVER = -(2**63)
_FOR_EVER = 2**63 - 1
_ENTITY_CACHE = 1 << 14
_VERSION_SHIFT = 2  # versions live above the bits of ``absent``

_RESOLVED = np.dtype(
    [
        ("_since", np.int64),
        ("_until", np.int64),
        ("_first_seen", np.int64),  # scratch of ``lookup``
        ("source_entity", np.uint32),
        ("destination_entity", np.uint32),
        ("names", np.uint32),
        ("_first", np.uint32),  # the row of the key's first version
        ("_current", np.uint32),  # and of its newest, by first row
        ("_previous", np.uint32),  # version before, 0 for none
        ("_fresh", np.uint32),  # the directory's generation when it was asked, plus 1
        ("services", np.uint8),
    ],
    align=True,
)
"""Beside each key, in one array: a look-up needs most of it, and it grows in one piece."""

_COLUMNS = _RESOLVED.names or ()


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
        *_COLUMNS, "_entity_of", "_keys", "_resolved", "_seen", "_versions", "entities",
        "generation", "name_pairs",
    )  # fmt: skip

    source_entity: U32
    destination_entity: U32
    names: U32
    services: NDArray[np.uint8]
    _first: U32
    _current: U32
    _previous: U32
    _fresh: U32
    _since: I64
    _until: I64
    _first_seen: I64

    def __init__(self, entities: Entities) -> None:
        self.entities = entities
        self.generation = 0  # rises when rows or what they name are freed: caches are void then
        self.name_pairs: ObjectTable[NamePair] = ObjectTable(((), ()))
        self._keys = InternTable(CONVERSATION)
        self._resolved = np.zeros(0, dtype=_RESOLVED)
        self._seen = -1  # the directory's generation
        self._versions = 0  # rows that are not their key's first
        self._entity_of: dict[tuple[bytes | None, int, int], int] = {}
        self._grow()
        self._since[0], self._until[0] = _SINCE_EVER, _FOR_EVER

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rows(self) -> Keys:
        """Keys by row, dtype ``CONVERSATION``."""
        return self._keys.rows

    @property
    def capacity(self) -> int:
        """Length of ``rows``."""
        return self._keys.capacity

    @property
    def end(self) -> int:
        """Row numbers given so far are below it."""
        return self._keys.end

    def nbytes(self) -> int:
        """Bytes of the rows in use: keys, columns by row, and what they resolved to."""
        resolved = len(self) * _RESOLVED.itemsize + self.entities.nbytes + self.name_pairs.nbytes
        return self._keys.nbytes() + resolved

    def lookup(self, keys: Keys, time: I64, directory: Directory) -> U32:
        """The rows of ``keys`` as they were named at ``time`` (ns, same length)."""
        first, made = self._keys.lookup(keys)
        if self._seen != directory.generation:
            self._seen = directory.generation
            self._entity_of.clear()
        if len(made):
            self._grow()
            self._first_seen[first[::-1]] = time[::-1]
            self._first[made], self._current[made], self._previous[made] = made, made, 0
            self._fill(made, self._first_seen[made].tolist(), directory)
        rows = self._current[first]
        # Answers from before the directory changed, and those that ended; at the earliest
        # event first, so that a row in use is never resolved for a time it skipped over.
        stale = (self._fresh[rows] != self._seen + 1) | (time >= self._until[rows])
        while stale.any():
            order = stale.nonzero()[0][np.argsort(-time[stale], kind="stable")]
            when = dict(zip(first[order].tolist(), time[order].tolist(), strict=True))
            for row, at in when.items():
                self._renew(row, at, directory)
            rows = self._current[first]
            stale = time >= self._until[rows]
        for index in (time < self._since[rows]).nonzero()[0].tolist():
            row = int(rows[index])
            while time[index] < self._since[row] and self._previous[row]:
                row = int(self._previous[row])
            rows[index] = row
        return rows

    def mark(self, rows: U32, in_use: NDArray[np.bool_]) -> None:
        """Flag rows that something refers to, and the first version of their keys."""
        in_use[rows] = True
        if self._versions:
            in_use[self._first[rows]] = True

    def reclaim(self, in_use: NDArray[np.bool_], start: int = 0, stop: int | None = None) -> int:
        """Free the rows of [start, stop) whose flag is false; as ``InternTable.reclaim``.

        Flags are those of ``mark``. Versions of a key go with its first row, or when
        there is a newer one.
        """
        stop = self.end if stop is None else min(stop, self.end)
        if not start:
            self.generation += 1
        rows = (self._keys.is_live(start, stop)).nonzero()[0] + start
        rows = rows[(self._first[rows] == rows) & (rows != 0)].astype(np.uint32)
        dead = rows[~in_use[rows]]
        if self._versions:
            kept = rows[in_use[rows]]
            versions = (*self._versions_of(dead), *self._drop_versions(kept, in_use))
            self._versions -= sum(map(len, versions))
            dead = np.concatenate([dead, *versions])
        self._keys.free(dead)
        return len(dead)

    def live_rows(self, start: int, stop: int) -> U32:
        """The rows of [start, stop) that are in use."""
        return ((self._keys.is_live(start, stop)).nonzero()[0] + start).astype(np.uint32)

    def reclaim_resolved(
        self,
        entities: NDArray[np.bool_],
        pairs: NDArray[np.bool_],
        start: int = 0,
        stop: int | None = None,
    ) -> int:
        """Free entities and pairs of names by their flags; as ``InternTable.reclaim``."""
        if not start:
            self.generation += 1
            self._entity_of.clear()
        freed = self.entities.reclaim(entities, start, stop)
        return freed + self.name_pairs.reclaim(pairs, start, stop)

    def _versions_of(self, first: U32) -> Iterator[U32]:
        """All further versions of keys, by their first rows."""
        version = self._current[first]
        while len(version):
            more = version != first
            first, version = first[more], version[more]
            yield version
            version = self._previous[version]

    def _drop_versions(self, first: U32, in_use: NDArray[np.bool_]) -> Iterator[U32]:
        """Take unused versions between the first and the newest out of the chains."""
        newer = self._current[first]
        version = self._previous[newer]
        while len(version):
            more = (version != first) & (version != 0)
            first, newer, version = first[more], newer[more], version[more]
            unused = ~in_use[version]
            yield version[unused]
            older = self._previous[version]
            self._previous[newer[unused]] = older[unused]
            newer, version = np.where(unused, newer, version), older

    def _grow(self) -> None:
        if self.capacity > len(self._resolved):
            self._resolved = lengthened(self._resolved, self.capacity)
            for name in _COLUMNS:
                setattr(self, name, self._resolved[name])

    def _fill(self, rows: U32, time: list[int], directory: Directory) -> None:
        """Resolve ``rows``, each at its time, and fill their columns."""
        resolve = self._resolve
        keys = _KEY.iter_unpack(self.rows[rows].tobytes())
        answers = [resolve(key, at, directory) for key, at in zip(keys, time, strict=True)]
        for name, values in zip(_ANSWER, zip(*answers, strict=True), strict=True):
            getattr(self, name)[rows] = values
        self._fresh[rows] = self._seen + 1

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
            number = self.name_pairs.intern(pair) if any(pair) else 0
        services = directory.service_addresses
        served = (source in services) | (destination in services) << 1
        until = min(until, peer_until)
        return entity, peer_entity, number, served, until, max(since, peer_since)

    def _renew(self, first: int, time: int, directory: Directory) -> None:
        """Resolve a key again after the directory changed; a new answer gets a new row."""
        row = int(self._current[first])
        self._fresh[row] = self._seen + 1
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
        self._previous[version], self._first[version] = row, first
        self._fresh[version] = self._seen + 1
        self._versions += 1

    def _entity(
        self, address: bytes | None, identity: int, since: int, time: int, directory: Directory
    ) -> int:
        """Ask the directory for an entity, and remember it until the directory changes."""
        if len(self._entity_of) >= _ENTITY_CACHE:
            self._entity_of.clear()
        row = self.entities.intern(directory.entity(address, identity, time))
        self._entity_of[address, identity, since] = row
        return row
