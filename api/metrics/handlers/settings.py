"""What a handler is made of: its classes, its options, and families of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from api.metrics.classes import Classes
from api.metrics.family import SERIES, Counters, Histograms, Labels


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one handler. ``context``: the labels that ``classes`` bring; ``budget``: series."""

    classes: Classes
    context: Labels = ()
    options: frozenset[str] = frozenset()
    budget: int = SERIES

    def counters(
        self, name: str, text: str, labels: Sequence[str], *, kept: Sequence[str] = ()
    ) -> Counters:
        """A counter family with the context's labels beside its own (see ``Counters``)."""
        return Counters(name, text, labels, self.context, kept=kept, budget=self.budget)

    def histograms(
        self, name: str, text: str, labels: Sequence[str], *, kept: Sequence[str] = ()
    ) -> Histograms:
        """A histogram family likewise."""
        return Histograms(name, text, labels, self.context, kept=kept, budget=self.budget)
