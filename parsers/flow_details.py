"""Details of flows: found for the rows that have any, shared where they repeat.

Most flows have none and cost nothing here. A drop site, a policy or a service repeats for
every packet of a conversation, so its row is remembered under the few numbers it follows
from; only what is new, or carries an identifier of its own, is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.datapath_flows import INGRESS, FlowColumns
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
from parsers.headers import POLICY_VERDICT, Release
from parsers.policies import match_of, names_policies
from parsers.windows import Columns

_MEMO = 1 << 16
_PROTOCOL = {L4_TCP: 6, L4_UDP: 17, L4_ICMPV4: 1, L4_ICMPV6: 58, L4_SCTP: 132}
_COVERING_SINCE = (1, 20)


class DetailBuilder:
    """Finds or makes the ``Detail`` row of each flow."""

    __slots__ = ("_covering", "_directory", "_memo", "_seen", "_site_of", "_site_rows", "_tables")

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
        self._memo: dict[tuple[int, ...], int] = {}
        self._site_rows: dict[int, int] = {}
        self._seen: tuple[int, ...] = ()

    def build(self, flows: FlowColumns, conversation: U32, time: NDArray[np.int64]) -> U32:
        """Rows of ``tables.details``, 0 for none."""
        self._forget_when_stale()
        detail = np.zeros(len(conversation), dtype=np.uint32)
        services = self._tables.conversations.services[conversation]
        judged = self._judged(flows.flow_class)
        wanted = (services != 0) | judged
        plain_drops = (flows.site != 0) & ~wanted
        if flows.extra:
            own = np.fromiter(flows.extra, dtype=np.int64, count=len(flows.extra))
            has_more = (wanted | plain_drops)[own]
            wanted[own] = plain_drops[own] = False
            detail[own] = self._add_own(flows, own, has_more, conversation, services, judged, time)
        # Drops without anything else, the most of them: their site is the whole key.
        rows = plain_drops.nonzero()[0]
        detail[rows] = self._at_sites(flows.site[rows].tolist())
        rows = wanted.nonzero()[0]
        if len(rows):
            memo = self._memo
            found = []
            keys = self._keys(flows, rows, conversation, services, judged)
            for key, at in zip(keys, time[rows].tolist(), strict=True):
                row = memo.get(key)
                if row is None:
                    row = memo[key] = self._tables.details.intern(Detail(**self._fields(key, at)))
                found.append(row)
            detail[rows] = found
        return detail

    def _add_own(
        self,
        flows: FlowColumns,
        rows: NDArray[np.int64],
        has_more: NDArray[np.bool_],
        conversation: U32,
        services: NDArray[np.uint8],
        judged: NDArray[np.bool_],
        time: NDArray[np.int64],
    ) -> list[int]:
        """Details of the flows that have extra fields, each its own."""
        details = self._tables.details
        more = rows[has_more]
        keys = dict(
            zip(
                more.tolist(),
                self._keys(flows, more, conversation, services, judged),
                strict=True,
            )
        )
        found = []
        for row, extra in flows.extra.items():
            key = keys.get(row)
            if key is None:
                if "l7" in extra and len(extra) == 1:  # most of them
                    found.append(details.add(extra["l7"]))
                    continue
                fields = {}
            else:
                ports = extra.get("service_ports")
                if ports is not None:
                    key = (*key[:-3], *ports, key[-1])
                fields = self._fields(key, int(time[row]))
            fields |= extra
            fields.pop("service_ports", None)
            detail = Detail(**fields)
            unique = detail.l7 is not None or detail.socket_cookie
            found.append(details.add(detail) if unique else details.intern(detail))
        return found

    def _at_sites(self, sites: list[int]) -> list[int]:
        """Rows of details that are a drop site alone."""
        memo = self._site_rows
        for site in sites:
            if site not in memo:
                memo[site] = self._tables.details.intern(Detail(drop_site=self._drop_site(site)))
        return [memo[site] for site in sites]

    def _drop_site(self, site: int) -> DropSite:
        return DropSite(self._site_of(site >> 16 & 0xFF, site >> 24 & 0x7F), site & 0xFFFF)

    def _forget_when_stale(self) -> None:
        tables = self._tables
        seen = (
            self._directory.generation, tables.details.generation, tables.conversations.generation,
        )  # fmt: skip
        if seen != self._seen or len(self._memo) > _MEMO:
            self._memo.clear()
            self._site_rows.clear()
            self._seen = seen

    def _keys(
        self,
        flows: FlowColumns,
        rows: NDArray[np.int64],
        conversation: U32,
        services: NDArray[np.uint8],
        judged: NDArray[np.bool_],
    ) -> Iterator[tuple[int, ...]]:
        """What the detail of each row follows from; a part that does not matter is 0."""
        served, judge = services[rows], judged[rows]
        flow_class = flows.flow_class[rows]
        conversation = conversation[rows]
        conversations = self._tables.conversations
        verdict = (
            flow_class["verdict"].astype(np.uint32) << 24
            | flow_class["direction"].astype(np.uint32) << 16
            | flow_class["policy_match_type"].astype(np.uint32) << 8
            | flow_class["l4"]
        )
        source_served, destination_served = served & 1 != 0, served & 2 != 0
        parts = (
            flows.site[rows],
            np.where(served, conversation, 0),
            np.where(judge, conversations.source_entity[conversation], 0),
            np.where(judge, conversations.destination_entity[conversation], 0),
            np.where(judge, verdict, 0),
            np.where(judge, flow_class["drop_reason"], 0),
            np.where(source_served, flows.source_port[rows], 0),
            np.where(judge | destination_served, flows.destination_port[rows], 0),
            np.where(judge, flow_class["l4_type"], 0),
        )
        return zip(*(part.tolist() for part in parts), strict=True)

    def _fields(self, key: tuple[int, ...], time: int) -> dict[str, Any]:
        """Fields of the detail that follows from a key."""
        site, conversation, source, destination, verdict, reason, source_port, port, l4_type = key
        fields: dict[str, Any] = {}
        if site:
            fields["drop_site"] = self._drop_site(site)
        if conversation:
            addresses = self._tables.conversations.rows[conversation]
            service = self._directory.service
            fields["source_service"] = service(addresses["source_ip"].tobytes(), source_port)
            fields["destination_service"] = service(addresses["destination_ip"].tobytes(), port)
        if verdict:
            l4 = verdict & 0xFF
            fields["policy"] = self._policy(
                verdict >> 24,
                reason,
                verdict >> 16 & 0xFF,
                verdict >> 8 & 0xFF,
                _PROTOCOL.get(l4, 0),
                l4_type if l4 in (L4_ICMPV4, L4_ICMPV6) else port,
                source,
                destination,
                time,
            )
        return fields

    def _judged(self, flow_class: Columns) -> NDArray[np.bool_]:
        """Policy verdicts whose rules are named (see ``policies.names_policies``)."""
        verdict: NDArray[np.bool_] = flow_class["event_type"] == POLICY_VERDICT
        rows = verdict.nonzero()[0]
        kinds = zip(
            flow_class["verdict"][rows].tolist(), flow_class["drop_reason"][rows].tolist(),
            strict=True,
        )  # fmt: skip
        verdict[rows] = [
            names_policies(*kind, covering=self._covering) is not None for kind in kinds
        ]
        return verdict

    def _policy(
        self, verdict: int, drop_reason: int, direction: int, match_type: int, protocol: int,
        port: int, source_entity: int, destination_entity: int, time: int,
    ) -> PolicyMatch | None:  # fmt: skip
        denied = names_policies(verdict, drop_reason, covering=self._covering)
        if denied is None or not protocol or not port:
            return None
        entities = self._tables.conversations.entities
        source, destination = entities[source_entity], entities[destination_entity]
        own, peer = (destination, source) if direction == INGRESS else (source, destination)
        endpoint = self._directory.endpoint_by_id(own.endpoint_id, time)
        if endpoint is None or endpoint.policy is None:
            return None
        if self._covering:
            entry = endpoint.policy.covering(direction, peer.identity, protocol, port)
        else:
            entry = endpoint.policy.exact(direction, peer.identity, protocol, port, match_type)
        return match_of(entry, denied=denied) if entry is not None else None
