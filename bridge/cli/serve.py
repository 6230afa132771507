"""``ciliary serve``: a recording behind the whole Hubble API."""

from __future__ import annotations

from pathlib import Path

import click

from api.metrics.hubble import DEFAULT_HANDLERS
from api.metrics.options import parse_handlers
from bridge.addresses import is_loopback, split_address
from bridge.cli.event_loop import run_until_done
from bridge.cli.release import release_number
from bridge.identity.file import load_identity_file
from bridge.process_tuning import tune_process
from bridge.recorded import Recorded
from bridge.serving import Serving
from bridge.signals import run_until_signal
from parsers.errors import UsageError

_UNIX = "unix://"


@click.command()
@click.argument("recording", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--world", type=click.Path(path_type=Path), help="Identity file that gives names and times."
)
@click.option("--release", help="Release of the agent that was recorded, such as 1.18.")
@click.option(
    "--listen", "targets", multiple=True, required=True, metavar="unix:///PATH|HOST:PORT",
    help="Where to serve the Hubble API; may be given several times.",
)  # fmt: skip
@click.option("--metrics-listen", metavar="HOST:PORT", help="Where to serve hubble_* metrics.")
@click.option(
    "--metrics", metavar="LIST", show_default=" ".join(DEFAULT_HANDLERS),
    help="Which, and how: dns:query;ignoreAAAA flow:sourceContext=pod ...",
)  # fmt: skip
@click.option("--insecure", is_flag=True, help="Allow plain TCP that other machines can reach.")
def serve(
    recording: Path,
    world: Path | None,
    release: str | None,
    targets: tuple[str, ...],
    metrics_listen: str | None,
    metrics: str | None,
    insecure: bool,
) -> None:
    """Serve the flows of FILE as the history of a Hubble server, until Ctrl-C."""
    for target in targets:
        _check_target(target, insecure=insecure)
    if metrics_listen is not None:
        _check_address(metrics_listen, "--metrics-listen")
    elif metrics is not None:
        raise click.BadParameter("say with --metrics-listen where", param_hint="--metrics")
    try:
        handlers = parse_handlers(DEFAULT_HANDLERS if metrics is None else metrics)
    except UsageError as error:
        raise click.BadParameter(str(error), param_hint="--metrics") from None
    number = release_number(release)
    known = load_identity_file(world) if world else {}
    serving = Serving(Recorded(recording, known, number), targets, metrics_listen, handlers)
    tune_process()

    async def run() -> None:
        await serving.run(lambda sentence: click.echo(sentence, err=True))

    run_until_done(run_until_signal, run)


def _check_target(target: str, *, insecure: bool) -> None:
    if target.startswith("unix:"):
        if not target.startswith(_UNIX) or not Path(target.removeprefix(_UNIX)).is_absolute():
            raise click.BadParameter(
                f"'{target}' is not unix:// and an absolute path, such as unix:///tmp/hubble.sock",
                param_hint="--listen",
            )
    elif not is_loopback(_check_address(target, "--listen")) and not insecure:
        raise click.BadParameter(
            f"{target} is plain TCP that other machines can reach; "
            "listen on 127.0.0.1, or say --insecure",
            param_hint="--listen",
        )


def _check_address(address: str, option: str) -> str:
    """The host."""
    try:
        return split_address(address)[0]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
