"""The conversations between two addresses, and who is behind them when.

A conversation is resolved to its two entities, their names and services once, and not per
flow; and again when the time or the directory's changes make the answer another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parsers import compiled
from parsers.address_table import ADDRESS, buckets_of
from parsers.entities import Entities, Entity
from parsers.flow_batch import ABSENT_DESTINATION, ABSENT_SOURCE, CONVERSATION, I64, U32
from parsers.flow_columns import directions
from parsers.intern import InternTable, Keys, lengthened
from parsers.object_table import ObjectTable
from parsers.prefixes import within
from parsers.timeline import EVER, FOREVER

if TYPE_CHECKING:
    from parsers.changes import Voided
    from parsers.directory import Directory

FIRST_OF_CLUSTER, LOCAL_SCOPE = 256, 1 << 24
"""Identities below the first are reserved and say who it is; those from the second on are of
prefixes and names outside, or of nodes. Between are the pods of clusters.
"""

NamePair: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]

_MOST_SIDES = 1 << 14  # remembered

_SIDE = np.dtype([("owner", "u4"), ("identity", "u4"), ("named", "u4"), ("is_one", "u4")])
"""What an entity follows from; the last is 1, as a key of zeroes is none."""
_VERSION_SHIFT = 2  # versions live above the bits of ``absent``
_VERSIONS, _ATTEMPTS = 1 << 14, 64

_NO_ROWS: U32 = np.zeros(0, dtype=np.uint32)

_ANSWER = (
    "source_entity", "destination_entity", "names", "source_frontends", "destination_frontends",
    "unknown",
)  # fmt: skip
"""What a conversation is resolved to: uint32 each."""

_KEPT = np.dtype(
    [
        ("_since", np.int64),  # by first row, when the answer of the current row holds
        ("_until", np.int64),
        ("_current", np.uint32),  # by first row, the version asked for last; 0: none yet
        ("_first", np.uint32),  # the row of the key's first version
        ("_next", np.uint32),  # another version, 0 for none
    ],
    align=True,
)
"""What is kept beside each key, in one array: a look-up needs most of it."""

# Words of 16 and 4 bytes in a CONVERSATION.
_ADDRESSES = slice(0, 2)
_IDENTITIES = slice(11, 13)
_ENTITIES = slice(13, 15)


class Conversations:
    """Rows of ``CONVERSATION`` and what they resolve to, as columns by row (uint32):

    =========================  ==========================================================
    ``source_entity``,         rows of ``entities``
    ``destination_entity``
    ``names``                  row of ``name_pairs``: (source_names, destination_names),
                               pair 0 being empty
    ``source_frontends``,      rows of the directory's ``frontends``, 0 for none
    ``destination_frontends``
    ``unknown``                why a side has no name: the reason code of the source, and
                               that of the destination times 16; 0 when both have one
    ``answers``                all of these, six by row
    ``buckets``                of both addresses (uint16, two by row; see ``buckets_of``)
    =========================  ==========================================================

    The arrays are replaced when they grow: take them anew for each batch.

    A row never changes. When the answer is another one, because of the time or of what the
    directory learned, the same key gets a further row (its version stands in the spare bits of
    ``absent``), and events are given the row that holds at their time. Each key remembers the
    version asked for last and how long it holds; the directory's changes void that.
    """

    __slots__ = (
        *_ANSWER, "answers", *(_KEPT.names or ()), "_generation", "_kept", "_keys", "_seen",
        "_side_entity", "_side_tells", "_sides", "_unlisted", "_versions", "buckets", "entities",
        "generation", "name_pairs",
    )  # fmt: skip

    source_entity: U32
    destination_entity: U32
    names: U32
    source_frontends: U32
    destination_frontends: U32
    unknown: U32
    _first: U32
    _current: U32
    _next: U32
    _since: I64
    _until: I64

    def __init__(self, entities: Entities) -> None:
        self.entities = entities
        self.generation = 0  # rises when rows or what they name are freed: caches are void then
        self.name_pairs: ObjectTable[NamePair] = ObjectTable(((), ()))
        self._keys = InternTable(CONVERSATION)
        self._kept = np.zeros(0, dtype=_KEPT)
        self.answers = np.zeros((0, len(_ANSWER)), dtype=np.uint32)
        self.buckets = np.zeros((0, 2), dtype=np.uint16)  # of both addresses
        self._seen = 0  # the directory's changes so far
        self._generation = -1  # and its generation
        self._versions = 0  # rows that are not their key's first
        self._unlisted: list[U32] = []  # rows that were looked up for no flow
        self._forget_sides()
        self._grow()
        self._since[0], self._until[0] = EVER, FOREVER

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
        resolved = len(self) * (_KEPT.itemsize + 4 * len(_ANSWER) + 4)
        return self._keys.nbytes() + resolved + self.entities.nbytes + self.name_pairs.nbytes

    def lookup(self, keys: Keys, time: I64, directory: Directory) -> U32:
        """The rows of ``keys`` as they were named at ``time`` (ns, same length)."""
        first, made = self._keys.lookup(keys)
        if len(made):
            self._begin(made)
        return self._at(first, time, directory)

    def lookup_host_ports(
        self, keys: Keys, rows: U32, ports: tuple[U32, U32], time: I64, directory: Directory
    ) -> U32:
        """``rows`` of ``keys``, those anew whose source or destination port is a certain pod's.

        ``ports``: as ``HostPorts`` has them, with their protocols.
        """
        hosts, named = directory.host_ports, dict[int, Keys]()
        for side, (name, port) in enumerate(zip(("source", "destination"), ports, strict=True)):
            may_have = hosts.may_have(self.buckets[rows, side], port)
            for index in may_have.nonzero()[0].tolist():
                address = keys[f"{name}_ip"][index].tobytes()
                owner = hosts.at(address, int(port[index]), int(time[index]))
                if owner and not keys[f"{name}_entity"][index]:
                    key = named.setdefault(index, keys[index : index + 1].copy())
                    identity = int(self._entity_identity(rows[index], side))
                    key[f"{name}_entity"] = self._entity(owner, identity, 0, directory)[0]
        if named:
            some = np.fromiter(named, dtype=np.int64, count=len(named))
            self._unlisted.append(rows[some])
            rows = rows.copy()
            rows[some] = self.lookup(np.concatenate([*named.values()]), time[some], directory)
        return rows

    def keys_of(self, rows: U32) -> Keys:
        """Copies of the keys by which rows were looked up."""
        return self.rows[self._first[rows]]

    def lookup_again(self, rows: U32, time: I64, directory: Directory) -> U32:
        """The rows that ``lookup`` would give now for the keys of ``rows``."""
        return self._at(self._first[rows], time, directory)

    def take_unlisted(self) -> U32:
        """Rows that were looked up since this was asked last, and that no flow was given.

        For whoever frees rows: what those refer to is in use as well.
        """
        unlisted, self._unlisted = self._unlisted, []
        return np.concatenate([_NO_ROWS, *unlisted])

    def _at(self, first: U32, time: I64, directory: Directory) -> U32:
        self._follow(directory)
        rows, left = self._current_at(first, time)
        # Each round asks for one event of each conversation, and answers all events of it for
        # which the answer holds.
        while len(left):
            events = dict(zip(first[left[::-1]].tolist(), left[::-1].tolist(), strict=True))
            asked = np.fromiter(events, np.uint32, len(events))
            self._ask(asked, time[np.fromiter(events.values(), np.int64, len(events))], directory)
            now, at = first[left], time[left]
            answered = (at < self._until[now]) & (at >= self._since[now])
            rows[left] = self._current[now]
            left = left[~answered]
        return rows

    def _current_at(self, first: U32, time: I64) -> tuple[U32, I64]:
        """The versions asked for last, and which of them do not hold at ``time``."""
        if compiled.kernels is None:
            over = (time >= self._until[first]) | (time < self._since[first])
            return self._current[first], over.nonzero()[0]
        rows, stale = np.empty(len(first), dtype=np.uint32), np.empty(len(first), dtype=np.int64)
        count = compiled.kernels.conversations_at(first, time, len(first), self._kept, rows, stale)
        return rows, stale[:count]

    def directions(
        self, rows: U32, rule: NDArray[np.uint8], reporter: NDArray[np.uint16], flow_class: Keys
    ) -> None:
        """Set the direction of flows by ``flow_columns.directions``, and of their sources."""
        if compiled.kernels is not None:
            compiled.kernels.conversations_directions(
                rows, len(rows), self.answers, self.entities.endpoint_id, rule, reporter,
                flow_class,
            )  # fmt: skip
            return
        owner = self.entities.endpoint_id[self.source_entity[rows]]
        flow_class["direction"] = directions(
            rule, reporter == owner & 0xFFFF, flow_class["direction"]
        )

    def has_identity(self, identities: tuple[int, ...]) -> bool:
        """Whether some entity has one of these security identities."""
        return bool(identities) and bool(np.isin(self.entities.identity, identities).any())

    def is_void(self, rows: U32 | slice, voided: Voided) -> NDArray[np.bool_]:
        """Which rows may not be what ``lookup`` would give now."""
        buckets = self.buckets[rows]
        if voided.everything:
            return np.ones(len(buckets), dtype=np.bool_)
        # Two flags a row, looked at as one number.
        void: NDArray[np.bool_] = voided.buckets[buckets].view(np.uint16).ravel() != 0
        if self.has_identity(voided.identities):
            relabelled = np.isin(self.entities.identity, voided.identities)
            void |= relabelled[self.answers[rows, :2]].view(np.uint16).ravel() != 0
        if voided.prefixes:
            addresses = _words(self.rows[rows], ADDRESS)[:, _ADDRESSES]
            void |= within(addresses, voided.prefixes).any(axis=1)
        return void

    def _entity_identity(self, row: int, side: int) -> int:
        return int(self.entities.identity[self.answers[row, side]])

    def mark(self, rows: U32, in_use: NDArray[np.bool_]) -> None:
        """Flag rows that something refers to, and the first version of their keys."""
        in_use[rows] = True
        if self._versions:
            in_use[self._first[rows]] = True

    def reclaim(self, in_use: NDArray[np.bool_], start: int = 0, stop: int | None = None) -> int:
        """Free the rows of [start, stop) whose flag is false; as ``InternTable.reclaim``.

        Flags are those of ``mark``. Versions of a key go with its first row, or when they are
        not the one asked for last.
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

    def entities_of(self, rows: U32) -> U32:
        """Rows of entities that conversations refer to, some of them repeatedly."""
        named = _words(self.rows[rows], np.uint32)[:, _ENTITIES]
        return np.concatenate([self.answers[rows, :2].ravel(), named.ravel()])

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
            self._forget_sides()
        freed = self.entities.reclaim(entities, start, stop)
        return freed + self.name_pairs.reclaim(pairs, start, stop)

    def _versions_of(self, first: U32) -> Iterator[U32]:
        """All further versions of keys, by their first rows."""
        version = self._next[first]
        while len(version := version[version != 0]):
            yield version
            version = self._next[version]

    def _drop_versions(self, first: U32, in_use: NDArray[np.bool_]) -> Iterator[U32]:
        """Take versions that are neither used nor current out of the chains."""
        before, version = first, self._next[first]
        while len(version):
            more = version != 0
            first, before, version = first[more], before[more], version[more]
            unused = ~in_use[version] & (version != self._current[first])
            yield version[unused]
            after = self._next[version]
            self._next[before[unused]] = after[unused]
            before, version = np.where(unused, before, version), after

    def _grow(self) -> None:
        if self.capacity > len(self._kept):
            self._kept = lengthened(self._kept, self.capacity)
            self.answers = _taller(self.answers, self.capacity)
            self.buckets = _taller(self.buckets, self.capacity)
            for name in _KEPT.names or ():
                setattr(self, name, self._kept[name])
            for number, name in enumerate(_ANSWER):
                setattr(self, name, self.answers[:, number])

    def _begin(self, made: U32) -> None:
        """Prepare the columns of new keys, which nothing was asked for yet."""
        self._grow()
        if compiled.kernels is not None:
            compiled.kernels.conversations_begin(
                made, len(made), self.rows, EVER, self._kept, self.buckets
            )
            return
        self._kept[made] = np.array((EVER, EVER, 0, 0, 0), dtype=_KEPT)
        self._first[made] = made
        self.buckets[made] = buckets_of(_words(self.rows[made], ADDRESS)[:, _ADDRESSES])

    def _follow(self, directory: Directory) -> None:
        """Void the answers that the directory would not give any more."""
        if directory.generation != self._generation:
            self._generation = directory.generation
            self._forget_sides()
        changes, end = directory.changes, self.end
        if changes.count == self._seen:
            return
        voided = changes.since(self._seen)
        self._seen = changes.count
        if voided.everything or voided.identities:
            self._forget_sides()
        void = self.is_void(slice(1, end), voided)
        self._until[self._first[1:end][void]] = EVER

    def _ask(self, first: U32, time: I64, directory: Directory) -> None:
        """Ask who distinct conversations were, each at its time."""
        keys, count = self.rows[first], len(first)
        # From here on source and destination of each follow one another.
        addresses = _words(keys, ADDRESS)[:, _ADDRESSES].ravel()
        owner, frontends, reason, since, until = directory.at(addresses, time.repeat(2))
        nowhere = _nowhere(keys)
        if nowhere.any():
            owner[nowhere], frontends[nowhere], reason[nowhere] = 0, 0, 0
        words = _words(keys, np.uint32)
        entities, known = self._entities(
            owner, words[:, _IDENTITIES].ravel(), words[:, _ENTITIES].ravel(), directory
        )
        reason[known] = 0
        sides = reason.reshape(count, 2)
        answer = np.zeros((count, len(_ANSWER)), dtype=np.uint32)
        answer[:, :2] = entities.reshape(count, 2)
        answer[:, 3:5] = frontends.reshape(count, 2)
        answer[:, 5] = sides[:, 0] | sides[:, 1] << 4
        if directory.named_addresses:
            self._name(answer[:, 2], self.buckets[first], addresses, nowhere, entities, directory)
        self._since[first] = since.reshape(count, 2).max(axis=1)
        self._until[first] = until.reshape(count, 2).min(axis=1)
        self._give(first, answer)

    def _forget_sides(self) -> None:
        self._sides = InternTable(_SIDE)
        self._side_entity: U32 = np.zeros(0, dtype=np.uint32)  # by row of _sides
        self._side_tells = np.zeros(0, dtype=np.bool_)

    def _entities(
        self, owners: U32, identities: U32, named: U32, directory: Directory
    ) -> tuple[U32, NDArray[np.bool_]]:
        """Rows of entities, and which are known whoever has the address."""
        if len(self._sides) > _MOST_SIDES:
            self._forget_sides()
        keys = np.empty(len(owners), dtype=_SIDE)
        keys["owner"], keys["identity"], keys["named"] = owners, identities, named
        keys["is_one"] = 1
        sides, made = self._sides.lookup(keys)
        if len(made):
            capacity = self._sides.capacity
            if capacity > len(self._side_entity):
                self._side_entity = lengthened(self._side_entity, capacity)
                self._side_tells = lengthened(self._side_tells, capacity)
            found = [
                self._entity(owner, identity, record, directory)
                for owner, identity, record, _ in self._sides.rows[made].tolist()
            ]
            self._side_entity[made], self._side_tells[made] = zip(*found, strict=True)
        return self._side_entity[sides], self._side_tells[sides]

    def _entity(
        self, owner: int, identity: int, named: int, directory: Directory
    ) -> tuple[int, bool]:
        """Row of the entity of an owner with an identity; or as a record names it, with what
        the owner adds to that. And whether it is known whoever has the address.
        """
        if named:
            record, pod = self.entities[named], directory.owners[owner]
            entity = Entity(
                record.endpoint_id,
                record.identity,
                pod.namespace or record.namespace,
                pod.pod_name or record.pod_name,
                record.labels,
                pod.workloads or record.workloads,
                record.cluster_name,
            )
        else:
            entity = directory.entity_of(owner, identity)
        tells = named != 0 or 0 < identity < FIRST_OF_CLUSTER or identity >= LOCAL_SCOPE
        return self.entities.intern(entity), tells

    def _name(
        self,
        names: U32,
        buckets: NDArray[np.uint16],
        addresses: NDArray[np.void],
        nowhere: NDArray[np.bool_],
        entities: U32,
        directory: Directory,
    ) -> None:
        """Fill in the rows of ``name_pairs`` of the conversations that ``_ask`` asks for."""
        raw, known = addresses.tobytes(), directory.named_addresses
        may_be = directory.may_be_named(buckets)
        for row in (may_be[:, 0] | may_be[:, 1]).nonzero()[0].tolist():
            source, destination = (
                None if nowhere[side] else raw[16 * side : 16 * side + 16]
                for side in (2 * row, 2 * row + 1)
            )
            if source in known or destination in known:
                own, peer = self.entities.endpoint_id[entities[2 * row : 2 * row + 2]].tolist()
                pair: NamePair = (
                    directory.names_of(peer, source), directory.names_of(own, destination),
                )  # fmt: skip
                names[row] = self.name_pairs.intern(pair) if any(pair) else 0

    def _give(self, first: U32, answer: U32) -> None:
        """Make the versions with these answers the current ones of their keys."""
        current = self._current[first]
        new = current == 0
        rows = first[new]
        self.answers[rows], self._current[rows] = answer[new], rows
        changed = (~new & (self.answers[current] != answer).any(axis=1)).nonzero()[0]
        if len(changed):
            self._current[first[changed]] = self._versions_with(first[changed], answer[changed])

    def _versions_with(self, first: U32, answer: U32) -> U32:
        """The rows of distinct keys that have these answers, made where there are none."""
        found = np.zeros(len(first), dtype=np.uint32)
        left, version = np.arange(len(first)), first
        while len(left):
            equal = (self.answers[version] == answer[left]).all(axis=1)
            found[left[equal]] = version[equal]
            left, version = left[~equal], self._next[version[~equal]]
            left, version = left[version != 0], version[version != 0]
        missing = (found == 0).nonzero()[0]
        if len(missing):
            found[missing] = self._add_versions(first[missing], answer[missing])
        return found

    def _add_versions(self, first: U32, answer: U32) -> U32:
        """Further rows of keys; of one that has 16,383 in use, the first again."""
        keys = self.rows[first]
        newest = self.rows["absent"][self._next[first]] >> _VERSION_SHIFT
        rows, left = first.copy(), np.arange(len(first))
        for _ in range(_ATTEMPTS):
            newest[left] = newest[left] % (_VERSIONS - 1) + 1
            keys["absent"] = self.rows["absent"][first] | newest << _VERSION_SHIFT
            found, made = self._keys.lookup(np.ascontiguousarray(keys[left]))
            self._begin(made)
            new = np.isin(found, made)  # not a number that is still in use
            rows[left[new]] = found[new]
            left = left[~new]
            if not len(left):
                break
        new = rows != first
        added, first = rows[new], first[new]
        self.answers[added], self._first[added] = answer[new], first
        self._next[added], self._next[first] = self._next[first], added
        self._versions += len(added)
        return rows


def _words(keys: Keys, dtype: DTypeLike) -> NDArray[Any]:
    """Keys as rows of words."""
    words = keys.view(dtype)
    return words.reshape(len(keys), CONVERSATION.itemsize // words.itemsize)


def _nowhere(keys: Keys) -> NDArray[np.bool_]:
    """Which sides have no address: two flags a key."""
    if not keys["absent"].any() and keys["ip_version"].all():
        return np.zeros(2 * len(keys), dtype=np.bool_)
    flags: NDArray[np.bool_] = (
        keys["absent"][:, np.newaxis] & (ABSENT_SOURCE, ABSENT_DESTINATION) != 0
    )
    flags |= (keys["ip_version"] == 0)[:, np.newaxis]
    return flags.ravel()


def _taller(rows: NDArray[Any], capacity: int) -> NDArray[Any]:
    """A copy with rows of zeros below it; see ``lengthened``."""
    longer = np.zeros((capacity, rows.shape[1]), dtype=rows.dtype)
    longer[: len(rows)] = rows
    return longer
