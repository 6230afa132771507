"""Details of flows: found for the rows that have any, shared where they repeat.

Most flows have none and cost nothing here. A drop site, a policy or a service repeats for
every packet of a conversation, so its row is remembered under the few numbers it follows
from; only what is new, or carries an identifier of its own, is built.
"""

from __future__ import annotations

from collections.abc import Callable
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
from parsers.headers import POLICY_VERDICT, Columns, Release
from parsers.policies import match_of, names_policies

_MEMO = 1 << 16
_PROTOCOL = {L4_TCP: 6, L4_UDP: 17, L4_ICMPV4: 1, L4_ICMPV6: 58, L4_SCTP: 132}
_COVERING_SINCE = (1, 20)


class DetailBuilder:
    """Finds or makes the ``Detail`` row of each flow."""

    __slots__ = ("_covering", "_directory", "_memo", "_seen", "_site_of", "_tables")

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
        self._seen: tuple[int, ...] = ()

    def build(self, flows: FlowColumns, conversation: U32, time: NDArray[np.int64]) -> U32:
        """Rows of ``tables.details``, 0 for none."""
        tables = self._tables
        detail = np.zeros(len(conversation), dtype=np.uint32)
        services = tables.conversations.services[conversation]
        verdict = self._judged(flows.flow_class)
        wanted = (flows.site != 0) | (services != 0) | verdict
        shared = wanted
        if flows.extra:
            shared = wanted.copy()
            shared[list(flows.extra)] = False
        rows = np.flatnonzero(shared)
        if len(rows):
            self._forget_when_stale()
            detail[rows] = self._shared(flows, rows, conversation, services, verdict, time)
        if flows.extra:
            own = np.fromiter(flows.extra, dtype=np.int64, count=len(flows.extra))
            plain = (~wanted[own]).tolist()
            detail[own] = [
                # Most of them are L7 flows without anything but their record.
                tables.details.add(Detail(extra["l7"]))
                if alone and len(extra) == 1 and "l7" in extra
                else self._own(flows, index, int(conversation[index]), extra, int(time[index]))
                for alone, (index, extra) in zip(plain, flows.extra.items(), strict=True)
            ]
        return detail

    def _forget_when_stale(self) -> None:
        tables = self._tables
        seen = (
            self._directory.generation, tables.details.generation, tables.conversations.generation,
        )  # fmt: skip
        if seen != self._seen or len(self._memo) > _MEMO:
            self._memo.clear()
            self._seen = seen

    def _shared(
        self,
        flows: FlowColumns,
        rows: NDArray[np.int64],
        conversation: U32,
        services: NDArray[np.uint8],
        verdict: NDArray[np.bool_],
        time: NDArray[np.int64],
    ) -> list[int]:
        served, judged = services[rows], verdict[rows]
        flow_class = flows.flow_class[rows]
        conversations, conversation = self._tables.conversations, conversation[rows]
        # What a detail follows from; a part that does not matter to a row is 0 there.
        judgement = np.where(
            judged,
            flow_class["verdict"].astype(np.uint32) << 24
            | flow_class["direction"].astype(np.uint32) << 16
            | flow_class["policy_match_type"].astype(np.uint32) << 8
            | flow_class["l4"],
            0,
        )
        port = np.where(judged | (served & 2 != 0), flows.destination_port[rows], 0)
        keys = zip(
            np.where(served != 0, conversation, 0).tolist(),
            np.where(judged, conversations.source_entity[conversation], 0).tolist(),
            np.where(judged, conversations.destination_entity[conversation], 0).tolist(),
            flows.site[rows].tolist(),
            judgement.tolist(),
            np.where(judged, flow_class["drop_reason"], 0).tolist(),
            np.where(served & 1 != 0, flows.source_port[rows], 0).tolist(),
            port.tolist(),
            np.where(judged, flow_class["l4_type"], 0).tolist(),
            strict=True,
        )
        memo = self._memo
        found = []
        for position, key in enumerate(keys):
            row = memo.get(key)
            if row is None:
                index = int(rows[position])
                row = memo[key] = self._own(
                    flows, index, int(conversation[position]), {}, int(time[index])
                )
            found.append(row)
        return found

    def _judged(self, flow_class: Columns) -> NDArray[np.bool_]:
        """Policy verdicts whose rules are named (see ``policies.names_policies``)."""
        verdict: NDArray[np.bool_] = flow_class["event_type"] == POLICY_VERDICT
        rows = np.flatnonzero(verdict)
        kinds = zip(
            flow_class["verdict"][rows].tolist(), flow_class["drop_reason"][rows].tolist(),
            strict=True,
        )  # fmt: skip
        verdict[rows] = [
            names_policies(*kind, covering=self._covering) is not None for kind in kinds
        ]
        return verdict

    def _own(
        self, flows: FlowColumns, index: int, conversation: int, extra: dict[str, Any], time: int
    ) -> int:
        fields = dict(extra)
        ports = fields.pop(
            "service_ports", (int(flows.source_port[index]), int(flows.destination_port[index]))
        )
        served = int(self._tables.conversations.services[conversation])
        if served:
            key = self._tables.conversations.rows[conversation]
            if served & 1:
                fields["source_service"] = self._directory.service(
                    key["source_ip"].tobytes(), ports[0]
                )
            if served & 2:
                fields["destination_service"] = self._directory.service(
                    key["destination_ip"].tobytes(), ports[1]
                )
        site = int(flows.site[index])
        if site:
            name = self._site_of(site >> 16 & 0xFF, site >> 24 & 0x7F)
            fields["drop_site"] = DropSite(name, site & 0xFFFF)
        if flows.flow_class["event_type"][index] == POLICY_VERDICT:
            fields["policy"] = self._policy(flows, index, conversation, time)
        detail = Detail(**fields)
        if detail.l7 is not None or detail.socket_cookie:
            return self._tables.details.add(detail)  # as good as unique
        return self._tables.details.intern(detail)

    def _policy(
        self, flows: FlowColumns, index: int, conversation: int, time: int
    ) -> PolicyMatch | None:
        flow_class = flows.flow_class[index]
        denied = names_policies(
            int(flow_class["verdict"]), int(flow_class["drop_reason"]), covering=self._covering
        )
        l4 = int(flow_class["l4"])
        protocol = _PROTOCOL.get(l4, 0)
        port = int(
            flow_class["l4_type"] if l4 in (L4_ICMPV4, L4_ICMPV6) else flows.destination_port[index]
        )
        if denied is None or not protocol or not port:
            return None
        direction = int(flow_class["direction"])
        conversations = self._tables.conversations
        source = conversations.entities[int(conversations.source_entity[conversation])]
        destination = conversations.entities[int(conversations.destination_entity[conversation])]
        own, peer = (destination, source) if direction == INGRESS else (source, destination)
        endpoint = self._directory.endpoint_by_id(own.endpoint_id, time)
        if endpoint is None or endpoint.policy is None:
            return None
        if self._covering:
            entry = endpoint.policy.covering(direction, peer.identity, protocol, port)
        else:
            entry = endpoint.policy.exact(
                direction, peer.identity, protocol, port, int(flow_class["policy_match_type"])
            )
        return match_of(entry, denied=denied) if entry is not None else None
