"""``ciliary decode``: print a recording as JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from bridge.os_errors import reason_of
from parsers.errors import UsageError


@click.command()
@click.argument("recording", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--world", type=click.Path(path_type=Path), help="Identity file that gives names and times."
)
@click.option("--release", help="Release of the agent that was recorded, such as 1.18.")
def decode(recording: Path, world: Path | None, release: str | None) -> None:
    """Print each record of FILE as a JSON line: flow, agent, debug, lost or error.

    Ends with 130 on Ctrl-C.
    """
    try:
        for line in _lines(recording, world, release):
            _write(line + "\n")
        _write("", flush=True)
    except BrokenPipeError:  # head, for one, has seen enough
        _leave_standard_output()
    except KeyboardInterrupt:
        _leave_standard_output()
        sys.exit(130)


def _lines(recording: Path, world: Path | None, release: str | None) -> Iterator[str]:
    from bridge.cli.release import release_number
    from bridge.decode import decoded_lines
    from bridge.identity.file import load_identity_file

    number = release_number(release)
    known = load_identity_file(world) if world else {}
    return decoded_lines(recording, known, number, _tell)


def _tell(sentence: str) -> None:
    click.echo(f"ciliary: {sentence}", err=True)


def _write(text: str, *, flush: bool = False) -> None:
    try:
        sys.stdout.write(text)
        if flush:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _leave_standard_output()
        raise UsageError(
            f"cannot write the lines: {reason_of(error)}; send them where there is room"
        ) from None


def _leave_standard_output() -> None:
    """What is still buffered goes nowhere, so that ending does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
