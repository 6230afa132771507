"""A program that a user brings: a C file that bcc compiles, and a ring of its records.

bcc attaches what the file defines by its macros (TRACEPOINT_PROBE, RAW_TRACEPOINT_PROBE,
functions called kprobe__...). What the program could not put into its ring it may count in a
map ``lost``, a per-CPU array of one number; without it, such losses are not known.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from native_probes import syscalls
from native_probes.bcc_engine import compiled
from native_probes.event_counters import EventCounters
from native_probes.family import Drained, Place
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.ring import Ring
from parsers.custom_records import CustomLayout, CustomRecords

LOST_MAP = "lost"


@dataclass(frozen=True, slots=True)
class CustomSettings:
    """``ring``: the name of the map with the records, which lie as ``layout`` says."""

    file: Path
    ring: str
    layout: CustomLayout


class CustomProbe:
    """The compiled and attached program; a ``Family``."""

    def __init__(self, place: Place, settings: CustomSettings) -> None:
        self._layout = settings.layout
        self._lost: EventCounters | None = None
        name = settings.layout.name
        try:
            self.loaded = compiled(name, settings.file, [])
        except OSError as error:
            raise ProbeUnavailableError(
                f"{settings.file} cannot be read ({error.strerror})", "name a C file for bcc"
            ) from None
        try:
            ring = self.loaded.map_fd(settings.ring)
            self._ring = Ring(ring, syscalls.map_entries(ring), settings.layout.dtype)
        except (OSError, ValueError):
            self.loaded.close()
            raise ProbeUnavailableError(
                f"{settings.file} has no ring called {settings.ring}",
                f"define it with BPF_RINGBUF_OUTPUT({settings.ring}, 64), or name another one",
                "5.8",
            ) from None
        with suppress(OSError):  # it does not count them
            self._lost = EventCounters(self.loaded.map_fd(LOST_MAP), ("ring_full",))

    def belong(self, namespaces: frozenset[int]) -> None:
        """Nothing to do: what it tells of is the program's to choose."""

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``."""
        full = self._lost.new()["ring_full"] if self._lost is not None else 0
        records = CustomRecords(self._layout, self._ring.read())
        return Drained(custom=(records,), lost={"ring_full": full} if full else {})

    def finding(self) -> Finding:
        """See ``Family``."""
        return Finding(self._layout.name, "works")

    def close(self) -> None:
        """Detach and unload."""
        self.loaded.close()
