"""The sockets probe: connect() and accept() of TCP that failed, with errno. Off by default.

``bpf/sockets.bpf.c`` has programs on the exits of kernel functions, which not every kernel
lets a process have. Refused and timed-out connections are told by the TCP probe as well; what
only this one knows is what fails before a packet is sent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from native_probes.engine import LoadedProbe, refused
from native_probes.event_counters import EventCounters, what_happened
from native_probes.family import Drained, Place
from native_probes.function_exits import load_on_exits
from native_probes.namespaces import NamespaceList
from native_probes.report import Finding
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from native_probes.tcp import COUNTERS
from parsers.probe_tcp import TCP_RECORD

NAME = "sockets"
PROGRAMS = ("connect_ipv4", "connect_ipv6", "accept_connection")


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """``ring_bytes``: room for events that are not read yet, of 104 bytes each."""

    ring_bytes: int = 1 << 18


def socket_spec(settings: SocketSettings, place: Place) -> ProbeSpec:
    """The spec of the probe, set so."""
    return ProbeSpec(
        NAME,
        constants=struct.pack("<II", place.namespaces is not None, 0),
        sizes={"socket_events": settings.ring_bytes},
    )


class SocketProbe:
    """The loaded and attached probe; a ``Family``."""

    def __init__(self, place: Place, settings: SocketSettings) -> None:
        self.loaded: LoadedProbe = load_on_exits(place.engine, socket_spec(settings, place))
        try:
            self._namespaces = NamespaceList(self.loaded.map_fd("namespaces"))
            self._namespaces.become(place.namespaces or frozenset())
            self._counters = EventCounters(self.loaded.map_fd("socket_counters"), COUNTERS)
            self._ring = Ring(self.loaded.map_fd("socket_events"), settings.ring_bytes, TCP_RECORD)
            for program in PROGRAMS:
                self.loaded.attach(program)
        except OSError as error:
            self.loaded.close()
            raise refused(NAME, error) from error
        except BaseException:
            self.loaded.close()
            raise

    def belong(self, namespaces: frozenset[int]) -> None:
        """See ``Family``."""
        self._namespaces.become(namespaces)

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``."""
        records = self._ring.read()
        new = self._counters.new()
        return Drained(
            {"tcp": records},
            what_happened(ring_full=new["ring_full"]),
            what_happened(foreign=new["foreign"]),
        )

    def finding(self) -> Finding:
        """See ``Family``."""
        return Finding(NAME, "works")

    def close(self) -> None:
        """Detach and unload."""
        self.loaded.close()
