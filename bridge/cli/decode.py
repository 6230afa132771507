"""``ciliary decode``: print a recording as JSON lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command()
@click.argument("recording", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--world", type=click.Path(path_type=Path), help="Identity file that gives names and times."
)
@click.option("--release", help="Release of the agent that was recorded, such as 1.18.")
def decode(recording: Path, world: Path | None, release: str | None) -> None:
    """Print each record of FILE as a JSON line: flow, agent, debug, lost or error."""
    from bridge.config import Cilium
    from bridge.decode import decoded_lines
    from bridge.identity.file import load_identity_file

    known = load_identity_file(world) if world else {}
    lines = decoded_lines(recording, known, Cilium(release=release).release_number)
    try:
        sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()
    except BrokenPipeError:  # head, for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
