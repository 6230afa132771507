"""What a handler is made of: its classes, its options, and families of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from api.metrics.classes import Classes
from api.metrics.family import SERIES, Counters, Histograms, Labels
from parsers.reason_names import ReasonNames

Family = TypeVar("Family", bound=Counters)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one handler. ``context``: the labels that ``classes`` bring; ``budget``: series.

    ``families``: those of a handler that this one takes the place of, whose counts go on.
    ``reasons``: a source's own names of drop reasons.
    """

    classes: Classes
    context: Labels = ()
    options: frozenset[str] = frozenset()
    budget: int = SERIES
    families: tuple[Counters, ...] = ()
    reasons: ReasonNames = field(default_factory=ReasonNames)

    def counters(
        self, name: str, text: str, labels: Sequence[str], *, kept: Sequence[str] = ()
    ) -> Counters:
        """A counter family with the context's labels beside its own (see ``Counters``)."""
        return self._family(Counters, name, text, labels, kept)

    def histograms(
        self, name: str, text: str, labels: Sequence[str], *, kept: Sequence[str] = ()
    ) -> Histograms:
        """A histogram family likewise."""
        return self._family(Histograms, name, text, labels, kept)

    def _family(
        self, kind: type[Family], name: str, text: str, labels: Sequence[str], kept: Sequence[str]
    ) -> Family:
        for family in self.families:
            if family.name == name and isinstance(family, kind):
                return family
        return kind(name, text, labels, self.context, kept=kept, budget=self.budget)
