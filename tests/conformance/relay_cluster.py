"""A real hubble-relay in front of two ciliary agents, all by mTLS on loopback."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
import trustme

from api.hubble.peers import Peer
from bridge.agent import Agent
from bridge.config import parse_config
from bridge.event_log import EventLog
from parsers.framing import PayloadBatch
from tests import fixtures
from tests.bridge.test_agent import LOOPBACK, free_port
from tests.parsers.recorded import batches

NODES = ("node-a", "node-b")
STREAM = fixtures.stream_bytes("v1.18", "steady")
_PIECE = 4000  # bytes of the stream: some 20 records


class Cluster:
    """``relay`` is its gRPC target. The first node's Peer service is what it is told to ask.

    ``directory`` has the certificates.
    """

    def __init__(self, directory: Path, program: Path) -> None:
        self.relay = f"{LOOPBACK}:{free_port()}"
        self.agents: dict[str, Agent] = {}
        self.directory = directory
        self._program = program
        self._ports = {name: free_port() for name in NODES}
        self._running: dict[str, trio.CancelScope] = {}
        self._payloads = self._pieces()
        server, client = trustme.CA(), trustme.CA()
        made = server.issue_cert("*.default.hubble-grpc.cilium.io")
        made.cert_chain_pems[0].write_to_path(directory / "server.crt")
        made.private_key_pem.write_to_path(directory / "server.key")
        server.cert_pem.write_to_path(directory / "hubble-server-ca.crt")
        shown = client.issue_cert("*.hubble-relay.cilium.io")
        shown.cert_chain_pems[0].write_to_path(directory / "client.crt")
        shown.private_key_pem.write_to_path(directory / "client.key")
        client.cert_pem.write_to_path(directory / "client-ca.crt")
        world = {key: value for key, value in fixtures.world("v1.18").items() if key != "node"}
        (directory / "world.json").write_text(json.dumps(world))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both agents and the relay."""
        async with trio.open_nursery() as nursery:
            for name in NODES:
                await self.start(name, nursery)
            for agent in self.agents.values():
                agent.peers.replace([Peer.of(other.node) for other in self.agents.values()])
            relay = await nursery.start(self._run_relay)
            yield
            relay.kill()
            nursery.cancel_scope.cancel()

    async def start(self, name: str, nursery: trio.Nursery) -> None:
        """Start a node's agent; returns when it serves."""
        agent = self._agent(name)
        scope = self._running[name] = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await agent.run(task_status)

        await nursery.start(run)
        with trio.fail_after(30):
            while agent.complaints().keys() != {"cilium"}:
                await trio.sleep(0.01)
        self.agents[name] = agent

    def stop(self, name: str) -> None:
        """End a node's agent."""
        self._running[name].cancel()

    def feed(self, rounds: int, *names: str) -> None:
        """Some records to each of the nodes in turn, as often."""
        for _ in range(rounds):
            for name in names or NODES:
                self.agents[name].path.deliver(next(self._payloads))

    def feed_all(self, name: str) -> None:
        """The whole stream to one node: the n-th record has the sequence number n."""
        for payloads in batches(STREAM, [1 << 20] * (len(STREAM) // (1 << 20) + 1)):
            self.agents[name].path.deliver(payloads)

    def _agent(self, name: str) -> Agent:
        place = self.directory
        sections: dict[str, Any] = {
            "node": {"name": name, "cluster": "default"},
            "source": "cilium",
            "cilium": {"socket": str(place / "no.sock"), "release": "1.18"},
            "identity": {"file": str(place / "world.json")},
            "hubble": {
                "unix_socket": None,
                "listen": f"{LOOPBACK}:{self._ports[name]}",
                "tls": {
                    "cert_file": str(place / "server.crt"),
                    "key_file": str(place / "server.key"),
                    "client_ca_files": [str(place / "client-ca.crt")],
                },
            },
            "metrics": {"hubble": {"listen": None}, "agent": {"listen": None}},
            "health": {"listen": None},
            "history": {"flows": 10_000},
        }
        return Agent(parse_config(sections, {}), EventLog(write=lambda _: None))

    def _pieces(self) -> Iterator[PayloadBatch]:
        while True:
            yield from batches(STREAM, [_PIECE] * (len(STREAM) // _PIECE + 1))

    async def _run_relay(self, *, task_status: trio.TaskStatus[trio.Process]) -> None:
        place = self.directory
        command: list[str | Path] = [
            self._program, "serve", "--gops=false", "--disable-server-tls",
            "--peer-service", f"{LOOPBACK}:{self._ports[NODES[0]]}",
            "--listen-address", self.relay,
            "--health-listen-address", f"{LOOPBACK}:{free_port()}",
            "--retry-timeout", "1s",
            "--tls-hubble-client-cert-file", place / "client.crt",
            "--tls-hubble-client-key-file", place / "client.key",
            "--tls-hubble-server-ca-files", place / "hubble-server-ca.crt",
        ]  # fmt: skip
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            task_status.started(process)
            await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
