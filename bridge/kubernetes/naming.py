"""The part of an agent that keeps names in order beside the watches.

Often: what waits to be worked out, and flows of the history that were named too early. Now
and then: what is long past is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import trio

from api.history import History
from api.history.corrector import Corrector
from bridge.kubernetes.claims import REMEMBERED
from bridge.kubernetes.names import Names
from parsers.directory import Directory

INTERVAL = 0.2
"""s; so much longer than being heard takes a late name to get into the history."""


class Naming:
    """Keeps ``names`` and their ``directory``; ``clock``: that of the flows, ns.

    ``dns_names``: ns that a name from a DNS answer is kept after it.
    """

    def __init__(
        self,
        names: Names,
        directory: Directory,
        history: History,
        clock: Callable[[], int],
        *,
        dns_names: int,
    ) -> None:
        self.names = names
        self._directory = directory
        self._corrector = Corrector(history, directory)
        self._clock = clock
        self._dns_names = dns_names

    def corrected(self) -> int:
        """Flows of the history that got other names."""
        return self._corrector.corrected

    async def keep(self, ready: Callable[[], None]) -> None:
        """Until cancelled."""
        ready()
        while True:
            for _ in self._steps():
                await trio.lowlevel.checkpoint()
            await trio.sleep(INTERVAL)

    def _steps(self) -> Iterator[None]:
        while self.names.step():
            yield
        now = self._clock()
        remembered = now - REMEMBERED
        self._directory.forget_names(now - self._dns_names, now)
        yield from self._corrector.sweep(remembered)
        while self._directory.forget(remembered):
            yield
        self.names.reclaim(remembered)
