"""A real hubble-relay finds two ciliary agents through our Peer service, by mTLS."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.timestamp_pb2 import Timestamp

from api.v1.observer import observer_pb2, observer_pb2_grpc
from api.v1.relay import relay_pb2
from tests.conformance.relay_cluster import NODES, Cluster


class Client:
    """Hubble's command line, asking the relay."""

    def __init__(self, hubble: Path, cluster: Cluster) -> None:
        self._command: list[str | Path] = [hubble, "--server", cluster.relay]

    async def run(self, *arguments: str) -> str:
        """What it prints; "" when it fails."""
        done = await trio.run_process(
            [*self._command, *arguments], capture_stdout=True, capture_stderr=True, check=False
        )
        return done.stdout.decode() if done.returncode == 0 else ""

    async def states(self) -> dict[str, str]:
        """Nodes as the relay knows them."""
        rows = (await self.run("list", "nodes")).splitlines()[1:]
        return {row.split()[0]: row.split()[1] for row in rows}

    async def is_healthy(self) -> bool:
        """Whether the relay says that it can be asked."""
        return "Healthcheck" in await self.run("status")


@pytest.fixture
async def client(hubble: Path, cluster: Cluster) -> Client:
    made = Client(hubble, cluster)
    await until(made.states, dict.fromkeys(NODES, "Connected"))
    return made


async def until(ask: Callable[[], Awaitable[object]], wanted: object) -> None:
    with trio.fail_after(30):  # a relay waits up to a minute before it tries a node again
        while await ask() != wanted:
            await trio.sleep(0.1)


async def until_true(condition: Callable[[], bool]) -> None:
    async def ask() -> bool:
        return condition()

    await until(ask, True)


async def test_the_relay_finds_both_nodes(cluster: Cluster, client: Client) -> None:
    cluster.feed(3)
    wide = await client.run("list", "nodes", "-o", "wide")
    for name in NODES:
        (line,) = (line for line in wide.splitlines() if line.startswith(name))
        agent = cluster.agents[name]
        assert line.split()[-2:] == [agent.node.address, "Enabled"]
        assert "ciliary v" in line
    await until(client.is_healthy, True)  # which the relay finds out every 5 s
    status = await client.run("status")
    seen = sum(len(agent.history.flows) for agent in cluster.agents.values())
    assert "Connected Nodes: 2/2" in status
    assert f"Current/Max Flows: {seen:,}/20,000" in status
    namespaces = (await client.run("list", "namespaces")).split()
    assert {"kube-system", "shop", "payments"} <= set(namespaces)


async def test_the_command_line_asks_an_agent_itself_by_mtls(
    cluster: Cluster, hubble: Path
) -> None:
    address = cluster.agents[NODES[0]].node.address
    command: list[str | Path] = [
        hubble, "status", "--server", f"tls://{address}",
        "--tls-ca-cert-files", cluster.directory / "hubble-server-ca.crt",
        "--tls-server-name", cluster.agents[NODES[0]].node.server_name,
    ]  # fmt: skip
    refused = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert refused.returncode != 0
    command += [
        "--tls-client-cert-file", cluster.directory / "client.crt",
        "--tls-client-key-file", cluster.directory / "client.key",
    ]  # fmt: skip
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.stdout.startswith(b"Healthcheck (via "), done.stderr
    assert b"Ok\n" in done.stdout


def at(text: str) -> int:
    """Ns of a time in JSON."""
    time = Timestamp()
    time.FromJsonString(text)
    return time.ToNanoseconds()


async def test_flows_of_both_nodes_come_in_the_order_of_their_times(
    cluster: Cluster, client: Client
) -> None:
    cluster.feed(30)
    printed = (await client.run("observe", "--last", "40", "-o", "json")).splitlines()
    got = [json.loads(line) for line in printed]
    flows = [(f["flow"]["uuid"], at(f["time"]), f["node_name"]) for f in got if "flow" in f]
    assert len(flows) == 80
    assert [time for _, time, _ in flows] == sorted(time for _, time, _ in flows)
    nodes = [node for *_, node in flows]
    assert nodes != sorted(nodes)  # they saw them in turn
    for name in NODES:
        agent = cluster.agents[name]
        flows_of_node = agent.history.flows
        _, newest = next(flows_of_node.pieces_backwards(0, flows_of_node.end, 40))
        wanted = [agent.node.uuid(sequence) for sequence in newest.sequence.tolist()]
        assert [uuid for uuid, _, node in flows if node == name] == wanted


class Follower:
    """A call of GetFlows that follows, which tells what the command line keeps to itself."""

    def __init__(self, channel: grpc.Channel, number: int = 0) -> None:
        request = observer_pb2.GetFlowsRequest(follow=True, number=number)
        self._call: Any = observer_pb2_grpc.ObserverStub(channel).GetFlows(request)

    async def next(self) -> observer_pb2.GetFlowsResponse:
        answer: observer_pb2.GetFlowsResponse = await trio.to_thread.run_sync(
            next, self._call, abandon_on_cancel=True
        )
        return answer

    async def states(self, *wanted: int) -> dict[int, list[str]]:
        """The nodes of the next status messages of these kinds."""
        told: dict[int, list[str]] = {}
        with trio.fail_after(90):
            while not told.keys() >= set(wanted):
                status = (await self.next()).node_status
                if status.state_change:
                    told[status.state_change] = sorted(status.node_names)
        return told

    async def flow_of(self, name: str) -> str:
        """The uuid of the next flow that a node saw."""
        with trio.fail_after(90):
            while (answer := await self.next()).flow.node_name != name:
                pass
        return answer.flow.uuid


async def test_a_node_may_go_and_come_back_while_others_are_followed(
    cluster: Cluster, client: Client, nursery: trio.Nursery
) -> None:
    stays, goes = NODES
    with grpc.insecure_channel(cluster.relay) as channel:
        followed = Follower(channel)
        told = await followed.states(relay_pb2.NODE_CONNECTED)
        assert told == {relay_pb2.NODE_CONNECTED: list(NODES)}
        await until_true(lambda: all(a.observer.followers for a in cluster.agents.values()))
        cluster.feed(3)
        assert await followed.flow_of(goes)
        cluster.stop(goes)
        told = await followed.states(relay_pb2.NODE_ERROR)
        assert told == {relay_pb2.NODE_ERROR: [goes]}
        await until(client.states, {stays: "Connected", goes: "Unavailable"})
        told = await Follower(channel).states(relay_pb2.NODE_CONNECTED, relay_pb2.NODE_UNAVAILABLE)
        assert told == {relay_pb2.NODE_CONNECTED: [stays], relay_pb2.NODE_UNAVAILABLE: [goes]}
        cluster.feed(3, stays)
        assert await followed.flow_of(stays)
        await cluster.start(goes, nursery)
        await until_true(lambda: bool(cluster.agents[goes].observer.followers))
        cluster.feed(3, goes)
        uuid = await followed.flow_of(goes)
        assert uuid.startswith(cluster.agents[goes].node.uuid_prefix)
        assert await client.states() == dict.fromkeys(NODES, "Connected")
        nursery.cancel_scope.cancel()
