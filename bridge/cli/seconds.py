"""The type of options that are a time."""

from __future__ import annotations

from math import inf

import click


class Seconds(click.ParamType[float]):
    """A positive number of seconds."""

    name = "SECONDS"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Finite and above zero."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = 0
        if not 0 < seconds < inf:
            self.fail(f"{value} is not a positive number of seconds", param, ctx)
        return seconds
