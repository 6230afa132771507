"""What the source asks of a family of probes, and what it gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from native_probes.engine import Engine
from native_probes.report import Finding
from parsers.windows import Columns

if TYPE_CHECKING:
    from native_probes.traffic import TrafficProbe


@dataclass(frozen=True, slots=True)
class Drained:
    """What a family has for one ``ProbeBatch``.

    ``records`` are columns by field of the batch, and ``lost`` is by reason. ``totals`` are
    no records that could be lost. ``ignored`` are events that were left out on purpose, by
    reason: "quiet" by the configuration, "foreign" as of another node. ``about`` are further
    fields of the batch that the records are read with.
    """

    records: Mapping[str, Columns] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """Records that the kernel had."""
        delivered = sum(len(rows) for name, rows in self.records.items() if name != "totals")
        return delivered + sum(self.lost.values())


class Family(Protocol):
    """A probe that is loaded and attached. It is called by one thread at a time."""

    def belong(self, namespaces: frozenset[int]) -> None:
        """The node's network namespaces have changed (``Place.namespaces``)."""

    def has_news(self) -> bool:
        """Whether ``drain`` should be called: nearly for nothing, as it is asked all the time."""

    def drain(self, *, now_ns: int) -> Drained:
        """What is new; called once a second, and some ten times when any probe has news
        (``now_ns``: monotonic clock).
        """

    def last_drain(self) -> Drained:
        """All that is left, before ``close``."""

    def finding(self) -> Finding:
        """How it works."""

    def close(self) -> None:
        """Detach and unload; may be called again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a family starts.

    ``traffic`` is the traffic probe if that works; it hands packets on (``extend``).
    ``namespaces`` are the inodes of the network namespaces of this node; None is all.
    """

    engine: Engine
    traffic: TrafficProbe | None = None
    namespaces: frozenset[int] | None = None


StartFamily: TypeAlias = Callable[[Place], Family]
"""Loads and attaches, in a thread. Raises ``ProbeUnavailableError``."""
