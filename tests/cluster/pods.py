"""Pods and nodes in a real API server, by the thousand."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from tests.cluster.control_plane import Client, ControlPlane

Json = dict[str, Any]
PODS = "/api/v1/namespaces/default/pods"


def node(i: int) -> Json:
    """n00000 and on, in three zones."""
    address = {"type": "InternalIP", "address": f"10.255.{i >> 8 & 255}.{i & 255}"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n{i:05d}", "labels": {"topology.kubernetes.io/zone": f"z{i % 3}"}},
        "status": {"addresses": [address]},
    }


def pod(name: str, node_name: str, **labels: str) -> Json:
    """A pod that is bound to a node."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node_name, "containers": [{"name": "main", "image": "none"}]},
    }


def running(address: str) -> Json:
    """The status by which a pod has an address."""
    return {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}


def address_of(i: int) -> str:
    """Of the i-th pod."""
    return f"10.{i >> 16 & 127}.{i >> 8 & 255}.{i & 255}"


def make_pod(client: Client, name: str, node_name: str, address: str, **labels: str) -> None:
    """A running pod with an address of its own."""
    client.do("POST", PODS, pod(name, node_name, **labels))
    client.do("PATCH", f"{PODS}/{name}/status", running(address))


def delete_pod(client: Client, name: str) -> None:
    """At once, as when its node says that it is gone."""
    client.do("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0}, unless=404)


def fill(plane: ControlPlane, nodes: int, pods: int, first: int = 0) -> None:
    """Nodes n00000 and on, pods app-000000 and on, over 12 connections."""

    def one_node(client: Client, i: int) -> None:
        client.ask("POST", "/api/v1/nodes", node(i))  # it may be there

    def one_pod(client: Client, i: int) -> None:
        labels = {"app": f"app{i % 500}", "version": f"v{i % 3}"}
        make_pod(client, f"app-{i:06d}", f"n{i % nodes:05d}", address_of(i), **labels)

    each(plane, nodes, one_node)
    each(plane, pods, lambda client, i: one_pod(client, first + i))


def each(plane: ControlPlane, count: int, work: Callable[[Client, int], None]) -> None:
    """``work`` for 0 to ``count`` over 12 connections; the first failure is raised."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(count):
        todo.put(i)
    failures: list[Exception] = []

    def drain() -> None:
        with plane.client() as client:
            while not failures:
                try:
                    work(client, todo.get_nowait())
                except queue.Empty:
                    break
                except Exception as error:  # noqa: BLE001 -- it is raised below
                    failures.append(error)

    threads = [threading.Thread(target=drain) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
