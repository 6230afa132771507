"""The sockets probe: connect() and accept() of TCP that failed, with errno. Off by default.

``bpf/sockets.bpf.c`` has programs on the exits of kernel functions, which not every kernel
lets a process have. Refused and timed-out connections are told by the TCP probe as well; what
only this one knows is what fails before a packet is sent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from native_probes.family import Place
from native_probes.function_exits import load_on_exits
from native_probes.spec import ProbeSpec
from native_probes.tcp import TcpEvents

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
        constants=struct.pack("<II", 0, place.namespaces is not None),
        sizes={"socket_events": settings.ring_bytes},
    )


def socket_probe(place: Place, settings: SocketSettings) -> TcpEvents:
    """The probe. Raises ``ProbeUnavailableError``."""
    return TcpEvents(
        NAME,
        load_on_exits(place.engine, socket_spec(settings, place)),
        place,
        prefix="socket",
        ring_bytes=settings.ring_bytes,
        programs=PROGRAMS,
        about={},
    )
