"""``ciliary agent``: run the node agent until it is told to end.

SIGTERM and SIGINT end it within a second (and own probes' interfaces are let go of, each in
some 25 ms of the kernel's), SIGHUP reads the configuration again.
"""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import click
import trio

from bridge.agent import Agent
from bridge.cli.event_loop import run_until_done
from bridge.config import Config, ConfigError, load_config
from bridge.event_log import EventLog
from bridge.process_tuning import tune_process
from bridge.signals import run_until_signal
from parsers.errors import UsageError


class _LibraryLog(logging.Handler):
    """Brings what libraries say into our log."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warning("library.said", library=record.name, text=self.format(record))


async def _run(agent: Agent, file: Path | None) -> None:
    log = agent.log

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_reload_on_hangup, agent, file)
            await nursery.start(agent.run)
            capacity = agent.history.flows.capacity
            log.info("agent.started", node=agent.node.name, history_flows=capacity)

    await run_until_signal(serve, lambda name: log.info("agent.ending", signal=name))


async def _reload_on_hangup(agent: Agent, file: Path | None) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        async for _ in signals:
            try:
                waiting = agent.reload(load_config(file))
            except ConfigError as error:
                agent.log.warning("config.refused", problems=error.problems)
            else:
                agent.log.info("config.reloaded", restart_needed_for=waiting)


def build(config: Config, log: EventLog) -> Agent:
    """An agent; what its configuration names and cannot work is a ``ConfigError``."""
    try:
        return Agent(config, log)
    except UsageError as error:
        raise ConfigError([str(error)]) from None


@click.command()
@click.option(
    "--config", "file", envvar="CILIARY_CONFIG", type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file; the defaults without.",
)  # fmt: skip
def agent(file: Path | None) -> None:
    """Run the node agent: read Cilium's monitor socket, serve Hubble and Prometheus.

    A socket, port or path that cannot be had degrades that part and is tried again; only
    a wrong configuration ends the agent (exit code 2).
    """
    config = load_config(file)
    log = EventLog(level=config.log.level, line_format=config.log.format)
    logging.getLogger().addHandler(_LibraryLog(log))
    built = build(config, log)
    tune_process()
    run_until_done(_run, built, file)
