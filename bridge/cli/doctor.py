"""``ciliary doctor``: what this machine lets the agent do, and the remedy where it does not."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import click

from bridge.config import Config, OptionalProbeName, load_config
from bridge.os_errors import reason_of
from bridge.probes import engine_of, source_settings
from native_probes.pins import PinFolder
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.source import ProbeSource
from native_probes.traffic import NAME as TRAFFIC
from parsers import compiled

_TIMEOUT = 2.0  # s to connect to the monitor socket


class _Silence:
    """Findings say it all."""

    def info(self, event: str, **fields: object) -> None:
        """Not said."""

    def warning(self, event: str, **fields: object) -> None:
        """Not said."""


@click.command()
@click.option(
    "--config", "file", envvar="CILIARY_CONFIG", type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file; the defaults without.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(file: Path | None, as_json: bool) -> None:
    """Say of Cilium's socket and of each own probe: works, degraded (how), or not (why).

    And of the compiled loops of the parser, without which it does the same at a lower rate.
    Probes are loaded for the look and let go; nothing is left behind. Exit code 0 when the
    agent has a source that works, be it degraded, and 1 when it has none.
    """
    config = load_config(file)
    findings = list(examine(config))
    loops = _compiled_loops()
    told = _json(findings, loops) if as_json else _table([*findings, loops])
    click.echo(told, nl=False)
    sys.exit(0 if any(finding.state != "no" for finding in findings) else 1)


def examine(config: Config) -> Iterable[Finding]:
    """Each source that the configuration allows, and how it does here."""
    if config.source != "probes":
        yield _cilium(config.cilium.socket)
    if config.source != "cilium":
        wanted = config.native_probes
        # What is pinned belongs to an agent that may run.
        every = wanted.model_copy(update={"optional": get_args(OptionalProbeName), "pins": None})
        source = ProbeSource(
            source_settings(every), lambda _: None, _Silence(), engine=engine_of(wanted)
        )
        for finding in source.examine():
            is_off = finding.probe in every.optional and finding.probe not in wanted.optional
            if is_off and finding.state == "works":
                yield replace(finding, why="off, as native_probes.optional does not name it")
            elif finding.probe == TRAFFIC and finding.state != "no" and wanted.pins is not None:
                yield _with_pins(finding, PinFolder(wanted.pins))
            else:
                yield finding


def _with_pins(finding: Finding, pins: PinFolder) -> Finding:
    try:
        pins.check()
    except ProbeUnavailableError as error:
        return error.finding(finding.probe)
    return finding


def _cilium(path: Path) -> Finding:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(path))
    except FileNotFoundError:
        return Finding(
            "cilium", "no", f"there is no socket at {path}",
            "run Cilium's agent and mount its directory, or use own probes",
        )  # fmt: skip
    except PermissionError:
        return Finding(
            "cilium", "no", f"no permission to connect to {path}",
            "run in the group of the socket (cilium, where it exists) or as root",
        )  # fmt: skip
    except OSError as error:
        return Finding(
            "cilium", "no", f"cannot connect to {path}: {reason_of(error)}",
            "see whether Cilium's agent is running",
        )  # fmt: skip
    return Finding("cilium", "works")


def _compiled_loops() -> Finding:
    if compiled.kernels is not None:
        return Finding("compiled", "works")
    return Finding("compiled", "degraded", f"{compiled.missing}, so Python does what loops in C do")


def _json(findings: Iterable[Finding], loops: Finding) -> str:
    told = {"findings": [asdict(finding) for finding in findings], "compiled": asdict(loops)}
    return json.dumps(told, indent=2) + "\n"


def _table(findings: Iterable[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{finding.probe:9} {finding.state:9} {finding.why}".rstrip())
        if finding.remedy:
            lines.append(f"{'':20}remedy: {finding.remedy}")
        if finding.minimum_kernel:
            lines.append(f"{'':20}since Linux {finding.minimum_kernel}")
    return "\n".join(lines) + "\n"
