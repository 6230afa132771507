"""The namespaces that flows were seen in lately, for GetNamespaces.

Looked at with each batch, since the history may not reach back as far: one look-up a flow,
more only for conversations and endpoints that were not seen since the last round.
"""

from __future__ import annotations

import numpy as np

from parsers.flow_batch import FlowBatch
from parsers.intern import lengthened

LIFETIME = 3600 * 10**9
"""ns that a namespace is remembered, as in Hubble."""

_ROUND = 60 * 10**9  # ns; how exactly the last time is known


class Namespaces:
    """``lifetime`` in ns; None for ever."""

    __slots__ = ("_known", "_last_seen", "_lifetime", "_met", "_round", "_version")

    def __init__(self, lifetime: int | None = LIFETIME) -> None:
        self._lifetime = lifetime
        self._last_seen: dict[str, int] = {}
        self._met = np.zeros(64, dtype=np.bool_)  # by row of conversations: in this round
        self._known = np.zeros(64, dtype=np.bool_)  # by row of entities, the same
        self._round = 0
        self._version = 0

    def see(self, flows: FlowBatch, now: int) -> None:
        """Take note of a batch whose rows are still there."""
        conversations = flows.tables.conversations
        entities = conversations.entities
        if now - self._round >= _ROUND or self._version != conversations.generation:
            self._round, self._version = now, conversations.generation
            self._met[:] = self._known[:] = False
            self._forget(now)
        if conversations.end > len(self._met):
            self._met = lengthened(self._met, 2 * conversations.end)
        if entities.end > len(self._known):
            self._known = lengthened(self._known, 2 * entities.end)
        fresh = flows.conversation[~self._met[flows.conversation]]
        if not len(fresh):
            return
        self._met[fresh] = True
        for side in (conversations.source_entity, conversations.destination_entity):
            rows = side[fresh]
            for row in set(rows[~self._known[rows]].tolist()):
                self._known[row] = True
                if namespace := entities[row].namespace:
                    self._last_seen[namespace] = now

    def names(self, now: int) -> list[str]:
        """Those seen within the lifetime, sorted."""
        self._forget(now)
        return sorted(self._last_seen)

    def _forget(self, now: int) -> None:
        if self._lifetime is not None:
            oldest = now - self._lifetime
            self._last_seen = {n: t for n, t in self._last_seen.items() if t >= oldest}
