"""What only a few flows have: L7 records, policy names, drop site, tunnel, services.

A ``Detail`` is an immutable record; equal ones share a row, except those with an L7
record or a socket's cookie, which are as good as unique. Rows are freed when nothing refers
to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from parsers.object_table import ObjectTable

if TYPE_CHECKING:
    from parsers.l7 import L7Record


@dataclass(frozen=True, slots=True)
class Service:
    """A frontend's name."""

    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class DropSite:
    """Where the datapath dropped: file name (as the agent's release numbers it), line."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule that decided: flow.Policy."""

    name: str
    namespace: str
    labels: tuple[str, ...]
    revision: int
    kind: str


@dataclass(frozen=True, slots=True)
class PolicyMatch:
    """The rules behind a policy verdict. ``denied``: they refused it; the flow's
    direction says whether the API's ingress_ or egress_ field gets them.
    """

    policies: tuple[Policy, ...]
    denied: bool
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The outer headers of an overlay packet; addresses as text, ``l4`` an L4_* number."""

    protocol: int  # flow.Tunnel.Protocol: 1 VXLAN, 2 GENEVE
    source_ip: str
    destination_ip: str
    ip_version: int
    l4: int
    source_port: int
    destination_port: int
    vni: int


class Detail(NamedTuple):
    """Everything of a flow that is neither class nor conversation; all optional.

    A named tuple because it is made for every L7 flow: a frozen dataclass of as many
    fields takes five times as long.
    """

    l7: L7Record | None = None
    drop_site: DropSite | None = None
    policy: PolicyMatch | None = None
    source_service: Service | None = None
    destination_service: Service | None = None
    tunnel: Tunnel | None = None
    source_xlated: str = ""  # IP.source_xlated: the packet's own source after SNAT
    ip_trace_id: int = 0
    socket_cookie: int = 0
    cgroup_id: int = 0
    vrrp_id: int = 0
    vrrp_priority: int = 0
    igmp_group: str = ""
    source_address: str = ""  # text an L7 record gave for an address that is none
    destination_address: str = ""
    extension: tuple[tuple[str, str | float], ...] = ()  # what the API has no field for, by name


DETAIL_BYTES = 600
"""A ``Detail`` with one or two of its fields set, without its L7 record."""


class DetailTable(ObjectTable["Detail | L7Record"]):
    """Rows of ``Detail``; row 0 is the empty one.

    Most details are an L7 record alone. They are kept as that, which is 180 bytes less.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Detail())

    def __getitem__(self, row: int) -> Detail:
        found = super().__getitem__(row)
        return found if isinstance(found, Detail) else Detail(found)

    def record(self, row: int) -> L7Record | None:
        """The L7 record of a detail, without making one of a record that is kept alone."""
        found = super().__getitem__(row)
        return found.l7 if isinstance(found, Detail) else found

    def intern(self, value: Detail | L7Record) -> int:
        """The row of an equal detail, made when there is none."""
        return super().intern(value) if value != self[0] else 0

    def _size_of(self, value: Detail | L7Record) -> int:
        if not isinstance(value, Detail):
            return value.nbytes
        return DETAIL_BYTES + (value.l7.nbytes if value.l7 is not None else 0)
