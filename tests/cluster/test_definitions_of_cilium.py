"""Cilium's kinds are watched while they are defined, whenever that is."""

from __future__ import annotations

from typing import Any

import trio

from bridge.kubernetes.objects import (
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumIdentity,
    CiliumNode,
    Object,
)
from bridge.kubernetes.resources import core_resources
from tests.cluster.conftest import Account, watching
from tests.cluster.control_plane import Client

Json = dict[str, Any]
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_KINDS: tuple[type[Object], ...] = (
    CiliumIdentity,
    CiliumEndpoint,
    CiliumNode,
    CiliumEndpointSlice,
)
_NETWORKING = {"addressing": [{"ipv4": "10.1.5.1"}], "node": "192.168.0.1"}
_OBJECTS: tuple[Json, ...] = (
    {
        "kind": "CiliumIdentity",
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "1207"},
        "security-labels": {"k8s:app": "frontend"},
    },
    {
        "kind": "CiliumEndpoint",
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "frontend-0", "namespace": "default"},
        "status": {"id": 113, "identity": {"id": 1207}, "networking": _NETWORKING},
    },
    {
        "kind": "CiliumNode",
        "apiVersion": "cilium.io/v2",
        "metadata": {"name": "n00000"},
        "spec": {"addresses": [{"type": "CiliumInternalIP", "ip": "10.1.5.250"}]},
    },
    {
        "kind": "CiliumEndpointSlice",
        "apiVersion": "cilium.io/v2alpha1",
        "metadata": {"name": "ces-1"},
        "namespace": "default",
        "endpoints": [{"name": "frontend-1", "id": 1207, "networking": _NETWORKING}],
    },
)


async def test_definitions_are_found_and_lost_while_running(
    client: Client, account: Account
) -> None:
    async with watching(account.access()) as it:
        assert not set(_KINDS) & it.sink.objects.keys()
        for thing in _OBJECTS:
            client.do("POST", _DEFINITIONS, definition_of(thing))
        try:
            for thing in _OBJECTS:
                await make(client, thing)
            await it.until(lambda: all(it.sink.objects.get(kind) for kind in _KINDS))
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
            for thing in _OBJECTS:
                client.do("DELETE", f"{_DEFINITIONS}/{plural_of(thing)}.cilium.io")
        await it.until(lambda: not any(it.sink.objects.get(kind) for kind in _KINDS))
        await it.until(lambda: len(it.source.watches) == len(core_resources()))
        await it.current()


def plural_of(thing: Json) -> str:
    return {"CiliumIdentity": "ciliumidentities"}.get(thing["kind"], f"{thing['kind'].lower()}s")


def definition_of(thing: Json) -> Json:
    """The definition of an object's kind under Cilium's name; it admits any fields."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": thing["apiVersion"].partition("/")[2],
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "metadata": {"name": f"{plural_of(thing)}.cilium.io"},
        "spec": {
            "group": "cilium.io",
            "names": {"plural": plural_of(thing), "kind": thing["kind"]},
            "scope": "Namespaced" if "namespace" in thing["metadata"] else "Cluster",
            "versions": [version],
        },
    }


async def make(client: Client, thing: Json) -> None:
    """An object of a definition that may not be established yet."""
    namespace = thing["metadata"].get("namespace")
    where = f"namespaces/{namespace}/{plural_of(thing)}" if namespace else plural_of(thing)
    with trio.fail_after(30):
        while True:
            status, answer = client.ask("POST", f"/apis/{thing['apiVersion']}/{where}", thing)
            if status == 201:
                return
            assert 404 == status, answer
            await trio.sleep(0.1)
