"""The type of ``--rate`` options."""

from __future__ import annotations

from math import inf

import click


class Rate(click.ParamType[float]):
    """A number of payloads a second, or ``max``."""

    name = "N|max"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """``inf`` for ``max``."""
        if value == "max":
            return inf
        try:
            rate = float(str(value))
        except ValueError:
            rate = 0
        if not rate > 0:
            self.fail(f"{value} is neither a positive number nor 'max'", param, ctx)
        return rate
