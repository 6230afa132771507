"""Drop reasons in a source's own words, by small numbers that fit a flow's class.

Kernels name their reasons, and each release has others, so the names are learned as they
come. Numbers are never given anew, as classes and metrics refer to them for good.
"""

from __future__ import annotations

OTHER = "OTHER"
"""Stands for names that came when there was no number left."""

_MOST = 255


class ReasonNames:
    """Names by number, 1 to 255; 0 is no name."""

    __slots__ = ("_names", "_numbers")

    def __init__(self) -> None:
        self._names: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> str:
        return self._names[number]

    def number(self, name: str) -> int:
        """The number of a name, given when it has none; that of ``OTHER`` when all are taken."""
        found = self._numbers.get(name)
        if found is None:
            if len(self._names) >= _MOST and name != OTHER:
                return self.number(OTHER)
            found = self._numbers[name] = len(self._names)
            self._names.append(name)
        return found
