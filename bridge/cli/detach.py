"""``ciliary detach``: take away what an agent that was killed left at interfaces."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.os_errors import reason_of
from native_probes.leftovers import find_leftovers, remove
from native_probes.pins import PinFolder
from parsers.errors import UsageError


@click.command()
@click.option(
    "--pins",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder that native_probes.pins names, if it does.",
)
def detach(pins: Path | None) -> None:
    """Remove the filters of an agent that is gone from the interfaces of this namespace.

    Only kernels before 6.6 keep them, and an agent with pins. The qdisc they hang on stays, as
    others may use it. An agent that runs would lose its own, so end it first.
    """
    try:
        pinned = PinFolder(pins).remove_all() if pins else 0
        found = find_leftovers()
        count = remove(found)
    except OSError as error:
        raise UsageError(
            f"cannot remove filters: {reason_of(error)}; run as root or with CAP_NET_ADMIN"
        ) from None
    if pinned:
        click.echo(f"{pinned} pins removed")
    click.echo(f"{count} filters removed" if count else "there are no filters of ours")
