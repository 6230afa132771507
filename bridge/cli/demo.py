"""``ciliary demo``: the agent on a packaged recording, to look at."""

from __future__ import annotations

import sys
from math import inf

import click

from bridge.cli.rate import Rate
from bridge.cli.seconds import Seconds


@click.command()
@click.option("--rate", type=Rate(), default=1000.0, help="Records a second. [default: 1000]")
@click.option("--loop/--no-loop", default=True, help="Begin again at the end. [default: loop]")
@click.option("--duration", type=Seconds(), help="End after so many seconds. [--check: 5]")
@click.option("--check", is_flag=True, help="No view: probe the endpoints, set the exit code.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: the endpoints, then figures.")
def demo(rate: float, loop: bool, duration: float | None, check: bool, as_json: bool) -> None:
    """Run the whole agent on a packaged recording and watch it.

    The recording is replayed on a unix socket as Cilium's agent would; the agent serves the
    Hubble API and Prometheus metrics on loopback. Ctrl-C ends it, and so does a reader of
    its output that leaves. No root, no cluster.
    """
    from rich.console import Console

    from bridge.demo.run import Options, run_demo

    if duration is None:
        duration = 5.0 if check else inf
    sys.exit(run_demo(Options(rate, loop, duration, check, as_json), Console()))
