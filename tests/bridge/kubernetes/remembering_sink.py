"""A sink that keeps what it was told, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge.kubernetes.objects import Key, Object


@dataclass(slots=True)
class RememberingSink:
    """``objects`` by kind and key; ``told``: every call."""

    objects: dict[type[Object], dict[Key, Object]] = field(default_factory=dict)
    told: list[tuple[type[Object], list[Key], list[Key], int]] = field(default_factory=list)
    synced_after: int | None = None
    synced_with_everything: list[bool] = field(default_factory=list)
    ahead: int = 0
    cilium_went: int = 0  # times

    def apply(
        self, kind: type[Object], changed: Sequence[Object], removed: Sequence[Key], at: int
    ) -> None:
        known = self.objects.setdefault(kind, {})
        for key in removed:
            known.pop(key, None)
        for thing in changed:
            known[thing.key] = thing
        self.told.append((kind, [thing.key for thing in changed], list(removed), at))

    def cilium_is_gone(self, at: int) -> None:
        del at
        self.cilium_went += 1

    def clock_is_ahead(self, by: int) -> None:
        self.ahead = by

    def synced(self, *, everything: bool) -> None:
        self.synced_after = len(self.told)
        self.synced_with_everything.append(everything)

    def names(self, kind: type[Object]) -> set[str]:
        return {name for _, name in self.objects.get(kind, {})}

    def removed(self, kind: type[Object]) -> list[Key]:
        return [key for told, _, removed, _ in self.told if told is kind for key in removed]
