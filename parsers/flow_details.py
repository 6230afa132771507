"""Details of flows: found for the rows that have any, shared where they repeat.

Most flows have none and cost nothing here. A drop site, a policy or a service repeats from
flow to flow, so its row is remembered under the few numbers it follows from (``_KEY``); only
what is new, or carries an identifier of its own, is built.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.conversations import Conversations
from parsers.details import Detail, DropSite, PolicyMatch
from parsers.directory import Directory
from parsers.flow_batch import (
    L4_ICMPV4,
    L4_ICMPV6,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    U32,
    FlowTables,
)
from parsers.flow_columns import INGRESS, FlowColumns
from parsers.headers import POLICY_VERDICT, Release
from parsers.intern import InternTable, lengthened
from parsers.l7 import L7Record
from parsers.policies import AS_DENYING, match_of, naming
from parsers.windows import Columns

_REMEMBERED = 1 << 16
_MOST_ALIKE = 1 << 12  # extra fields whose row is known
_PROTOCOL = {L4_TCP: 6, L4_UDP: 17, L4_ICMPV4: 1, L4_ICMPV6: 58, L4_SCTP: 132}
_COVERING_SINCE = (1, 20)


_KEY = np.dtype(
    [
        ("site", "u4"),
        ("source_frontends", "u4"),  # rows of the directory's
        ("own", "u4"),  # endpoint id whose policy it is
        ("peer", "u4"),  # identity
        ("judgement", "u4"),  # naming << 24 | direction << 16 | match type << 8 | L4_*; or L4_*
        ("l4_type", "u4"),
        ("source_port", "u2"),
        ("destination_port", "u2"),
        ("destination_frontends", "u4"),
    ]
)
"""What a detail follows from; a part that does not matter is 0."""


class DetailBuilder:
    """Finds or makes the ``Detail`` row of each flow."""

    __slots__ = (
        "_alike", "_covering", "_directory", "_keys", "_rows", "_seen", "_site_of", "_tables",
    )  # fmt: skip

    def __init__(
        self,
        tables: FlowTables,
        directory: Directory,
        site_of: Callable[[int, int], str],
        release: Release,
    ) -> None:
        self._tables = tables
        self._directory = directory
        self._site_of = site_of
        self._covering = release is None or release >= _COVERING_SINCE
        self._seen: tuple[int, ...] = ()
        self._alike: dict[tuple[tuple[str, Any], ...], int] = {}  # rows by extra fields alone
        self._keys = InternTable(_KEY)
        self._rows: U32 = np.zeros(0, dtype=np.uint32)  # by row of ``_keys``

    def build(self, flows: FlowColumns, conversation: U32, time: NDArray[np.int64]) -> U32:
        """Rows of ``tables.details``, 0 for none."""
        self._forget_when_stale()
        detail = np.zeros(len(conversation), dtype=np.uint32)
        judged = self._judged(flows.flow_class)
        wanted = self._wanted(flows, conversation, judged)
        for with_extension, told in flows.extensions:
            more = wanted[with_extension]
            for place in more.nonzero()[0].tolist():
                flows.extra[int(with_extension[place])] = {"extension": told[place]}
            alone = ~more
            detail[with_extension[alone]] = self._tables.details.add_extensions(
                told, alone.nonzero()[0]
            )
        for with_record, records in flows.records:
            more = wanted[with_record]
            for place in more.nonzero()[0].tolist():
                flows.extra[int(with_record[place])] = {"l7": records[place]}
            alone = ~more
            detail[with_record[alone]] = self._tables.details.add_each(
                list(compress(records, alone.tolist()))
            )
        if flows.extra:
            own = np.fromiter(flows.extra, dtype=np.int64, count=len(flows.extra))
            has_more = wanted[own]
            wanted[own] = False
            with_key = own[has_more]
            keys = self._keys_of(flows, with_key, conversation, judged)
            key_of = dict(zip(with_key.tolist(), keys.tolist(), strict=True))
            detail[own] = self._add_own(flows, key_of, time)
        rows = wanted.nonzero()[0]
        if len(rows):
            keys = self._keys_of(flows, rows, conversation, judged)
            detail[rows] = self._shared(keys, time[rows])
        return detail

    def _shared(self, keys: Columns, time: NDArray[np.int64]) -> U32:
        """Details that follow from their keys alone."""
        numbers, made = self._keys.lookup(keys)
        if len(made):
            if self._keys.capacity > len(self._rows):
                self._rows = lengthened(self._rows, self._keys.capacity)
            first = np.empty(self._keys.end, dtype=np.int64)
            first[numbers[::-1]] = time[::-1]  # of several values for one place the last stays
            intern = self._tables.details.intern
            new = zip(self._keys.rows[made].tolist(), first[made].tolist(), strict=True)
            self._rows[made] = [intern(Detail(**self._fields(key, at))) for key, at in new]
        found: U32 = self._rows[numbers]
        return found

    def _add_own(
        self, flows: FlowColumns, keys: dict[int, tuple[int, ...]], time: NDArray[np.int64]
    ) -> U32:
        """Details of the flows that have extra fields."""
        details, alike = self._tables.details, self._alike
        found = np.zeros(len(flows.extra), dtype=np.uint32)
        places: list[int] = []
        unique: list[Detail | L7Record] = []  # those of ``places``
        for place, (row, extra) in enumerate(flows.extra.items()):
            key = keys.get(row)
            is_unique = "l7" in extra or extra.get("socket_cookie")
            said: Any = None
            if key is None:
                if not is_unique:
                    said = tuple(extra.items())
                    if said in alike:
                        found[place] = alike[said]
                        continue
                elif "l7" in extra and len(extra) == 1:
                    places.append(place)
                    unique.append(extra["l7"])
                    continue
                fields = extra
            else:
                ports = extra.get("service_ports")
                if ports is not None:
                    key = (*key[:-3], *ports, key[-1])
                fields = self._fields(key, int(time[row])) | extra
            if "service_ports" in fields:
                fields = fields.copy()
                del fields["service_ports"]
            detail = Detail(**fields)
            if is_unique:
                places.append(place)
                unique.append(detail)
                continue
            found[place] = details.intern(detail)
            if said is not None:
                alike[said] = int(found[place])
        found[places] = details.add_each(unique)
        return found

    def _drop_site(self, site: int) -> DropSite:
        return DropSite(self._site_of(site >> 16 & 0xFF, site >> 24 & 0x7F), site & 0xFFFF)

    def _forget_when_stale(self) -> None:
        tables = self._tables
        seen = (
            self._directory.generation, tables.details.generation, tables.conversations.generation,
        )  # fmt: skip
        if seen != self._seen or len(self._alike) > _MOST_ALIKE:
            self._alike.clear()
        if seen != self._seen or len(self._keys) > _REMEMBERED:
            self._seen = seen
            if len(self._keys) > 1:
                self._keys = InternTable(_KEY)
                self._rows = np.zeros(0, dtype=np.uint32)

    def _wanted(
        self, flows: FlowColumns, conversation: U32, judged: NDArray[np.uint8]
    ) -> NDArray[np.bool_]:
        """Which flows have a detail that follows from a ``_KEY``."""
        conversations = self._tables.conversations
        if compiled.kernels is None:
            services = _services(conversations, conversation)
            wanted: NDArray[np.bool_] = (services | judged | flows.site) != 0
            return wanted
        wanted = np.empty(len(conversation), dtype=np.bool_)
        compiled.kernels.details_wanted(
            conversation, len(conversation), conversations.answers, flows.site, judged, wanted
        )
        return wanted

    def _keys_of(
        self,
        flows: FlowColumns,
        rows: NDArray[np.int64],
        conversation: U32,
        judged: NDArray[np.uint8],
    ) -> Columns:
        """The ``_KEY`` of each row."""
        conversations = self._tables.conversations
        if compiled.kernels is not None:
            keys = np.empty(len(rows), dtype=_KEY)
            entities = conversations.entities
            compiled.kernels.details_keys(
                rows, len(rows), conversation, conversations.answers, flows.site, judged,
                flows.flow_class, np.ascontiguousarray(flows.source_port),
                np.ascontiguousarray(flows.destination_port), entities.endpoint_id,
                entities.identity, keys,
            )  # fmt: skip
            return keys
        keys = np.zeros(len(rows), dtype=_KEY)
        keys["site"] = flows.site[rows]
        conversation = conversation[rows]
        some = _services(conversations, conversation).nonzero()[0]
        if len(some):
            for side, port in (
                ("source_frontends", flows.source_port),
                ("destination_frontends", flows.destination_port),
            ):
                served = getattr(conversations, side)[conversation[some]]
                keys[side][some] = served
                keys[side.replace("frontends", "port")][some] = port[rows[some]] * (served != 0)
            served = keys["source_frontends"] | keys["destination_frontends"]
            keys["judgement"] = flows.flow_class["l4"][rows] * (served != 0)
        some = judged[rows].nonzero()[0]
        if len(some):
            self._judgements(keys, some, flows, rows[some], conversation[some], judged)
        return keys

    def _judgements(
        self,
        keys: Columns,
        some: NDArray[np.int64],
        flows: FlowColumns,
        rows: NDArray[np.int64],
        conversation: U32,
        judged: NDArray[np.uint8],
    ) -> None:
        """Fill what a policy follows from into some of the keys: those of ``rows``."""
        conversations = self._tables.conversations
        flow_class = flows.flow_class[rows]
        direction = flow_class["direction"]
        source = conversations.source_entity[conversation]
        destination = conversations.destination_entity[conversation]
        inward = direction == INGRESS
        keys["own"][some] = conversations.entities.endpoint_id[
            np.where(inward, destination, source)
        ]
        keys["peer"][some] = conversations.entities.identity[np.where(inward, source, destination)]
        keys["judgement"][some] = (
            judged[rows].astype(np.uint32) << 24
            | direction.astype(np.uint32) << 16
            | flow_class["policy_match_type"].astype(np.uint32) << 8
            | flow_class["l4"]
        )
        keys["l4_type"][some] = flow_class["l4_type"]
        keys["destination_port"][some] = flows.destination_port[rows]

    def _fields(self, key: tuple[int, ...], time: int) -> dict[str, Any]:
        """Fields of the detail that follows from a ``_KEY``."""
        site, sources, own, peer, judgement, l4_type, source_port, port, destinations = key
        fields: dict[str, Any] = {}
        if site >> 31:
            fields["drop_site"] = self._drop_site(site)
        elif site:
            fields["extension"] = self._tables.extensions[site]
        frontends, l4 = self._directory.frontends, judgement & 0xFF
        if sources:
            fields["source_service"] = frontends[sources].at(l4, source_port)
        if destinations:
            fields["destination_service"] = frontends[destinations].at(l4, port)
        if judgement >> 24:
            fields["policy"] = self._policy(
                judgement >> 24 == AS_DENYING,
                judgement >> 16 & 0xFF,
                judgement >> 8 & 0xFF,
                _PROTOCOL.get(l4, 0),
                l4_type if l4 in (L4_ICMPV4, L4_ICMPV6) else port,
                own,
                peer,
                time,
            )
        return fields

    def _judged(self, flow_class: Columns) -> NDArray[np.uint8]:
        """``policies.naming`` of policy verdicts; 0 for all others."""
        judged = np.zeros(len(flow_class), dtype=np.uint8)
        rows = (flow_class["event_type"] == POLICY_VERDICT).nonzero()[0]
        if len(rows):
            judged[rows] = naming(
                flow_class["verdict"][rows],
                flow_class["drop_reason"][rows],
                covering=self._covering,
            )
        return judged

    def _policy(
        self, denied: bool, direction: int, match_type: int, protocol: int,
        port: int, own: int, peer: int, time: int,
    ) -> PolicyMatch | None:  # fmt: skip
        if not protocol or not port:
            return None
        policy = self._directory.policy_of(own, time)
        if policy is None:
            return None
        if self._covering:
            entry = policy.covering(direction, peer, protocol, port)
        else:
            entry = policy.exact(direction, peer, protocol, port, match_type)
        return match_of(entry, denied=denied) if entry is not None else None


def _services(conversations: Conversations, rows: U32) -> U32:
    """Not 0 where a side of a conversation has services."""
    return conversations.source_frontends[rows] | conversations.destination_frontends[rows]
