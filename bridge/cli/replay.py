"""``ciliary replay``: serve a recording on a socket as Cilium's agent would."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.event_loop import run_until_done
from bridge.cli.rate import Rate
from bridge.replay import Replay
from bridge.signals import run_until_signal


@click.command()
@click.argument("recording", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("monitor_socket", metavar="SOCKET", type=click.Path(path_type=Path))
@click.option("--rate", type=Rate(), default=1000.0, help="Payloads a second. [default: 1000]")
@click.option("--loop", is_flag=True, help="Begin again at the end.")
def replay(recording: Path, monitor_socket: Path, rate: float, loop: bool) -> None:
    """Serve FILE on the unix socket SOCKET as Cilium's agent would.

    Waits for a client, and pauses while there is none. Ends with the recording.
    """
    played = Replay(recording, monitor_socket, rate, loop)
    run_until_done(run_until_signal, played.run)
    told = played.statistics
    click.echo(
        f"{told.payloads} payloads to {told.clients} client(s), {told.missed} missed", err=True
    )
