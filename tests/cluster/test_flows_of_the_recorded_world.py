"""With the recorded world in a real API server, flows are the same as with it in a file.

But for what Kubernetes' and Cilium's objects cannot say: ``world_objects`` has the closed list.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from bridge.event_log import EventLog
from bridge.kubernetes.credentials import from_kubeconfig
from bridge.kubernetes.names import Names
from bridge.kubernetes.source import KubernetesSource
from bridge.rising_clock import RisingClock
from parsers.directory import Directory
from tests.bridge.kubernetes.test_names_of_the_recorded_world import results
from tests.cluster.control_plane import Client, ControlPlane, binary
from tests.cluster.pods import each
from tests.fixtures import world
from tests.parsers.recorded import differences
from tests.programs import absent, program
from tests.world_objects import objects_of, without_what_kubernetes_does_not_know

RELEASE, MIXES = "v1.20", ("all", "steady", "l7")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CILIUM = {"CiliumIdentity": "Cluster", "CiliumEndpoint": "Namespaced", "CiliumNode": "Cluster"}
_PATIENCE = 120.0


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One of its own, with the recorded world and nothing else."""
    kubehost = binary()
    if not kubehost.is_file():
        absent(f"{kubehost} is missing: run tests/cluster/kube/build .cache/kube (needs Go)")
    program("openssl", "openssl")
    made = ControlPlane(kubehost, tmp_path_factory.mktemp("recorded"))
    try:
        made.start()
        fill(made, list(objects_of(world(RELEASE))))
        yield made
    finally:
        made.stop()


def fill(plane: ControlPlane, things: list[dict[str, Any]]) -> None:
    """Make all things: first those that others need."""
    with plane.client() as client:
        for kind, scope in CILIUM.items():
            client.do("POST", DEFINITIONS, definition(kind, scope))
        until_established(client)
        for thing in things:
            if thing["kind"] == "Namespace":
                client.ask("POST", "/api/v1/namespaces", thing)  # it may be there
    others = [thing for thing in things if thing["kind"] != "Namespace"]
    each(plane, len(others), lambda client, n: make(client, others[n]))


def make(client: Client, thing: dict[str, Any]) -> None:
    """Make one thing, with its status."""
    path = path_of(thing)
    status, answer = client.ask("POST", path, thing)
    name = thing["metadata"]["name"]
    # The server makes its own service itself.
    assert status in {200, 201} or name == "kubernetes", answer[:500]
    if thing["kind"] == "Pod":
        client.do("PATCH", f"{path}/{name}/status", {"status": thing["status"]})


def path_of(thing: dict[str, Any]) -> str:
    """Where things of its kind are made."""
    version, kind = thing["apiVersion"], thing["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    namespace = thing["metadata"].get("namespace")
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def definition(kind: str, scope: str) -> dict[str, Any]:
    """A definition under Cilium's name that admits any fields."""
    plural = path_of({"apiVersion": "v1", "kind": kind, "metadata": {}}).rpartition("/")[2]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v2", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
    }  # fmt: skip
    return {
        "metadata": {"name": f"{plural}.cilium.io"},
        "spec": {
            "group": "cilium.io", "names": {"plural": plural, "kind": kind}, "scope": scope,
            "versions": [version],
        },
    }  # fmt: skip


def until_established(client: Client) -> None:
    """Until things of all definitions can be listed."""
    ends = time.monotonic() + _PATIENCE
    kinds = ("ciliumidentities", "ciliumendpoints", "ciliumnodes")
    while any(client.ask("GET", f"/apis/cilium.io/v2/{kind}")[0] != 200 for kind in kinds):
        assert time.monotonic() < ends
        time.sleep(0.1)


async def named_by(plane: ControlPlane) -> Directory:
    """What is known of the world once all of it was listed."""
    node = world(RELEASE)["node"]
    directory = Directory(synced=False)
    names = Names(directory, node=node["name"], cluster=node["cluster"])
    source = KubernetesSource(
        names, EventLog(write=lambda _: None), agent="ciliary-test", clock=RisingClock()
    )
    ready = trio.Event()
    access = await from_kubeconfig(plane.kubeconfig())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.run, access, ready.set)
        with trio.fail_after(_PATIENCE):
            await ready.wait()
        while names.step():
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert directory.synced
    return directory


async def test_flows_are_those_of_the_file_without_what_kubernetes_does_not_know(
    plane: ControlPlane,
) -> None:
    directory, whole = await named_by(plane), world(RELEASE)
    for mix in MIXES:
        want = results(RELEASE, mix, without_what_kubernetes_does_not_know(whole), None)
        got = results(RELEASE, mix, whole, directory)
        found = [(n, differences(want[n], got[n])) for n in want if want[n] != got[n]]
        assert found[:3] == [], mix
