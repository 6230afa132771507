"""The TCP probe: retransmits, resets, opens and closes, with round-trip times.

``bpf/tcp.bpf.c`` hangs on tracepoints that hand over the socket. Failed tries to connect
show as ``open_failed``: the state goes from SYN_SENT to CLOSE.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from native_probes.engine import LoadedProbe, unloaded_on_failure
from native_probes.event_counters import EventCounters, RecursionMisses, what_happened
from native_probes.family import Drained, Place
from native_probes.kernel_enums import enum_members, traced_names
from native_probes.namespaces import NamespaceList
from native_probes.report import Finding
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from parsers.probe_tcp import TCP_RECORD

NAME = "tcp"
PROGRAMS = {
    "tcp_retransmit": "tcp_retransmit_skb",
    "tcp_retransmit_answer": "tcp_retransmit_synack",
    "tcp_reset_sent": "tcp_send_reset",
    "tcp_reset_received": "tcp_receive_reset",
    "tcp_state_change": "inet_sock_set_state",
}
"""The tracepoint of each."""

COUNTERS = ("seen", "ring_full", "foreign")
"""``enum tcp_counter`` of ``bpf/tcp.h``."""

_RESET_PREFIX = "SK_RST_REASON_"


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """``all_states``: every change of state, which are nine a connection; else opens and closes.

    ``connections``: whose opening is remembered until they close. ``ring_bytes``: room for
    events that are not read yet, of 104 bytes each: those of 2,500 connections.
    """

    all_states: bool = False
    connections: int = 65536
    ring_bytes: int = 1 << 20


def tcp_spec(settings: TcpSettings, place: Place) -> ProbeSpec:
    """The spec of the probe, set so."""
    return ProbeSpec(
        NAME,
        constants=struct.pack("<II", settings.all_states, place.namespaces is not None),
        sizes={"tcp_events": settings.ring_bytes, "tcp_connections": settings.connections},
        tracepoints=PROGRAMS,
    )


class TcpEvents:
    """A loaded and attached probe that tells events of TCP; a ``Family``.

    Its maps are called ``<prefix>_events`` and ``<prefix>_counters``; ``about`` goes with what
    it tells.
    """

    def __init__(
        self,
        name: str,
        loaded: LoadedProbe,
        place: Place,
        *,
        prefix: str,
        ring_bytes: int,
        programs: Collection[str],
        about: Mapping[str, Any],
    ) -> None:
        self.loaded = loaded
        self._name = name
        self._about = about
        with unloaded_on_failure(name, loaded):
            self._namespaces = NamespaceList(loaded.map_fd("namespaces"))
            self._namespaces.become(place.namespaces or frozenset())
            self._counters = EventCounters(loaded.map_fd(f"{prefix}_counters"), COUNTERS)
            self._ring = Ring(loaded.map_fd(f"{prefix}_events"), ring_bytes, TCP_RECORD)
            for program in programs:
                loaded.attach(program)
            self._misses = RecursionMisses(map(loaded.program_fd, programs))

    def belong(self, namespaces: frozenset[int]) -> None:
        """See ``Family``."""
        self._namespaces.become(namespaces)

    def has_news(self) -> bool:
        """See ``Family``."""
        return self._ring.has_news()

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``."""
        records = self._ring.read()
        new = self._counters.new()
        return Drained(
            {"tcp": records},
            what_happened(ring_full=new["ring_full"], recursion=self._misses.new()),
            what_happened(foreign=new["foreign"]),
            self._about,
        )

    def finding(self) -> Finding:
        """See ``Family``."""
        return Finding(self._name, "works")

    def close(self) -> None:
        """Detach and unload."""
        self.loaded.close()


def tcp_probe(place: Place, settings: TcpSettings) -> TcpEvents:
    """The TCP probe. Raises ``ProbeUnavailableError``."""
    members = enum_members("sk_rst_reason") or traced_names("tcp/tcp_send_reset", "reason")
    reasons = {number: name.removeprefix(_RESET_PREFIX) for number, name in members.items()}
    return TcpEvents(
        NAME,
        place.engine.load(tcp_spec(settings, place)),
        place,
        prefix="tcp",
        ring_bytes=settings.ring_bytes,
        programs=PROGRAMS,
        about={"reset_reasons": reasons},
    )
