"""``ciliary detach``: take away what an agent that was killed left at interfaces."""

from __future__ import annotations

import click

from bridge.os_errors import reason_of
from native_probes.leftovers import find_leftovers, remove
from parsers.errors import UsageError


@click.command()
def detach() -> None:
    """Remove the filters of an agent that is gone from the interfaces of this namespace.

    Only kernels before 6.6 keep them. The qdisc they hang on stays, as others may use it.
    An agent that runs would lose its own, so end it first.
    """
    try:
        found = find_leftovers()
        count = remove(found)
    except OSError as error:
        raise UsageError(
            f"cannot remove filters: {reason_of(error)}; run as root or with CAP_NET_ADMIN"
        ) from None
    click.echo(f"{count} filters removed" if count else "there is nothing of ours")
