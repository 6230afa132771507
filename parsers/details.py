"""What only a few flows have: L7 records, policy names, drop site, tunnel, services.

A ``Detail`` is an immutable record; equal ones share a row, except those with an L7
record or a socket's cookie, which are as good as unique. Rows are freed when nothing refers
to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.intern import lengthened
from parsers.object_table import ObjectTable
from parsers.windows import Columns

if TYPE_CHECKING:
    from parsers.flow_batch import U32
    from parsers.l7 import L7Record

Extension: TypeAlias = tuple[tuple[str, str | float], ...]
"""What the API has no field for, sorted by name."""


class Service(NamedTuple):
    """A frontend's name; a named tuple, as ``Detail`` is."""

    name: str
    namespace: str


class DropSite(NamedTuple):
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
    extension: Extension = ()  # what the API has no field for, by name


DETAIL_BYTES = 600
"""A ``Detail`` with one or two of its fields set, without its L7 record."""


@dataclass(frozen=True, slots=True, eq=False)
class Extensions:
    """Extensions of many flows, one a record; ``read`` makes them when somebody asks."""

    records: Columns
    read: Callable[[Any], Extension]

    def __getitem__(self, index: int) -> Extension:
        return self.read(self.records[index])

    @property
    def nbytes(self) -> int:
        """Of one."""
        return self.records.itemsize + 16


_NO_RECORDS = frozenset((Detail, Extensions, type(None)))  # what rows hold beside records


class DetailTable(ObjectTable["Detail | L7Record | Extensions"]):
    """Rows of ``Detail``; row 0 is the empty one.

    Most details are an L7 record alone. They are kept as that, which is 180 bytes less. Others are
    an extension alone, each one's own: they are kept together, and each has a place in there.
    """

    __slots__ = ("_places",)

    def __init__(self) -> None:
        super().__init__(Detail())
        self._places = np.zeros(1 << 10, dtype=np.uint32)  # of extensions, by row

    def __getitem__(self, row: int) -> Detail:
        found = super().__getitem__(row)
        if isinstance(found, Detail):
            return found
        if isinstance(found, Extensions):
            return Detail(extension=found[int(self._places[row])])
        return Detail(found)

    def record(self, row: int) -> L7Record | None:
        """The L7 record of a detail, without making one of a record that is kept alone."""
        found = super().__getitem__(row)
        if isinstance(found, Extensions):
            return None
        return found.l7 if isinstance(found, Detail) else found

    def records(self, rows: Sequence[int]) -> list[L7Record | None]:
        """``record`` of each row, nearly all of which are a record alone."""
        found: list[Any] = list(map(self._rows.__getitem__, rows))
        for place, value in enumerate(found):
            if type(value) in _NO_RECORDS:
                found[place] = self.record(rows[place])
        return found

    def intern(self, value: Detail | L7Record | Extensions) -> int:
        """The row of an equal detail, made when there is none."""
        return super().intern(value) if value != self[0] else 0

    def add_extensions(self, extensions: Extensions, places: NDArray[np.intp]) -> U32:
        """Rows of their own, for the extensions at ``places``."""
        rows = self.add_many(extensions, len(places))
        if self.end > len(self._places):
            self._places = lengthened(self._places, 2 * self.end)
        self._places[rows] = places
        return rows

    def _size_of(self, value: Detail | L7Record | Extensions) -> int:
        if not isinstance(value, Detail):
            return value.nbytes
        return DETAIL_BYTES + (value.l7.nbytes if value.l7 is not None else 0)
