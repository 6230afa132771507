"""Naming flows of the history anew when it turns out later who had an address, or a port of one.

Flows refer to rows of conversations, which never change: a flow that is named anew gets
another row, and another detail where its services are others (but for flows of sockets, which
show other ports than those of their services). Looked at are flows since the time of a change,
closely only those of an address that changed; the others between are one comparison of a batch. A
flow loses its name only when it turned out that nobody knows who had the address, not because who
had it long ago is forgotten in the end. What followers were sent and metrics have counted stays as
it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.history.history import History
from parsers.address_table import ADDRESS, BUCKETS, buckets_of
from parsers.changes import Voided
from parsers.directory import Directory
from parsers.flow_batch import U32

LOOKED_AT = 1 << 12
"""Flows a step: 0.3 ms, and 2 to 3 µs for each conversation that is named anew."""

SERVED = 1 << 8
"""Flows a step that get other services: 3 to 10 µs each."""


class Corrector:
    """Keeps the flows of ``history`` as ``directory`` knows them; ``corrected`` counts flows."""

    __slots__ = ("_directory", "_history", "_seen", "corrected")

    def __init__(self, history: History, directory: Directory) -> None:
        self._history = history
        self._directory = directory
        self._seen = directory.changes.count
        self.corrected = 0

    def sweep(self, remembered: int) -> Iterator[None]:
        """Name flows anew for what changed since the last sweep; gives way between its steps.

        ``remembered``: since when (ns) the directory knows who had any address.
        """
        yield from self._sweep_addresses(remembered)
        yield from self._sweep_ports(remembered)

    def _sweep_addresses(self, remembered: int) -> Iterator[None]:
        changes, conversations = self._directory.changes, self._history.tables.conversations
        if changes.count == self._seen:
            return
        voided, late = changes.since(self._seen), changes.take_late()
        self._seen = changes.count
        # A prefix is as it is from now on.
        voided = replace(voided, everything=voided.past, prefixes=())
        start = min(late.values(), default=_NEVER)
        if voided.everything or conversations.has_identity(voided.identities):
            start = min(start, remembered)
        for ring in self._history.rings:
            position = ring.since(start)
            while position < ring.end:
                looked = ring.columns(position, position + LOOKED_AT, *_NAMED_BY_ADDRESS)
                if not any(self._correct(each, voided, late, remembered) for each in looked):
                    position += LOOKED_AT
                yield

    def _correct(
        self,
        flows: tuple[NDArray[Any], ...],
        voided: Voided,
        late: Mapping[bytes, int],
        remembered: int,
    ) -> bool:
        """Write the rows of now over those that are not. True: not all of them yet."""
        time, rows = flows[:2]
        conversations = self._history.tables.conversations
        void = conversations.is_void(rows, voided).nonzero()[0]
        wrong = void[time[void] >= np.minimum(self._since(rows[void], late), remembered)]
        if not len(wrong):
            return False
        before = rows[wrong]
        again = conversations.lookup_again(before, time[wrong], self._directory)
        named = (conversations.unknown[again] == 0) | (conversations.unknown[before] != 0)
        # What is remembered is certain: also that nobody knows who it was.
        changed = (named | (time[wrong] >= remembered)) & (again != before)
        # Numbers of services are those of now for what is remembered.
        served = (changed & (time[wrong] >= remembered)) & (
            (conversations.source_frontends[again] != conversations.source_frontends[before])
            | (conversations.destination_frontends[again]
               != conversations.destination_frontends[before])
        )  # fmt: skip
        others = served.nonzero()[0]
        changed[others[SERVED:]] = False
        rows[wrong[changed]] = again[changed]
        self._history.keep(again)
        self._serve(flows, wrong[others[:SERVED]])
        self.corrected += int(changed.sum())
        return len(others) > SERVED

    def _serve(self, flows: tuple[NDArray[Any], ...], places: NDArray[np.intp]) -> None:
        """Name the services of flows by the rows of conversations that they have now."""
        _, rows, source, destination, classes, detail = flows
        tables, frontends = self._history.tables, self._directory.frontends
        conversations, details = tables.conversations, tables.details
        for place in places.tolist():
            flow_class, row = tables.classes.rows[classes[place]], rows[place]
            if flow_class["flow_type"] == _SOCK:
                continue
            l4 = int(flow_class["l4"])
            at_source = frontends[int(conversations.source_frontends[row])]
            at_destination = frontends[int(conversations.destination_frontends[row])]
            told = details[int(detail[place])]._replace(
                source_service=at_source.at(l4, int(source[place])),
                destination_service=at_destination.at(l4, int(destination[place])),
            )
            detail[place] = details.add(told) if told.l7 is not None else details.intern(told)
        self._history.keep_details(detail[places])

    def _sweep_ports(self, remembered: int) -> Iterator[None]:
        late = self._directory.host_ports.take_late()
        if not late:
            return
        ports, buckets = np.zeros(1 << 16, dtype=np.bool_), np.zeros(BUCKETS, dtype=np.bool_)
        ports[[port & _PORT for _, port in late]] = True
        packed = b"".join(address for address, _ in late)
        buckets[buckets_of(np.frombuffer(packed, dtype=ADDRESS))] = True
        start = max(remembered, min(late.values()))
        for ring in self._history.rings:
            position = ring.since(start)
            while position < ring.end:
                for flows in ring.columns(position, position + LOOKED_AT, *_NAMED_BY_PORT):
                    self._correct_ports(flows, ports, buckets)
                position += LOOKED_AT
                yield

    def _correct_ports(
        self,
        flows: tuple[NDArray[Any], ...],
        ports: NDArray[np.bool_],
        buckets: NDArray[np.bool_],
    ) -> None:
        """Look up flows at these ports of addresses in these buckets as if they were new."""
        rows, tables, directory = flows[1], self._history.tables, self._directory
        conversations = tables.conversations
        sides = buckets[conversations.buckets[rows]]
        found = (ports[flows[2]] & sides[:, 0] | ports[flows[3]] & sides[:, 1]).nonzero()[0]
        if not len(found):
            return
        time, before, source, destination, classes = (column[found] for column in flows)
        keys, flow_class = conversations.keys_of(before), tables.classes.rows[classes]
        # What names a side is its port, but in an L7 record the record.
        by_record = (keys["source_entity"] | keys["destination_entity"]) != 0
        by_record &= flow_class["flow_type"] == _L7
        keys["source_entity"] = keys["destination_entity"] = 0
        protocol = flow_class["l4"].astype(np.uint32) << np.uint32(16)
        by_address = conversations.lookup(keys, time, directory)
        again = conversations.lookup_host_ports(
            keys, by_address, (source | protocol, destination | protocol), time, directory
        )
        changed = (again != before) & ~by_record
        rows[found[changed]] = again[changed]
        self._history.keep(np.concatenate([by_address, again]))
        self.corrected += int(changed.sum())

    def _since(self, rows: U32, late: Mapping[bytes, int]) -> NDArray[np.int64]:
        """Since when each conversation may have other names, because of its addresses."""
        distinct, place = np.unique(rows, return_inverse=True)
        keys = self._history.tables.conversations.rows[distinct]
        sides = [keys[name].tobytes() for name in ("source_ip", "destination_ip")]
        since = [
            min(late.get(raw[at : at + 16], _NEVER) for raw in sides)
            for at in range(0, 16 * len(distinct), 16)
        ]
        found: NDArray[np.int64] = np.array(since, dtype=np.int64)[place]
        return found


_PORT, _L7, _SOCK = 0xFFFF, 2, 3  # of a number with a protocol; flow.FlowType
_NAMED_BY_PORT = ("time", "conversation", "source_port", "destination_port", "flow_class")
_NAMED_BY_ADDRESS = (*_NAMED_BY_PORT, "detail")
_NEVER = 2**63 - 1
