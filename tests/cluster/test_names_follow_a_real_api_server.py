"""Watches against a real etcd and kube-apiserver, through what may happen to them."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from bridge.kubernetes.objects import (
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    Service,
)
from bridge.process_tuning import tune_process
from bridge.rising_clock import RisingClock
from tests.cluster.conftest import Account, Watched, watching
from tests.cluster.control_plane import Client, ControlPlane
from tests.cluster.cutting_proxy import proxy_of
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
        proxy_of(control_plane.port) as proxy,
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
        proxy_of(control_plane.port) as proxy,
        watching(account.access(proxy.port)) as it,
    ):
        (pods,) = [watch for watch in it.source.watches if watch.resource.kind is Pod]
        for i, allowance in enumerate((1, 100, 700, 1500)):
            proxy.allowance = allowance
            for n in range(3):  # more bytes than are allowed, however long one is
                make_pod(client, f"p{i}{n}", "n00000", f"10.1.3.{10 * i + n}")
            await it.until(lambda: proxy.allowance is None)
            await it.current()
        await it.until(lambda: len(told_pods(it)) == 12)
        assert pods_of(client) == told_pods(it)
        assert {"first": 1} == dict(pods.counts.lists)


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


@pytest.fixture
def tuned() -> Iterator[None]:
    """Collections of garbage as rare as in an agent."""
    before = gc.get_threshold()
    tune_process()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


async def test_ten_thousand_pods_hold_the_loop_for_less_than_ten_milliseconds(
    control_plane: ControlPlane,
    client: Client,
    account: Account,
    tell: Tell,
    no_pods: None,
    tuned: None,
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
        self._began = time.thread_time()  # the step that makes us has no other beginning

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.taken.append(time.thread_time() - self._began)
