"""Watches against a real etcd and kube-apiserver, through what may happen to them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from bridge.kubernetes.credentials import from_kubeconfig
from bridge.kubernetes.objects import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    CiliumNode,
    EndpointSlice,
    Namespace,
    Node,
    Object,
    Pod,
    Service,
)
from bridge.kubernetes.resources import CILIUM_VERSIONS, cilium_resources, core_resources
from bridge.rising_clock import RisingClock
from tests.cluster.conftest import RBAC, Account, Watched, watching
from tests.cluster.control_plane import Client, ControlPlane
from tests.cluster.cutting_proxy import CuttingProxy
from tests.cluster.pods import PODS, delete_pod, fill, make_pod
from tests.telling import Tell

Json = dict[str, Any]
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def pods_of(client: Client, *, node: str = "") -> dict[str, str]:
    """Name -> address, as the server has them."""
    fields = f"?fieldSelector=spec.nodeName={node}" if node else ""
    items = client.do("GET", f"{PODS}{fields}")["items"]
    return {i["metadata"]["name"]: i["status"].get("podIP", "") for i in items}


def told_pods(it: Watched) -> dict[str, str]:
    """Name -> address, as the sink was told."""
    pods = it.sink.objects.get(Pod, {}).values()
    return {pod.metadata.name: pod.status.pod_ip for pod in pods if isinstance(pod, Pod)}


@pytest.fixture
def no_pods(client: Client) -> None:
    client.do("DELETE", f"{PODS}?gracePeriodSeconds=0")


@contextlib.asynccontextmanager
async def through_a_proxy(plane: ControlPlane) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(plane.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()


async def test_all_kinds_are_listed_with_the_documented_rights(
    control_plane: ControlPlane, client: Client, account: Account, no_pods: None
) -> None:
    fill(control_plane, nodes=3, pods=600)
    client.ask("DELETE", "/api/v1/namespaces/default/services/web")
    service = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "name": "http"}]}}
    client.do("POST", "/api/v1/namespaces/default/services", service)
    async with watching(account.access()) as it:
        assert pods_of(client) == told_pods(it)
        assert {"n00000", "n00001", "n00002"} <= it.sink.names(Node)
        assert {"default", "kube-system"} <= it.sink.names(Namespace)
        assert {"kubernetes", "web"} <= it.sink.names(Service)
        assert it.sink.synced_after is not None


def test_the_documented_rights_are_those_of_what_is_watched_and_no_more(
    control_plane: ControlPlane, account: Account
) -> None:
    everything = cilium_resources(
        {CILIUM_VERSIONS[0]: [name for rule in rules_of_the_page() for name in rule["resources"]]}
    )
    wanted = {
        (resource.path.split("/")[2] if resource.path.startswith("/apis") else "", resource.name)
        for resource in (*core_resources(), *everything)
    }
    review = {"spec": {"namespace": "kube-system"}}
    with Client(control_plane.port, control_plane.authority, account.token()) as agent:
        answer = agent.do("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)
        assert 403 == agent.ask("GET", "/api/v1/secrets")[0]
    rights = {
        (group, resource, verb)
        for rule in answer["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group not in {"authorization.k8s.io", "authentication.k8s.io"}  # everybody's
    }
    assert {(*pair, verb) for pair in wanted for verb in ("list", "watch")} == rights


def rules_of_the_page() -> list[Json]:
    found = yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
    (role,) = [manifest for manifest in found if manifest["kind"] == "ClusterRole"]
    rules: list[Json] = role["rules"]
    return rules


async def test_an_agent_of_one_node_is_told_of_its_pods_only(
    control_plane: ControlPlane, client: Client, account: Account, no_pods: None
) -> None:
    fill(control_plane, nodes=3, pods=30)
    async with watching(account.access(), node="n00001") as it:
        assert pods_of(client, node="n00001") == told_pods(it)
        assert {"n00000", "n00001", "n00002"} <= it.sink.names(Node)
        make_pod(client, "here", "n00001", "10.1.1.1")
        make_pod(client, "there", "n00002", "10.1.1.2")
        make_pod(client, "here-too", "n00001", "10.1.1.3")
        await it.until(lambda: "here-too" in it.sink.names(Pod))
        assert "there" not in it.sink.names(Pod)


async def test_changes_are_told_until_a_pod_ends(
    client: Client, account: Account, no_pods: None
) -> None:
    async with watching(account.access()) as it:
        make_pod(client, "a", "n00000", "10.1.0.1", app="x")
        await it.until(lambda: told_pods(it) == {"a": "10.1.0.1"})
        client.do("PATCH", f"{PODS}/a", {"metadata": {"labels": {"app": "y"}}})

        def app() -> set[str]:
            return {(pod.metadata.labels or {})["app"] for pod in it.sink.objects[Pod].values()}

        await it.until(lambda: app() == {"y"})
        client.do("PATCH", f"{PODS}/a/status", {"status": {"phase": "Succeeded"}})
        await it.until(lambda: not told_pods(it))  # it has given its address back
        make_pod(client, "b", "n00000", "10.1.0.1")
        await it.until(lambda: told_pods(it) == {"b": "10.1.0.1"})
        delete_pod(client, "b")
        await it.until(lambda: not told_pods(it))


async def test_endpoint_slices_without_endpoints_are_no_fault(
    client: Client, account: Account
) -> None:
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    slice_of_none = {
        "metadata": {"name": "none", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": None,
        "ports": None,
    }
    async with watching(account.access()) as it:
        client.do("POST", path, slice_of_none)
        await it.until(lambda: "none" in it.sink.names(EndpointSlice))
        assert not sum(watch.counts.malformed for watch in it.source.watches)
        client.do("DELETE", f"{path}/none")
        await it.until(lambda: "none" not in it.sink.names(EndpointSlice))


async def test_a_server_that_is_killed_and_comes_back_loses_no_name(
    control_plane: ControlPlane, client: Client, account: Account, no_pods: None
) -> None:
    fill(control_plane, nodes=3, pods=300)
    async with watching(account.access()) as it:
        names = told_pods(it)
        control_plane.kill_server()
        await it.until(it.source.complaint)
        assert "names are" in it.source.complaint()
        assert names == told_pods(it)
        await trio.to_thread.run_sync(control_plane.start_server)
        await it.current()
        with control_plane.client() as after:
            delete_pod(after, "app-000007")
            make_pod(after, "new", "n00000", "10.1.2.3")
        await it.until(lambda: "new" in told_pods(it))
        assert {"app-000007"} == {name for _, name in it.sink.removed(Pod)}


async def test_a_compacted_etcd_means_a_new_list_that_forgets_only_what_is_gone(
    control_plane: ControlPlane, client: Client, account: Account, no_pods: None
) -> None:
    fill(control_plane, nodes=3, pods=300)
    async with (
        through_a_proxy(control_plane) as proxy,
        watching(account.access(proxy.port)) as it,
    ):
        proxy.open = False
        await proxy.cut()
        await it.until(it.source.complaint)
        delete_pod(client, "app-000011")
        make_pod(client, "late", "n00000", "10.1.2.4")
        control_plane.compact()
        # A server that has just begun has no changes from before in its cache.
        control_plane.kill_server()
        await trio.to_thread.run_sync(control_plane.start_server)
        proxy.open = True
        await it.current()
        with control_plane.client() as after:
            assert pods_of(after) == told_pods(it)
        assert {"app-000011"} == {name for _, name in it.sink.removed(Pod)}
        (pods,) = [watch for watch in it.source.watches if watch.resource.kind is Pod]
        assert 1 == pods.counts.lists["expired"]


async def test_a_watch_that_is_cut_inside_an_object_goes_on_where_it_was(
    control_plane: ControlPlane, client: Client, account: Account, no_pods: None
) -> None:
    async with (
        through_a_proxy(control_plane) as proxy,
        watching(account.access(proxy.port)) as it,
    ):
        (pods,) = [watch for watch in it.source.watches if watch.resource.kind is Pod]
        for i, allowance in enumerate((1, 100, 700, 1500)):
            watches = pods.counts.watches
            proxy.allowance = allowance
            make_pod(client, f"p{i}", "n00000", f"10.1.3.{i}")
            await it.until(lambda n=watches: pods.counts.watches > n)  # type: ignore[misc]
            await it.current()
        await it.until(lambda: len(told_pods(it)) == 4)
        assert pods_of(client) == told_pods(it)
        assert {"first": 1} == dict(pods.counts.lists)


async def test_a_token_is_replaced_while_running(
    control_plane: ControlPlane, client: Client, account: Account, no_pods: None
) -> None:
    async with (
        through_a_proxy(control_plane) as proxy,
        watching(account.access(proxy.port)) as it,
    ):
        await invalidate(control_plane, client, account, rotate=True)
        await proxy.cut()
        make_pod(client, "later", "n00000", "10.1.4.1")
        await it.until(lambda: "later" in told_pods(it))
        await it.current()
        # Without a good one: said, and mended when there is one again.
        await invalidate(control_plane, client, account, rotate=False)
        await proxy.cut()
        await it.until(lambda: "401" in it.source.complaint())
        account.rotate()
        await it.current()


async def invalidate(
    plane: ControlPlane, client: Client, account: Account, *, rotate: bool
) -> None:
    """Until the server, which remembers good tokens for some seconds, refuses that of now."""
    token, secret = account.token(), account.secret
    if rotate:
        account.rotate()
    client.do("DELETE", f"/api/v1/namespaces/kube-system/secrets/{secret}")
    with trio.fail_after(60), Client(plane.port, plane.authority, token) as refused:
        while refused.ask("GET", "/api/v1/pods?limit=1")[0] != 401:
            await trio.sleep(0.5)


async def test_definitions_of_cilium_are_found_and_lost_while_running(
    client: Client, account: Account
) -> None:
    kinds = {
        "ciliumidentities": ("CiliumIdentity", "Cluster", "v2"),
        "ciliumendpoints": ("CiliumEndpoint", "Namespaced", "v2"),
        "ciliumnodes": ("CiliumNode", "Cluster", "v2"),
        "ciliumendpointslices": ("CiliumEndpointSlice", "Cluster", "v2alpha1"),
    }
    group = "/apis/cilium.io"
    addressing = {"addressing": [{"ipv4": "10.1.5.1"}], "node": "192.168.0.1"}
    objects: dict[str, Json] = {
        f"{group}/v2/ciliumidentities": {
            "metadata": {"name": "1207"},
            "security-labels": {"k8s:app": "frontend"},
        },
        f"{group}/v2/namespaces/default/ciliumendpoints": {
            "metadata": {"name": "frontend-0"},
            "status": {"id": 113, "identity": {"id": 1207}, "networking": addressing},
        },
        f"{group}/v2/ciliumnodes": {
            "metadata": {"name": "n00000"},
            "spec": {"addresses": [{"type": "CiliumInternalIP", "ip": "10.1.5.250"}]},
        },
        f"{group}/v2alpha1/ciliumendpointslices": {
            "metadata": {"name": "ces-1"},
            "namespace": "default",
            "endpoints": [{"name": "frontend-1", "id": 1207, "networking": addressing}],
        },
    }
    seen: set[type[Object]] = {CiliumIdentity, CiliumEndpoint, CiliumNode, CiliumEndpointSlice}
    async with watching(account.access()) as it:
        assert not seen & it.sink.objects.keys()
        for plural, (kind, scope, version) in kinds.items():
            client.do("POST", _CRDS, definition(plural, kind, scope, version))
        try:
            for path, thing in objects.items():
                await made(client, path, thing)
            await it.until(lambda: all(it.sink.objects.get(kind) for kind in seen))
            (endpoint,) = it.sink.objects[CiliumEndpoint].values()
            assert isinstance(endpoint, CiliumEndpoint)
            assert endpoint.status is not None
            assert endpoint.status.networking is not None
            assert endpoint.status.networking.addressing is not None
            assert "10.1.5.1" == endpoint.status.networking.addressing[0].ipv4
            (identity,) = it.sink.objects[CiliumIdentity].values()
            assert isinstance(identity, CiliumIdentity)
            assert {"k8s:app": "frontend"} == identity.security_labels
            await it.current()
        finally:
            for plural in kinds:
                client.do("DELETE", f"{_CRDS}/{plural}.cilium.io")
        await it.until(lambda: not any(it.sink.objects.get(kind) for kind in seen))
        await it.until(lambda: len(it.source.watches) == len(core_resources()))
        await it.current()


def definition(plural: str, kind: str, scope: str, version: str) -> Json:
    """A definition under Cilium's name that admits any fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "metadata": {"name": f"{plural}.cilium.io"},
        "spec": {
            "group": "cilium.io",
            "names": {"plural": plural, "kind": kind},
            "scope": scope,
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


async def made(client: Client, path: str, thing: Json) -> None:
    """Make an object of a definition that may not be established yet."""
    version, kind = path.removeprefix("/apis/").split("/")[:2], path.rpartition("/")[2]
    names = {"ciliumidentities": "CiliumIdentity"}
    named = names.get(kind, f"Cilium{kind.removeprefix('cilium').removesuffix('s').capitalize()}")
    named = named.replace("Endpointslice", "EndpointSlice")
    body = {"apiVersion": "/".join(version), "kind": named, **thing}
    with trio.fail_after(30):
        while (answer := client.ask("POST", path, body))[0] != 201:
            assert answer[0] == 404, answer
            await trio.sleep(0.1)


async def test_a_clock_that_is_set_back_dates_changes_in_their_order(
    client: Client, account: Account, no_pods: None
) -> None:
    step = 0
    clock = RisingClock(lambda: time.time_ns() + step)
    async with watching(account.access(), clock=clock) as it:
        make_pod(client, "before", "n00000", "10.1.6.1")
        await it.until(lambda: "10.1.6.1" in told_pods(it).values())
        step = -3600 * 10**9
        delete_pod(client, "before")
        make_pod(client, "after", "n00000", "10.1.6.1")
        await it.until(lambda: told_pods(it) == {"after": "10.1.6.1"})
        times = [at for kind, *_, at in it.sink.told if kind is Pod and at]
        assert sorted(times) == times
        assert len(set(times)) == len(times)


async def test_a_kubeconfig_logs_in_over_verified_tls(
    control_plane: ControlPlane, account: Account, tmp_path: Path
) -> None:
    path = control_plane.kubeconfig("agent", account.token())
    async with watching(await from_kubeconfig(path)) as it:
        assert not it.source.complaint()
    told = json.loads(path.read_text())
    stranger = tmp_path / "stranger.crt"
    stranger.write_bytes(_other_authority())
    told["clusters"][0]["cluster"]["certificate-authority"] = str(stranger)
    path.write_text(json.dumps(told))
    access = await from_kubeconfig(path)
    with pytest.raises(OSError, match="the server's certificate is not trusted"):
        await access.dial()


def _other_authority() -> bytes:
    import trustme

    return trustme.CA().cert_pem.bytes()


async def test_ten_thousand_pods_hold_the_loop_for_less_than_ten_milliseconds(
    control_plane: ControlPlane,
    client: Client,
    account: Account,
    tell: Tell,
    no_pods: None,
) -> None:
    """By the time of the processor: what else the machine does is not ours."""
    await trio.to_thread.run_sync(fill, control_plane, 100, 10_000)
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        began = time.monotonic()
        async with watching(account.access()) as it:
            took = time.monotonic() - began
            assert 10_000 == len(told_pods(it))
    finally:
        trio.lowlevel.remove_instrument(steps)
    taken = sorted(steps.taken)
    late = taken[int(len(taken) * 0.999)]
    tell(f"10,000 pods: listed in {took:.2f} s, steps p99.9 {late * 1e3:.1f} ms")
    assert late < 0.010


class Steps(trio.abc.Instrument):
    """Processor time (s) of each step of a task."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self._began = 0.0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken.append(time.thread_time() - self._began)
