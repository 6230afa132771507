"""``ciliary config``: check a file, print the schema, show what is in force."""

from __future__ import annotations

import json
from pathlib import Path

import click
import yaml

from bridge.config import Config, load_config

_FILE = click.argument(
    "file", metavar="[FILE]", required=False, type=click.Path(path_type=Path, dir_okay=False)
)


@click.group()
def config() -> None:
    """Check, document or show the configuration."""


@config.command()
@_FILE
def check(file: Path | None) -> None:
    """Say all that is wrong with FILE and the environment; exit code 2 if anything is."""
    load_config(file)
    click.echo("the configuration is right")


@config.command()
@_FILE
def show(file: Path | None) -> None:
    """Print what is in force: FILE over the defaults, the environment over both."""
    values = load_config(file).model_dump(mode="json")
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


@config.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    click.echo(json.dumps(Config.model_json_schema(), indent=2))
