"""Running the demo: a replay on a unix socket, the agent that reads it, and a view.

Everything is in a private temporary directory and on loopback. The agent is the real one
with an ordinary configuration; the demo only adds a follower that counts.
"""

from __future__ import annotations

import json
import lzma
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from math import inf
from pathlib import Path

import trio
from rich.console import Console
from rich.live import Live

from api.hubble.messages import FlowMessages
from bridge.agent import Agent
from bridge.cli.event_loop import run_until_done
from bridge.config import parse_config
from bridge.demo.check import Endpoints, Finding, probe_all
from bridge.demo.output import Output
from bridge.demo.tally import Tally
from bridge.demo.view import fits, live_view, plain_line
from bridge.event_log import EventLog
from bridge.os_errors import reason_of
from bridge.process_tuning import tune_process
from bridge.replay import Replay
from bridge.signals import run_until_signal
from parsers.errors import UsageError

_HOST = "127.0.0.1"
_PORTS = {"hubble": 4244, "hubble metrics": 9965, "agent metrics": 10093, "health": 10094}
_FRAME = 0.25
_PLAIN_LINES = 3  # flows a second on a stdout that is no terminal
_STARTING = 2.0  # seconds that the endpoints may take to be there
_ENDING = 10.0  # seconds that the agent may take for what was sent last
_LONGEST_DIRECTORY = 70  # bytes, as a unix socket's path must not exceed 107


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; ``duration`` in seconds, ``inf`` for no end."""

    rate: float
    loop: bool
    duration: float
    check: bool
    as_json: bool


class Demo:
    """One run of the demo."""

    def __init__(self, options: Options, directory: Path, console: Console) -> None:
        self.options = options
        self.console = console
        self.output = Output()
        self.warnings: list[str] = []
        self.findings: list[Finding] = []
        self._directory = directory
        self._began = time.monotonic()
        self._ports = {name: _free_port(port) for name, port in _PORTS.items()}
        self.endpoints = Endpoints(
            hubble=f"{_HOST}:{self._ports['hubble']}",
            hubble_unix=f"unix://{directory}/hubble.sock",
            hubble_metrics=f"http://{_HOST}:{self._ports['hubble metrics']}/metrics",
            agent_metrics=f"http://{_HOST}:{self._ports['agent metrics']}/metrics",
            health=f"http://{_HOST}:{self._ports['health']}",
        )
        self.agent = self._make_agent()
        self.tally = Tally(FlowMessages(self.agent.history.tables, self.agent.node))
        self.agent.path.followers.append(self.tally.count)

    def _make_agent(self) -> Agent:
        world = self._directory / "world.json"
        packed = files("bridge.demo_data").joinpath("world.json.xz").read_bytes()
        world.write_bytes(lzma.decompress(packed))
        listen = {name: f"{_HOST}:{port}" for name, port in self._ports.items()}
        sections = {
            "source": "cilium",
            "cilium": {"socket": str(self._directory / "monitor1_2.sock")},
            "identity": {"file": str(world)},
            "hubble": {
                "unix_socket": str(self._directory / "hubble.sock"),
                "listen": listen["hubble"],
            },
            "metrics": {
                "hubble": {"listen": listen["hubble metrics"]},
                "agent": {"listen": listen["agent metrics"]},
            },
            "health": {"listen": listen["health"]},
        }
        log = EventLog(level="warning", write=self.warnings.append)
        return Agent(parse_config(sections, {}), log)

    def hints(self) -> list[str]:
        """What to paste next, and which ports are not the usual ones."""
        ends = self.endpoints
        lines = [
            f"hubble observe --follow --server {ends.hubble}",
            f"hubble status --server {ends.hubble_unix}",
            f"curl -s {ends.hubble_metrics}",
            f"curl -s {ends.agent_metrics}",
            f"curl -s {ends.health}/debug/ledger",
        ]
        for name, usual in _PORTS.items():
            if self._ports[name] != usual:
                lines.append(f"port {usual} ({name}) is taken here: {self._ports[name]} instead")
        return lines

    async def run(self, recording: Path) -> None:
        """Until the duration, or the recording's end without ``loop``."""
        replay = Replay(
            recording, self.agent.config.cilium.socket, self.options.rate, self.options.loop
        )
        limit = inf if self.options.check else self.options.duration
        with trio.move_on_after(limit) as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._until_played, replay, scope)
                await nursery.start(self.agent.run)
                if self.options.as_json:
                    await self._until_served()
                    self.output.line(json.dumps(self.addresses()))
                if self.options.check:
                    await trio.sleep(self.options.duration)
                    await trio.to_thread.run_sync(self._probe)
                    scope.cancel()
                else:
                    await self._show()
                    scope.cancel()

    async def _until_played(
        self, replay: Replay, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await replay.run(task_status)
        with trio.move_on_after(_ENDING):
            while self.agent.client.connected:  # noqa: ASYNC110 -- until it has taken all
                await trio.sleep(0.01)
        await trio.sleep(2 * _FRAME)  # to show the end
        if not self.options.check:
            scope.cancel()

    async def _until_served(self) -> None:
        with trio.move_on_after(_STARTING):
            await trio.sleep(0.01)
            while self.agent.complaints():  # noqa: ASYNC110 -- for a moment, and nobody tells
                await trio.sleep(0.01)

    def _probe(self) -> None:
        self.findings += probe_all(self.endpoints)

    async def _show(self) -> None:
        """Until cancelled, or until the reader of the output leaves."""
        if self.console.is_terminal and not self.options.as_json:
            try:
                await self._show_live()
            except OSError as error:  # the terminal is gone
                raise UsageError(f"cannot draw on the terminal: {reason_of(error)}") from None
        if not self.options.as_json:
            self._tell(self.hints())
        while not self.output.closed:
            await trio.sleep(1)
            self._tell([json.dumps(self.figures())] if self.options.as_json else self._plain())

    async def _show_live(self) -> None:
        """Hints that have no room in the view are printed above it, where nothing cuts them."""
        hints, size = self.hints(), self.console.size
        roomy = fits(hints, size.width, size.height)
        if not roomy:
            self._tell(hints)
        with Live(console=self.console, auto_refresh=False, screen=roomy) as live:
            while True:
                view = live_view(
                    self.tally,
                    hints if roomy else (),
                    unexplained=self._unexplained(),
                    elapsed=time.monotonic() - self._began,
                    width=self.console.width,
                    height=self.console.height,
                )
                live.update(view, refresh=True)
                await trio.sleep(_FRAME)

    def _tell(self, lines: Iterable[str]) -> None:
        for line in lines:
            if not self.output.closed:
                self.output.line(line)

    def _plain(self) -> list[str]:
        flows = [plain_line(line) for line in list(self.tally.recent)[-_PLAIN_LINES:]]
        return [*flows, self.sentence()]

    def _unexplained(self) -> int:
        return sum(map(abs, self.agent.ledger.imbalance().values()))

    def sentence(self) -> str:
        """The figures on one line."""
        tally = self.tally
        verdicts = ", ".join(f"{name} {n:,}" for name, n in tally.verdicts.most_common())
        return (
            f"{tally.flows:,} flows ({tally.flows_per_second():,.0f} a second): {verdicts}; "
            f"lost {tally.lost:,}, unexplained {self._unexplained():,}"
        )

    def addresses(self) -> dict[str, object]:
        """Where everything is, for a program; ``moved_ports`` has those that are not usual."""
        moved = {
            name: {"usual": usual, "here": self._ports[name]}
            for name, usual in _PORTS.items()
            if self._ports[name] != usual
        }
        return {"endpoints": asdict(self.endpoints), "moved_ports": moved}

    def figures(self) -> dict[str, object]:
        """The figures for a program."""
        tally = self.tally
        return {
            "seconds": round(time.monotonic() - self._began, 3),
            "records": tally.records,
            "flows": tally.flows,
            "flows_per_second": round(tally.flows_per_second(), 1),
            "verdicts": dict(tally.verdicts),
            "drop_reasons": dict(tally.drop_reasons),
            "errors": tally.errors,
            "lost": tally.lost,
            "unexplained": self.agent.ledger.imbalance(),
        }

    def report(self) -> int:
        """Print how it went; the exit code."""
        failed = [finding for finding in self.findings if not finding.passed]
        if self.options.as_json:
            found = [
                {"probe": f.probe, "passed": f.passed, "detail": f.detail} for f in self.findings
            ]
            self._tell([json.dumps({**self.figures(), "findings": found})])
        else:
            for finding in self.findings:
                mark = "ok    " if finding.passed else "FAILED"
                self._tell([f"{mark} {finding.probe}: {finding.detail}"])
            self._tell([self.sentence()])
        for warning in self.warnings:
            print(warning, file=sys.stderr)  # noqa: T201
        return 1 if failed or (self.options.check and not self.findings) else 0


def run_demo(options: Options, console: Console) -> int:
    """The whole demo; the exit code."""
    with _workplace() as directory, _recording() as recording:
        demo = Demo(options, directory, console)
        tune_process()
        run_until_done(run_until_signal, lambda: demo.run(recording))
        return demo.report()


@contextmanager
def _workplace() -> Iterator[Path]:
    """A private directory whose name leaves room for that of a socket."""
    try:
        usual = tempfile.gettempdir()
        directory = usual if len(os.fsencode(usual)) <= _LONGEST_DIRECTORY else "/tmp"  # noqa: S108
        place = tempfile.TemporaryDirectory(prefix="ciliary-demo-", dir=directory)
    except OSError as error:
        raise UsageError(
            f"cannot make a temporary directory: {reason_of(error)}; set TMPDIR to another place"
        ) from None
    with place as name:
        yield Path(name)


@contextmanager
def _recording() -> Iterator[Path]:
    with as_file(files("bridge.demo_data").joinpath("steady.stream.xz")) as path:
        yield path


def _free_port(usual: int) -> int:
    """The usual port, or a free one when it is taken."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("the kernel has no free port")  # pragma: no cover
