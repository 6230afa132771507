"""The DNS probe: messages on port 53, by UDP and TCP.

``bpf/dns.bpf.c`` has programs that copy payloads; the traffic probe hands them the packets
of that port at the interfaces it covers, so this probe works only together with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from native_probes.engine import LoadedProbe
from native_probes.event_counters import EventCounters, what_happened
from native_probes.family import Drained, Place
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from parsers.probe_dns import DNS_RECORD
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS

NAME = "dns"
PROGRAMS = {
    (POINT_INGRESS, True): "dns_tc_in",
    (POINT_EGRESS, True): "dns_tc_out",
    (POINT_INGRESS, False): "dns_l3_in",
    (POINT_EGRESS, False): "dns_l3_out",
}
"""By point, and whether the interface has a link header."""

COUNTERS = ("seen", "ring_full")
"""``enum dns_counter`` of ``bpf/dns.h``."""


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """``ring_bytes``: room for packets that are not read yet, of 2,128 bytes each."""

    ring_bytes: int = 1 << 22


def dns_spec(settings: DnsSettings) -> ProbeSpec:
    """The spec of the probe, set so."""
    return ProbeSpec(NAME, sizes={"dns_messages": settings.ring_bytes})


class DnsProbe:
    """The loaded probe, which the traffic probe hands packets; a ``Family``."""

    def __init__(self, place: Place, settings: DnsSettings) -> None:
        if place.traffic is None:
            raise ProbeUnavailableError(
                "the dns probe gets its packets from the traffic probe, which does not run",
                "see what keeps that from running",
            )
        self.loaded: LoadedProbe = place.engine.load(dns_spec(settings))
        try:
            self._counters = EventCounters(self.loaded.map_fd("dns_counters"), COUNTERS)
            self._ring = Ring(self.loaded.map_fd("dns_messages"), settings.ring_bytes, DNS_RECORD)
            for (point, link_header), program in PROGRAMS.items():
                fd = self.loaded.program_fd(program)
                place.traffic.extend(point, fd, link_header=link_header)
        except BaseException:
            self.loaded.close()
            raise

    def belong(self, namespaces: frozenset[int]) -> None:
        """Nothing to do: packets are those of the interfaces of one namespace."""

    def has_news(self) -> bool:
        """See ``Family``."""
        return self._ring.has_news()

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``."""
        records = self._ring.read()
        return Drained({"dns": records}, what_happened(ring_full=self._counters.new()["ring_full"]))

    def finding(self) -> Finding:
        """See ``Family``."""
        return Finding(NAME, "works")

    def close(self) -> None:
        """Unload; the traffic probe's table lets go of the programs when it is unloaded."""
        self.loaded.close()
