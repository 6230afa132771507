"""The command line: one module a command, imported when it is run.

grpc, numpy, rich and pydantic together take most of a second to import; a command that
does not need them shall not wait for them, and ``--help`` needs none. So a command is
named here with its help line, and its module is imported when it is called.

Exit codes: 0 done, 1 failed (one line on stderr says why), 2 wrong usage or
configuration, 130 ended by Ctrl-C where that is not the normal end.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from bridge import __version__
from parsers.errors import UsageError

# name: (module:attribute, help line)
_COMMANDS = {
    "agent": ("bridge.cli.agent:agent", "Run the node agent."),
    "bench": ("bridge.cli.bench:bench", "Measure the pipeline's throughput on this machine."),
    "config": ("bridge.cli.config:config", "Check, document or show the configuration."),
    "decode": ("bridge.cli.decode:decode", "Print a recording as JSON lines."),
    "detach": ("bridge.cli.detach:detach", "Remove filters that a killed agent left behind."),
    "doctor": ("bridge.cli.doctor:doctor", "Say what works here, what does not, and the remedy."),
    "demo": ("bridge.cli.demo:demo", "Run the agent on a packaged recording and watch it."),
    "record": ("bridge.cli.record:record", "Save what a monitor socket says."),
    "serve": ("bridge.cli.serve:serve", "Serve a recording behind the Hubble API."),
    "replay": ("bridge.cli.replay:replay", "Serve a recording on a socket as the agent would."),
}


class _LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ciliary")
def root() -> None:
    """See what the pods of a node say to each other: Hubble flows and Prometheus metrics."""


def main(arguments: list[str] | None = None) -> Any:
    """Run a command line; ``UsageError`` becomes its sentence and its exit code."""
    # Nothing here multiplies matrices of floats: numpy's BLAS needs no threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        return root.main(arguments, prog_name="ciliary")
    except UsageError as error:
        print(f"ciliary: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
