"""The fixtures' world as objects of Kubernetes and Cilium, as an API server gives them.

What such objects cannot say is left out: ``without_what_kubernetes_does_not_know`` has the
closed list of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
World = dict[str, Any]

CLUSTER_SCOPE = range(256, 1 << 24)
"""Identities that have a CiliumIdentity; reserved ones are known, others belong to a node."""


def without_what_kubernetes_does_not_know(world: World) -> World:
    """The world less a closed list.

    * policy maps of endpoints;
    * DNS names that endpoints looked up;
    * links;
    * control groups;
    * identities of prefixes and names outside, which each node's Cilium numbers for itself, and
      so the prefixes that have them;
    * endpoints that are no pods: those of Cilium's health and of the host. Their addresses are
      known.
    """
    known = {key: value for key, value in world.items() if key not in {"dns", "links", "cgroups"}}
    known["endpoints"] = [
        {key: value for key, value in endpoint.items() if key != "policy"}
        for endpoint in world["endpoints"]
        if endpoint.get("pod")
    ]
    known["identities"] = [i for i in world["identities"] if i["id"] < CLUSTER_SCOPE.stop]
    known["ips"] = [ip for ip in world["ips"] if ip["identity"] < CLUSTER_SCOPE.stop]
    return known


def objects_of(world: World, *, cilium: bool = True) -> Iterator[Object]:
    """All objects; ``cilium``: its own as well."""
    yield from _namespaces(world)
    yield from _nodes(world)
    yield from _pods(world)
    yield from _services(world)
    if cilium:
        yield from _cilium(world)


def _namespaces(world: World) -> Iterator[Object]:
    for name in sorted({pod["namespace"] for pod in _all_pods(world)}):
        labels = {"kubernetes.io/metadata.name": name}
        yield _object("v1", "Namespace", {"name": name, "labels": labels})


def _nodes(world: World) -> Iterator[Object]:
    node = world["node"]
    own = [node["ipv4"], node["ipv6"]]
    names = {"": own}
    for ip in world["ips"]:
        address, _, length = ip["cidr"].partition("/")
        if ip["identity"] == 6 and length in {"32", "128"}:
            names.setdefault(address.replace("::", ".").rpartition(".")[2], []).append(address)
    for suffix, addresses in names.items():
        name = node["name"] if not suffix else f"node-{suffix}"
        labels = dict(label.split("=", 1) for label in node["labels"]) if not suffix else {}
        said = [{"type": "InternalIP", "address": address} for address in addresses]
        yield _object("v1", "Node", {"name": name, "labels": labels}, status={"addresses": said})


def _all_pods(world: World) -> Iterator[Object]:
    """Local pods as their endpoints, others as (namespace, pod, identity, addresses)."""
    local = {(e["namespace"], e["pod"]): e for e in world["endpoints"] if e.get("pod")}
    yield from local.values()
    remote: dict[tuple[str, str], Object] = {}
    for ip in world["ips"]:
        if ip.get("pod") and (ip["namespace"], ip["pod"]) not in local:
            pod = remote.setdefault((ip["namespace"], ip["pod"]), dict(ip))
            pod["ipv6" if ":" in ip["cidr"] else "ipv4"] = ip["cidr"].partition("/")[0]
    yield from remote.values()


def _pods(world: World) -> Iterator[Object]:
    for pod in _all_pods(world):
        here = "id" in pod
        meta = pod.get("pod_meta") or {}
        labels = {
            text.removeprefix("k8s:").split("=")[0]: text.split("=", 1)[1]
            for text in pod.get("labels") or ()
            if not text.startswith(("k8s:io.", "k8s:k8s-app"))
        }
        owners = [
            {**owner, "apiVersion": "apps/v1", "uid": f"{owner['kind']}-{owner['name']}"}
            for owner in meta.get("owners") or ()
        ]
        said = {
            "name": pod["pod"], "namespace": pod["namespace"],
            "labels": labels | (meta.get("labels") or {}),
            "generateName": meta.get("generate_name", ""), "ownerReferences": owners,
        }  # fmt: skip
        if any(label == "k8s:k8s-app=kube-dns" for label in pod.get("labels") or ()):
            said["labels"]["k8s-app"] = "kube-dns"
        account = next(
            (t.split("=", 1)[1] for t in pod.get("labels") or () if "policy.serviceaccount" in t),
            "default",
        )
        addresses = _addresses(pod)
        yield _object(
            "v1", "Pod", said,
            spec={
                "nodeName": world["node"]["name"] if here else "node-12",
                "serviceAccountName": account,
                "containers": [{"name": "main", "image": "none"}],
            },
            status={
                "phase": "Running", "podIP": addresses[0],
                "podIPs": [{"ip": address} for address in addresses],
            },
        )  # fmt: skip


def _services(world: World) -> Iterator[Object]:
    services: dict[tuple[str, str], list[Object]] = {}
    for service in world["services"]:
        services.setdefault((service["namespace"], service["name"]), []).append(service)
    for (namespace, name), frontends in services.items():
        addresses = list(dict.fromkeys(f["ip"] for f in frontends))
        ports = list(dict.fromkeys(f["port"] for f in frontends))
        yield _object(
            "v1", "Service", {"name": name, "namespace": namespace},
            spec={
                "clusterIP": addresses[0], "clusterIPs": addresses[:1],
                "externalIPs": addresses[1:],
                "ports": [{"name": f"p{port}", "port": port} for port in ports],
            },
        )  # fmt: skip
    servers = [ip["cidr"].partition("/")[0] for ip in world["ips"] if ip["identity"] == 7]
    yield _object(
        "discovery.k8s.io/v1", "EndpointSlice",
        {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        addressType="IPv4", endpoints=[{"addresses": servers}],
        ports=[{"name": "https", "port": 6443}],
    )  # fmt: skip


def _cilium(world: World) -> Iterator[Object]:
    labels_of = {i["id"]: i["labels"] for i in world["identities"]}
    for number, labels in labels_of.items():
        if number in CLUSTER_SCOPE:
            texts = dict(label.split("=", 1) for label in labels)
            yield _object(
                "cilium.io/v2",
                "CiliumIdentity",
                {"name": str(number)},
                **{"security-labels": texts},
            )
    for pod in _all_pods(world):
        here = "id" in pod
        pair = {family: pod[family] for family in ("ipv4", "ipv6") if pod.get(family)}
        node = world["node"]["ipv4"] if here else "192.168.10.12"
        status = {
            "id": pod["id"] if here else 1,
            "identity": {"id": pod["identity"], "labels": labels_of[pod["identity"]]},
            "networking": {"addressing": [pair], "node": node},
        }
        metadata = {"name": pod["pod"], "namespace": pod["namespace"]}
        yield _object("cilium.io/v2", "CiliumEndpoint", metadata, status=status)
    inside = [ip["cidr"].partition("/")[0] for ip in world["ips"] if ip["identity"] == 1]
    health = [ip["cidr"].partition("/")[0] for ip in world["ips"] if ip["identity"] == 4]
    spec = {
        "addresses": [{"type": "CiliumInternalIP", "ip": address} for address in inside],
        "health": {"ipv4": next(iter(health), "")},
    }
    yield _object("cilium.io/v2", "CiliumNode", {"name": world["node"]["name"]}, spec=spec)


def _addresses(pod: Object) -> list[str]:
    return [pod[family] for family in ("ipv4", "ipv6") if pod.get(family)]


def _object(version: str, kind: str, metadata: Object, **more: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **more}
