"""Prefixes, cgroups and policies from Cilium's REST socket: asked for by GET, and replaced."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from api.metrics.http import Request, Response, serve_http
from bridge.cilium.rest import INTERVAL, CiliumApi
from bridge.http_client import ServerAwayError
from parsers.addresses import parse_address
from parsers.agent_events import AgentEvent, PolicyUpdate, ServiceDelete
from parsers.directory import AddressRecord, Directory
from parsers.errors import UsageError
from parsers.policies import EGRESS
from parsers.reserved import REMOTE_NODE

_TO_WEB = {
    "rule": '{"port":80,"protocol":"TCP","l7-rules":[{"web":null}]}',
    "derived-from-rules": [["k8s:io.cilium.k8s.policy.name=to-web"]],
}
_L4 = {"ingress": None, "egress": [_TO_WEB]}
_WORLD: dict[str, Any] = {
    "/v1/identity": [
        {"id": 1207, "labels": ["k8s:app=frontend"]},
        {"id": 16777217, "labels": ["cidr:203.0.113.0/24", "reserved:world"]},
    ],
    "/v1/ip": [
        {"cidr": "10.0.0.1/32", "identity": 1207, "metadata": {"name": "frontend-0"}},
        {"cidr": "not-a-prefix", "identity": 16777217},
        {"cidr": "203.0.113.0/24", "identity": 16777217, "hostIP": "0.0.0.0"},
    ],
    "/v1/cgroup-dump-metadata": {
        "pod-metadatas": [
            {"name": "p", "ips": ["10.0.0.1", "fd00::1"], "containers": [{"cgroup-id": 39001}]},
            {"name": "broken", "ips": ["not-an-ip"], "containers": [{"cgroup-id": 39002}]},
            {"name": "none", "ips": None, "containers": None},
        ]
    },
    "/v1/policy/selectors": [{"selector": "web", "identities": [1207]}],
    "/v1/endpoint": [
        {"id": 7, "status": {"policy": {"realized": {"policy-revision": 3, "l4": _L4}}}},
    ],
}


def route(world: dict[str, Any], path: str) -> Callable[[Request], Response]:
    return lambda _: Response(json.dumps(world[path]).encode(), "application/json")


async def agent(path: Path, world: dict[str, Any], *, task_status: trio.TaskStatus[object]) -> None:
    """The agent's socket, answering what ``world`` has at the time."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    routes = {known: route(world, known) for known in world}
    await serve_http(routes, [listener], task_status=task_status)


def at(directory: Directory, text: str) -> int:
    address = parse_address(text)
    assert address is not None
    return directory.entity(address, 0, 1).identity


async def test_prefixes_of_this_node_and_cgroups_are_known(tmp_path: Path) -> None:
    directory = Directory()
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", _WORLD)
        ready = trio.Event()
        nursery.start_soon(CiliumApi(tmp_path / "s", directory).run, ready.set)
        with trio.fail_after(30):
            await ready.wait()
        nursery.cancel_scope.cancel()
    assert 16777217 == at(directory, "203.0.113.9")
    address = parse_address("203.0.113.9")
    assert ("cidr:203.0.113.0/24", "reserved:world") == directory.entity(address, 0, 1).labels
    assert 0 == at(directory, "10.0.0.1")  # pods are Kubernetes' to name
    assert (parse_address("10.0.0.1"), parse_address("fd00::1")) == directory.pod_addresses(39001)
    assert () == directory.pod_addresses(39002)
    policy = directory.policy_of(7, 1)
    assert policy is not None
    entry = policy.covering(EGRESS, 1207, 6, 80)
    assert entry is not None
    assert [("to-web", 3)] == [(rule.name, rule.revision) for rule in entry.policies]


async def test_what_the_agent_no_longer_says_is_forgotten(tmp_path: Path) -> None:
    directory = Directory()
    api = CiliumApi(tmp_path / "s", directory)
    world = dict(_WORLD)
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", world)
        await api.ask()
        world["/v1/ip"] = [{"cidr": "203.0.113.0/25", "identity": 16777217}]
        world["/v1/cgroup-dump-metadata"] = {"pod-metadatas": None}
        world["/v1/identity"] = []
        world["/v1/endpoint"] = []
        await api.ask()
        nursery.cancel_scope.cancel()
    assert 16777217 == at(directory, "203.0.113.9")
    assert () == directory.entity(parse_address("203.0.113.9"), 0, 1).labels
    assert 0 == at(directory, "203.0.113.200")
    assert () == directory.pod_addresses(39001)
    assert None is directory.policy_of(7, 1)


