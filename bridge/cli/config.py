"""``ciliary config``: check a file, print the schema, show what is in force."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import yaml

from bridge.config import Config, ConfigError, load_config
from bridge.identity.file import load_identity_file
from parsers.errors import UsageError

_FILE = click.argument(
    "file", metavar="[FILE]", required=False, envvar="CILIARY_CONFIG",
    type=click.Path(path_type=Path, dir_okay=False),
)  # fmt: skip


@click.group()
def config() -> None:
    """Check, document or show the configuration."""


@config.command()
@_FILE
def check(file: Path | None) -> None:
    """Say all that is wrong with FILE and the environment; exit code 2 if anything is.

    FILE is CILIARY_CONFIG when it is left out. The identity file is checked as well if
    there is one.
    """
    identity = load_config(file).identity.file
    if identity is not None:
        try:
            load_identity_file(identity)
        except UsageError as error:
            if os.path.lexists(identity):
                raise ConfigError([f"identity.file: {error}"]) from None
            click.echo(f"identity.file: {identity} is not there; the agent waits for it", err=True)
    click.echo("the configuration is right")


@config.command()
@_FILE
def show(file: Path | None) -> None:
    """Print what is in force: FILE over the defaults, the environment over both.

    FILE is CILIARY_CONFIG when it is left out.
    """
    values = load_config(file).model_dump(mode="json")
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    click.echo(json.dumps(Config.model_json_schema(), indent=2))
