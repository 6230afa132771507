"""The netfilter probe: table and base chain of packets that nftables dropped. Off by default.

``bpf/netfilter.bpf.c`` has a program on the exit of a function of the module nf_tables. That
runs for every packet at every hook, and finding it wants CAP_SYS_ADMIN. What it tells goes
with the drops of the drop probe, so it is drained after that.
"""

from __future__ import annotations

from dataclasses import dataclass

from native_probes.engine import LoadedProbe, unloaded_on_failure
from native_probes.family import Drained, Place
from native_probes.function_exits import load_on_exits
from native_probes.report import Finding
from native_probes.ring import Ring
from native_probes.spec import ProbeSpec
from parsers.probe_drops import VERDICT_RECORD

NAME = "netfilter"


@dataclass(frozen=True, slots=True)
class NetfilterSettings:
    """``ring_bytes``: room for verdicts that are not read yet, of 88 bytes each."""

    ring_bytes: int = 1 << 18


def netfilter_spec(settings: NetfilterSettings) -> ProbeSpec:
    """The spec of the probe, set so."""
    return ProbeSpec(NAME, sizes={"verdicts": settings.ring_bytes}, on_modules=True)


class NetfilterProbe:
    """The loaded and attached probe; a ``Family``."""

    def __init__(self, place: Place, settings: NetfilterSettings) -> None:
        self.loaded: LoadedProbe = load_on_exits(place.engine, netfilter_spec(settings))
        with unloaded_on_failure(NAME, self.loaded):
            self._ring = Ring(self.loaded.map_fd("verdicts"), settings.ring_bytes, VERDICT_RECORD)
            self.loaded.attach("nft_verdict")

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
        without its chain.
        """
        return Drained(about={"verdicts": self._ring.read()})

    def finding(self) -> Finding:
        """See ``Family``."""
        return Finding(NAME, "works")

    def close(self) -> None:
        """Detach and unload."""
        self.loaded.close()
