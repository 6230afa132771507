"""The netfilter probe: who in netfilter dropped a packet. Off by default.

``bpf/netfilter.bpf.c`` has programs on the exits of functions of modules: of rules (nftables,
iptables-legacy), of address translation, of connection tracking. These run for every packet at
every hook, and finding them wants CAP_SYS_ADMIN. A program whose function is not there when the
probe starts is left out. What they tell goes with the drops of the drop probe, so this is drained
after that.
"""

from __future__ import annotations

from dataclasses import dataclass

from native_probes.engine import LoadedProbe, unloaded_on_failure
from native_probes.family import Drained, Place
from native_probes.function_exits import knows, load_on_exits
from native_probes.kernel_enums import BTF
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from parsers.probe_drops import VERDICT_RECORD

NAME = "netfilter"
PROGRAMS = {
    "nft_verdict": ("nft_do_chain", "nf_tables"),
    "ipv4_table_verdict": ("ipt_do_table", "ip_tables"),
    "ipv6_table_verdict": ("ip6t_do_table", "ip6_tables"),
    "nat_verdict": ("nf_nat_inet_fn", "nf_nat"),
    "lookup_verdict": ("nf_conntrack_in", "nf_conntrack"),
    "confirm_verdict": ("__nf_conntrack_confirm", "nf_conntrack"),
}
"""The function that each is for, and the module that has it."""


@dataclass(frozen=True, slots=True)
class NetfilterSettings:
    """``ring_bytes``: room for verdicts that are not read yet, of 96 bytes each."""

    ring_bytes: int = 1 << 18


def netfilter_spec(settings: NetfilterSettings, programs: frozenset[str]) -> ProbeSpec:
    """The spec of the probe with these programs, set so."""
    return ProbeSpec(
        NAME, sizes={"verdicts": settings.ring_bytes}, programs=programs, on_modules=True
    )


class NetfilterProbe:
    """The loaded and attached probe; a ``Family``."""

    def __init__(self, place: Place, settings: NetfilterSettings) -> None:
        programs = frozenset(program for program, where in PROGRAMS.items() if knows(*where))
        self._absent = sorted(
            {module for program, (_, module) in PROGRAMS.items() if program not in programs}
        )
        if not programs:
            raise ProbeUnavailableError(
                f"no module of netfilter is loaded, or none says what it has ({BTF})",
                "start ciliary after whatever filters packets, with a kernel that has type "
                "information of modules",
                "5.11",
            )
        self.loaded: LoadedProbe = load_on_exits(place.engine, netfilter_spec(settings, programs))
        with unloaded_on_failure(NAME, self.loaded):
            self._ring = Ring(self.loaded.map_fd("verdicts"), settings.ring_bytes, VERDICT_RECORD)
            for program in programs:
                self.loaded.attach(program)

    def belong(self, namespaces: frozenset[int]) -> None:
        """Nothing to do: what is joined to no drop is told nowhere."""

    def has_news(self) -> bool:
        """See ``Family``."""
        return self._ring.has_news()

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``. These are no records: a verdict that finds no room leaves a drop
        without who decided it.
        """
        return Drained(about={"verdicts": self._ring.read()})

    def finding(self) -> Finding:
        """See ``Family``. A module that is not loaded drops nothing, so its absence is no fault."""
        absent = ", ".join(self._absent)
        return Finding(NAME, "works", f"without what is not loaded: {absent}" if absent else "")

    def close(self) -> None:
        """Detach and unload."""
        self.loaded.close()
