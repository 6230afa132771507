"""The option ``--release``."""

from __future__ import annotations

import click
from pydantic import ValidationError

from bridge.config import Cilium
from parsers.headers import Release


def release_number(text: str | None) -> Release:
    """``1.18`` as numbers; wrong usage when it is none."""
    try:
        return Cilium(release=text).release_number
    except ValidationError:
        raise click.BadParameter(
            f"'{text}' is not a release, such as 1.18", param_hint="--release"
        ) from None
