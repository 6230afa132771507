"""The families of probes that run, and why the others do not.

Each stands alone: one that cannot start, or be read any more, is left out, said once, and may be
started again. Nothing here is safe to be called by two threads at once, but ``findings`` and
``has_news``, which the loop asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from native_probes.engine import Engine
from native_probes.family import Drained, Family, Place, StartFamily
from native_probes.report import Finding, Log, ProbeUnavailableError
from native_probes.traffic import NAME as TRAFFIC
from native_probes.traffic import TrafficProbe


class Families:
    """``starts``: by name, in the order in which they are started and read."""

    def __init__(self, starts: Mapping[str, StartFamily], engine: Engine, log: Log) -> None:
        self._starts = starts
        self._engine = engine
        self._log = log
        self._running: dict[str, Family] = {}
        self._refused: dict[str, Finding] = {}

    @property
    def complete(self) -> bool:
        """Whether all run."""
        return not self._refused

    @property
    def traffic(self) -> TrafficProbe | None:
        """The traffic probe, if it runs."""
        probe = self._running.get(TRAFFIC)
        return probe if isinstance(probe, TrafficProbe) else None

    def findings(self) -> list[Finding]:
        """One for each, in the order of names."""
        running = dict(self._running)  # a thread may try those again that do not run
        found = [family.finding() for family in running.values()]
        found += [finding for finding in self._refused.values() if finding.probe not in running]
        return sorted(found, key=lambda finding: finding.probe)

    def start(self, namespaces: frozenset[int] | None) -> None:
        """``namespaces``: see ``Place``. Raises ``ProbeUnavailableError`` if no probe works,
        which whoever runs this says, and once for all tries.
        """
        self._refused = {}
        first = self.start_missing(namespaces)
        if not self._running:
            raise first or ProbeUnavailableError(
                "every probe is disabled", "enable one, or set source to cilium"
            )

    def start_missing(self, namespaces: frozenset[int] | None) -> ProbeUnavailableError | None:
        """Those that do not run. Returns why the first of them cannot."""
        refused: dict[str, Finding] = {}
        first: ProbeUnavailableError | None = None
        begun: list[str] = []
        for name, start in self._starts.items():
            if name in self._running:
                continue
            try:
                self._running[name] = start(Place(self._engine, self.traffic, namespaces))
                begun.append(name)
            except ProbeUnavailableError as error:
                first = first or error
                refused[name] = error.finding(name)
        said, self._refused = self._refused, refused
        self._running = {name: self._running[name] for name in self._starts if name not in refused}
        for name in begun:
            event = "probe.recovered" if name in said else "probe.loaded"
            self._log.info(event, probe=name, engine=self._engine.name)
        if self._running:
            for name, finding in refused.items():
                if finding != said.get(name):
                    self._say(finding)
        return first

    def read(self, read: Callable[[Family], Drained]) -> dict[str, Drained]:
        """Of each, by name. One that cannot be read any more is let go, but for traffic.

        Traffic is the last: of whatever connection others tell, it has told the first packet then.
        """
        drained: dict[str, Drained] = {}
        for name, family in sorted(self._running.items(), key=lambda named: named[0] == TRAFFIC):
            try:
                drained[name] = read(family)
            except OSError as error:
                if name == TRAFFIC:
                    raise
                why = f"it could not be read any more: {error.strerror or error}"
                self.give_up(Finding(name, "no", why, "it is tried again by itself"))
        return drained

    def has_news(self) -> bool:
        """Whether it is worth reading them."""
        return any(family.has_news() for family in self._running.values())

    def belong(self, namespaces: frozenset[int]) -> None:
        """See ``Family``."""
        for family in self._running.values():
            family.belong(namespaces)

    def give_up(self, finding: Finding) -> None:
        """Close one, for what its finding says."""
        self._refused[finding.probe] = finding
        self._running.pop(finding.probe).close()
        self._say(finding)

    def close(self) -> None:
        """Close all."""
        while self._running:
            self._running.popitem()[1].close()

    def _say(self, finding: Finding) -> None:
        reason = f"{finding.why}; {finding.remedy}"
        self._log.warning("probe.unavailable", probe=finding.probe, reason=reason)