async def test_what_the_agent_says_it_changed_is_asked_for_soon(tmp_path: Path) -> None:
    directory = Directory()
    api = CiliumApi(tmp_path / "s", directory)
    world = dict(_WORLD)
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", world)
        ready = trio.Event()
        nursery.start_soon(api.run, ready.set)
        await ready.wait()
        world["/v1/endpoint"] = []
        for notification in (ServiceDelete(1), PolicyUpdate((), 4, 1)):
            api.observe(AgentEvent(0, notification))
        with trio.fail_after(INTERVAL / 2):
            while directory.policy_of(7, 1) is not None:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_an_agent_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory; is Cilium's agent running"):
        await CiliumApi(tmp_path / "none", Directory()).ask()


@pytest.mark.parametrize("answer", [{}, [{"id": "x"}], "text"])
async def test_an_answer_of_another_form_is_a_sentence(tmp_path: Path, answer: object) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", {"/v1/identity": answer})
        with pytest.raises(ServerAwayError, match="GET /v1/identity: "):
            await CiliumApi(tmp_path / "s", Directory()).ask()
        nursery.cancel_scope.cancel()


async def test_an_api_that_is_forbidden_is_a_sentence(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", {"/v1/identity": []})  # 404 for the others
        with pytest.raises(ServerAwayError, match="GET /v1/ip: 404"):
            await CiliumApi(tmp_path / "s", Directory()).ask()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("lacking", ["/v1/policy/selectors", "/v1/endpoint"])
async def test_prefixes_are_known_where_policies_are_not(tmp_path: Path, lacking: str) -> None:
    directory = Directory()
    async with trio.open_nursery() as nursery:
        world = {path: answer for path, answer in _WORLD.items() if path != lacking}
        await nursery.start(agent, tmp_path / "s", world)
        with pytest.raises(ServerAwayError, match=f"GET {lacking}: 404"):
            await CiliumApi(tmp_path / "s", directory).ask()
        nursery.cancel_scope.cancel()
    assert 16777217 == at(directory, "203.0.113.9")
    assert 2 == len(directory.pod_addresses(39001))


async def test_others_have_their_turns_while_policies_are_made(tmp_path: Path) -> None:
    endpoints, turns = 400, 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    def endpoint(number: int) -> dict[str, Any]:
        realized = {"policy-revision": number, "l4": _L4}
        return {"id": number, "status": {"policy": {"realized": realized}}}

    world = {**_WORLD, "/v1/endpoint": [endpoint(number) for number in range(1, endpoints + 1)]}
    directory = Directory()
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", world)
        nursery.start_soon(take_turns)
        await CiliumApi(tmp_path / "s", directory).ask()
        nursery.cancel_scope.cancel()
    assert directory.policy_of(endpoints, 1) is not None
    assert turns >= endpoints // 2


async def test_a_revision_that_a_flow_has_no_room_for_is_a_sentence(tmp_path: Path) -> None:
    realized = {"policy-revision": -1, "l4": _L4}
    world = {**_WORLD, "/v1/endpoint": [{"id": 7, "status": {"policy": {"realized": realized}}}]}
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", world)
        with pytest.raises(ServerAwayError, match="GET /v1/endpoint: Expected `int` >= 0"):
            await CiliumApi(tmp_path / "s", Directory()).ask()
        nursery.cancel_scope.cancel()


async def test_what_the_agent_says_of_an_address_takes_no_name_of_kubernetes_away(
    tmp_path: Path,
) -> None:
    directory = Directory()
    node, other = "203.0.113.7", "203.0.113.8"
    directory.set_address(f"{node}/32", AddressRecord(REMOTE_NODE))
    world = dict(_WORLD)
    world["/v1/ip"] = [{"cidr": f"{each}/32", "identity": 16777217} for each in (node, other)]
    async with trio.open_nursery() as nursery:
        await nursery.start(agent, tmp_path / "s", world)
        api = CiliumApi(tmp_path / "s", directory)
        await api.ask()
        assert (REMOTE_NODE, 16777217) == (at(directory, node), at(directory, other))
        world["/v1/ip"] = []
        await api.ask()
        assert (REMOTE_NODE, 0) == (at(directory, node), at(directory, other))
        nursery.cancel_scope.cancel()
