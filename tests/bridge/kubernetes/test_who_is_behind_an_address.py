"""What objects say of an address, side by side with what is shown of it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from bridge.kubernetes import objects
from bridge.kubernetes.label_filter import LabelFilter
from bridge.kubernetes.local import LocalEndpoints
from bridge.kubernetes.names import Names
from bridge.kubernetes.sink import SINCE_EVER
from parsers.address_table import ADDRESS
from parsers.addresses import parse_address
from parsers.conversations import Conversations
from parsers.details import Service
from parsers.directory import (
    EXPIRED,
    NOT_IN_SCOPE,
    UNKNOWN_ADDRESS,
    Directory,
    Frontends,
    LocalEndpoint,
)
from parsers.entities import Entities, Entity, Workload
from parsers.flow_batch import CONVERSATION, L4_TCP, L4_UDP
from parsers.node_network import NodeNetwork
from tests.bridge.kubernetes.times import SECOND, text_of

NOW = 1_790_000_000 * SECOND


class Cluster:
    """Objects as JSON, told to names; ``node-a`` is where we are."""

    def __init__(self, *, everything: bool = True, **settings: Any) -> None:
        self.directory = Directory(synced=False)
        self.names = Names(self.directory, node="node-a", cluster="blue", **settings)
        self.names.synced(everything=everything)
        self.now = NOW

    def tell(self, kind: type[objects.Object], at: Any = None, **said: Any) -> None:
        each = msgspec.json.decode(msgspec.json.encode(said), type=kind)
        self.names.apply(kind, [each], [], self.now if at is None else at)
        while self.names.step():
            pass

    def pod(self, name: str, address: str, **said: Any) -> None:
        metadata = {"name": name, "namespace": "shop", **said.pop("metadata", {})}
        spec = {"nodeName": "node-b", "serviceAccountName": "web", **said.pop("spec", {})}
        status = {"phase": "Running", "podIP": address, **said.pop("status", {})}
        self.tell(objects.Pod, metadata=metadata, spec=spec, status=status)

    def gone(self, kind: type[objects.Object], *keys: objects.Key) -> None:
        self.names.apply(kind, [], keys, self.now)

    def entity(self, address: str, identity: int = 0) -> Entity:
        return self.directory.entity(packed(address), identity, self.now)

    def frontends(self, address: str) -> Frontends:
        asked = np.frombuffer(packed(address), dtype=ADDRESS)
        (row,) = self.directory.at(asked, np.array([self.now])).frontends
        return self.directory.frontends[int(row)]

    def services(self, address: str) -> dict[int, str]:
        """By port, whatever the protocol."""
        by_port = self.frontends(address).by_port
        return {p: f"{s.namespace}/{s.name}" for p, s in by_port.items() if p < 1 << 16}


def packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


OWN = [
    "k8s:app=web",
    "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
    "k8s:io.cilium.k8s.policy.cluster=blue",
    "k8s:io.cilium.k8s.policy.serviceaccount=web",
    "k8s:io.kubernetes.pod.namespace=shop",
]


def test_a_pod_without_cilium_has_the_identity_of_its_labels() -> None:
    cluster = Cluster()
    labels = {"labels": {"app": "web", "pod-template-hash": "5d4", "job-name": ""}}
    cluster.pod("web-1", "10.0.0.1", metadata=labels)
    cluster.pod("web-2", "10.0.0.2", metadata=labels)
    cluster.pod("api-1", "10.0.0.3", metadata={"labels": {"app": "api"}})
    first, second, other = (cluster.entity(f"10.0.0.{n}") for n in (1, 2, 3))
    assert first.labels == tuple(sorted([*OWN, "k8s:job-name"]))
    assert (first.namespace, first.pod_name, first.cluster_name) == ("shop", "web-1", "blue")
    assert first.identity == second.identity != other.identity
    assert 256 <= first.identity < 1 << 24
    again = Cluster()
    again.pod("api-1", "10.0.0.3", metadata={"labels": {"app": "api"}})
    assert again.entity("10.0.0.3").identity == other.identity


def test_labels_of_the_namespace_count_and_change_its_pods() -> None:
    cluster = Cluster()
    cluster.pod("web-1", "10.0.0.1", metadata={"labels": {"app": "web"}})
    before = cluster.entity("10.0.0.1")
    cluster.now += SECOND
    labels = {"kubernetes.io/metadata.name": "shop", "team": "blue"}
    cluster.tell(objects.Namespace, metadata={"name": "shop", "labels": labels})
    after = cluster.entity("10.0.0.1")
    assert set(after.labels) - set(before.labels) == {
        "k8s:io.cilium.k8s.namespace.labels.team=blue"
    }
    assert after.identity != before.identity
    assert cluster.directory.entity(packed("10.0.0.1"), 0, NOW) == before


def test_ciliums_numbers_and_ids_win_where_cilium_is() -> None:
    cluster = Cluster()
    here = {"nodeName": "node-a"}
    cluster.pod("web-1", "10.0.0.1", spec=here)
    cluster.pod("web-2", "10.0.0.2", spec=here)
    own = cluster.entity("10.0.0.1").endpoint_id
    assert 0 < own < 1 << 16
    metadata = {"name": "web-1", "namespace": "shop"}
    identity = {"id": 4242, "labels": ["k8s:app=web"]}
    networking = {"addressing": [{"ipv4": "10.0.0.1"}], "node": "192.168.0.1"}
    status = {"id": 77, "identity": identity, "networking": networking}
    cluster.tell(objects.CiliumEndpoint, metadata=metadata, status=status)
    assert cluster.entity("10.0.0.1") == Entity(77, 4242, "shop", "web-1", ("k8s:app=web",))
    unmanaged = cluster.entity("10.0.0.2")
    assert (unmanaged.identity, unmanaged.labels) == (3, ("reserved:unmanaged",))


def cilium_endpoint(cluster: Cluster, name: str, number: int, address: str) -> None:
    networking = {"addressing": [{"ipv4": address}], "node": "192.168.0.1"}
    status = {"id": number, "identity": {"id": 4242}, "networking": networking}
    metadata = {"name": name, "namespace": "shop"}
    cluster.tell(objects.CiliumEndpoint, metadata=metadata, status=status)


def test_an_id_that_cilium_gave_to_another_pod_stays_with_that_one() -> None:
    cluster = Cluster()
    here = {"nodeName": "node-a"}
    cluster.pod("web-1", "10.0.0.1", spec=here)
    cluster.pod("web-2", "10.0.0.2", spec=here)
    shared = cluster.entity("10.0.0.2").endpoint_id
    cilium_endpoint(cluster, "web-1", shared, "10.0.0.1")
    cluster.now += SECOND
    cluster.pod("web-2", "10.0.0.2", spec=here, metadata={"labels": {"app": "other"}})
    other = cluster.entity("10.0.0.2").endpoint_id
    assert other not in {0, shared}
    cluster.now += SECOND
    cilium_endpoint(cluster, "web-2", 78, "10.0.0.2")
    # As in a list after an outage: the pod that has the id now is told of before the end of the one
    # that had it.
    cluster.now += SECOND
    cluster.pod("web-3", "10.0.0.3", spec=here)
    cilium_endpoint(cluster, "web-3", 78, "10.0.0.3")
    for kind in (objects.Pod, objects.CiliumEndpoint):
        cluster.gone(kind, ("shop", "web-2"))
    for number, pod in ((shared, "web-1"), (78, "web-3")):
        endpoint = cluster.directory.endpoint_by_id(number, cluster.now)
        assert endpoint is not None
        assert pod == endpoint.pod_name
    assert None is cluster.directory.endpoint_by_id(other, cluster.now)


def test_more_pods_than_there_are_ids_do_without() -> None:
    endpoints = LocalEndpoints(Directory())
    for number in range(1, 1 << 16):
        endpoints.set(None, LocalEndpoint(number, 0, "shop", f"web-{number}"), NOW)
    assert 0 == endpoints.id_of(("shop", "one-more"), None)


def test_no_object_says_what_a_reserved_identity_is() -> None:
    cluster = Cluster()
    identity = {"id": 6, "labels": ["k8s:app=web"]}
    status = {"id": 77, "identity": identity}
    cluster.tell(objects.CiliumEndpoint, metadata={"name": "p", "namespace": "q"}, status=status)
    labels = {"security-labels": {"k8s:app": "web"}}
    cluster.tell(objects.CiliumIdentity, metadata={"name": "2"}, **labels)
    known = {number: cluster.entity("203.0.113.9", number).labels for number in (2, 6)}
    assert {2: ("reserved:world",), 6: ("reserved:remote-node",)} == known
    cluster.gone(objects.CiliumIdentity, ("", "2"))
    assert ("reserved:world",) == cluster.entity("203.0.113.9", 2).labels


def test_numbers_are_ours_again_where_cilium_has_gone() -> None:
    cluster = Cluster()
    cluster.pod("web-1", "10.0.0.1")
    ours, near = cluster.entity("10.0.0.1"), cluster.entity("10.0.0.2")
    cluster.now += SECOND
    cluster.tell(objects.CiliumNode, metadata={"name": "node-b"})
    assert cluster.entity("10.0.0.1").labels == ("reserved:unmanaged",)
    cluster.now += SECOND
    cluster.gone(objects.CiliumNode, ("", "node-b"))
    cluster.names.cilium_is_gone(cluster.now)
    while cluster.names.step():
        pass
    assert cluster.entity("10.0.0.1") == ours
    assert cluster.entity("10.0.0.2") == near
    cluster.now -= SECOND // 2
    assert cluster.entity("10.0.0.1").labels == ("reserved:unmanaged",)


def test_endpoints_in_slices_are_named_by_their_identity() -> None:
    cluster = Cluster()
    networking = {"addressing": [{"ipv4": "10.0.0.9"}], "node": "192.168.0.2"}
    cluster.tell(
        objects.CiliumEndpointSlice,
        metadata={"name": "ces-1"}, namespace="shop",
        endpoints=[{"name": "web-9", "id": 4243, "networking": networking}],
    )  # fmt: skip
    cluster.tell(
        objects.CiliumIdentity,
        metadata={"name": "4243"}, **{"security-labels": {"k8s:app": "web", "k8s:plain": ""}},
    )  # fmt: skip
    assert cluster.entity("10.0.0.9") == Entity(
        0, 4243, "shop", "web-9", ("k8s:app=web", "k8s:plain")
    )
    cluster.gone(objects.CiliumEndpointSlice, ("", "ces-1"))
    cluster.now += SECOND
    assert cluster.entity("10.0.0.9").pod_name == ""


def test_nodes_servers_and_the_world_are_reserved_identities() -> None:
    cluster = Cluster()
    for name, address in (("node-a", "192.168.0.1"), ("node-b", "192.168.0.2")):
        addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname"}]
        cluster.tell(objects.Node, metadata={"name": name}, status={"addresses": addresses})
    cluster.tell(
        objects.EndpointSlice,
        metadata={
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        endpoints=[{"addresses": ["192.168.0.9"]}],
    )  # fmt: skip
    cluster.tell(
        objects.CiliumNode, metadata={"name": "node-b"}, spec={
            "addresses": [{"type": "CiliumInternalIP", "ip": "10.0.2.1"}],
            "health": {"ipv4": "10.0.2.2"}, "ingress": {"ipv4": "10.0.2.3"},
        },
    )  # fmt: skip
    shown = {
        "192.168.0.1": ("reserved:host",),
        "192.168.0.2": ("reserved:remote-node",),
        "192.168.0.9": ("reserved:kube-apiserver", "reserved:remote-node"),
        "10.0.2.1": ("reserved:remote-node",),
        "10.0.2.2": ("reserved:health",),
        "10.0.2.3": ("reserved:ingress",),
        "198.51.100.1": ("reserved:world",),
        "2001:db8::1": ("reserved:world",),
    }
    assert {address: cluster.entity(address).labels for address in shown} == shown


def test_addresses_of_the_node_that_no_object_has_are_the_host() -> None:
    cluster = Cluster()
    cluster.pod("web-1", "10.0.0.7", spec={"nodeName": "node-a"})
    cluster.directory.set_node_network(
        NodeNetwork(
            frozenset(map(packed, ("10.0.0.1", "10.0.0.7", "169.254.20.10"))),
            frozenset({(packed("172.17.0.0"), 112)}),
        )
    )
    assert cluster.entity("10.0.0.1").labels == ("reserved:host",)  # a bridge's, among pods
    assert cluster.entity("169.254.20.10").labels == ("reserved:host",)
    assert cluster.entity("10.0.0.7").pod_name == "web-1"
    assert cluster.directory.reason(packed("10.0.0.8"), NOW) == UNKNOWN_ADDRESS
    assert cluster.entity("172.17.0.2").labels == ("reserved:world",)  # as without it


def owned(kind: str, name: str, **labels: str) -> dict[str, Any]:
    owners = [{"kind": "Node", "name": "x"}, {"kind": kind, "name": name, "controller": True}]
    return {"generateName": f"{name}-", "ownerReferences": owners, "labels": labels}


@pytest.mark.parametrize(
    ("metadata", "known_as"),
    [
        (
            owned("ReplicaSet", "web-5d4", **{"pod-template-hash": "5d4"}),
            Workload("web", "Deployment"),
        ),
        (owned("ReplicaSet", "web-5d4"), Workload("web-5d4", "ReplicaSet")),
        (owned("StatefulSet", "db"), Workload("db", "StatefulSet")),
        (owned("DaemonSet", "agent"), Workload("agent", "DaemonSet")),
        (owned("Job", "report-28400000"), Workload("report", "CronJob")),
        (owned("Job", "report-284000000001"), Workload("report-284000000001", "Job")),
        (owned("Job", "report-1"), Workload("report-1", "Job")),
        (
            owned("ReplicationController", "old-3", deploymentconfig="old"),
            Workload("old", "DeploymentConfig"),
        ),
        ({}, Workload("bare", "Pod")),
    ],
)
def test_workloads_are_what_people_know(metadata: dict[str, Any], known_as: Workload) -> None:
    cluster = Cluster()
    cluster.pod("bare", "10.0.0.1", metadata=metadata)
    workloads = cluster.entity("10.0.0.1").workloads
    assert workloads == ((known_as,) if metadata else ())


def test_services_are_found_at_all_their_addresses_and_headless_ones_at_backends() -> None:
    cluster = Cluster()
    nodes = {"node-a": "192.168.0.1", "node-b": "192.168.0.2"}
    for name, address in nodes.items():
        addresses = [{"type": "InternalIP", "address": address}]
        cluster.tell(objects.Node, metadata={"name": name}, status={"addresses": addresses})
    cluster.tell(
        objects.Service, metadata={"name": "web", "namespace": "shop"},
        spec={
            "type": "LoadBalancer", "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": ["192.168.0.2"],
            "ports": [{"port": 80, "nodePort": 30080}],
        },
        status={"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "lb"}]}},
    )  # fmt: skip
    where = ("10.96.0.1", "fd00::1", "203.0.113.1", "192.168.0.1", "192.168.0.2")
    everywhere = {address: cluster.services(address) for address in where}
    assert everywhere == {
        "10.96.0.1": {80: "shop/web"}, "fd00::1": {80: "shop/web"},
        "203.0.113.1": {80: "shop/web"}, "192.168.0.1": {30080: "shop/web"},
        "192.168.0.2": {80: "shop/web", 30080: "shop/web"},
    }  # fmt: skip
    slices = {
        "metadata": {
            "name": "db-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "db"},
        },
        "endpoints": [{"addresses": ["10.0.0.5"]}], "ports": [{"port": 5432}],
    }  # fmt: skip
    cluster.tell(objects.EndpointSlice, **slices)
    assert cluster.services("10.0.0.5") == {}
    db = {"name": "db", "namespace": "shop"}
    cluster.tell(objects.Service, metadata=db, spec={"clusterIP": "None"})
    assert cluster.services("10.0.0.5") == {5432: "shop/db"}
    cluster.now += SECOND
    cluster.gone(objects.Service, ("shop", "db"), ("shop", "web"))
    assert [cluster.services(a) for a in ("10.0.0.5", *everywhere)] == [{}] * 6
    assert cluster.directory.at(  # as before it was gone
        np.frombuffer(packed("10.96.0.1"), dtype=ADDRESS), np.array([NOW])
    ).frontends.any()


def flows_of(
    cluster: Cluster, *flows: tuple[str, int, str, int], l4: int = L4_TCP
) -> list[tuple[Entity, Entity]]:
    """Both sides of flows: source, port, destination, port."""
    table = Conversations(Entities())
    keys = np.zeros(len(flows), dtype=CONVERSATION)
    keys["ip_version"], keys["destination_identity"] = 1, 1
    for row, (source, _, destination, _) in enumerate(flows):
        keys["source_ip"][row] = np.frombuffer(packed(source), dtype=np.uint8)
        keys["destination_ip"][row] = np.frombuffer(packed(destination), dtype=np.uint8)
    time = np.full(len(flows), cluster.now)
    rows = table.lookup(keys, time, cluster.directory)
    sources, destinations = (
        np.array([l4 << 16 | int(f[n]) for f in flows], dtype=np.uint32) for n in (1, 3)
    )
    rows = table.lookup_host_ports(keys, rows, (sources, destinations), time, cluster.directory)
    return [
        (
            table.entities[int(table.source_entity[r])],
            table.entities[int(table.destination_entity[r])],
        )
        for r in rows
    ]


def test_pods_in_the_hosts_network_are_told_apart_by_their_ports() -> None:
    cluster = Cluster()
    addresses = [{"type": "InternalIP", "address": "192.168.0.1"}]
    cluster.tell(objects.Node, metadata={"name": "node-a"}, status={"addresses": addresses})
    for name, port in (("exporter", 9100), ("proxy", 10256)):
        ports = [{"containerPort": port}, {"containerPort": 80, "hostPort": 0}][: 1 + (port < 9999)]
        spec = {"nodeName": "node-a", "hostNetwork": True,
                "containers": [{"name": "main", "ports": ports[:1]}]}  # fmt: skip
        cluster.pod(name, "192.168.0.1", spec=spec, status={"hostIP": "192.168.0.1"})
    ports = [{"containerPort": 8080, "hostPort": 443}, {"containerPort": 9100}]
    spec = {"nodeName": "node-a", "containers": [{"name": "main", "ports": ports}]}
    cluster.pod("ingress", "10.0.0.7", spec=spec, status={"hostIP": "192.168.0.1"})
    node, other = "192.168.0.1", "10.0.0.7"
    found = flows_of(
        cluster,
        (other, 40000, node, 9100), (other, 40000, node, 10256), (other, 40000, node, 443),
        (other, 40000, node, 22), (node, 9100, other, 9100),
    )  # fmt: skip
    assert [(s.pod_name, d.pod_name) for s, d in found] == [
        ("ingress", "exporter"), ("ingress", "proxy"), ("ingress", "ingress"),
        ("ingress", ""), ("exporter", "ingress"),
    ]  # fmt: skip
    assert found[0][1].labels == ("reserved:host",)
    cluster.now += SECOND
    cluster.gone(objects.Pod, ("shop", "exporter"))
    cluster.now += SECOND
    assert flows_of(cluster, (other, 40000, node, 9100))[0][1].pod_name == ""


def test_ports_of_a_node_are_told_apart_by_their_protocols() -> None:
    cluster = Cluster()
    node = "192.168.0.1"
    for name, protocol in (("dns", "UDP"), ("web", "TCP")):
        ports = [{"name": "main", "ports": [{"containerPort": 443, "protocol": protocol}]}]
        spec = {"nodeName": "node-b", "hostNetwork": True, "containers": ports}
        cluster.pod(name, node, spec=spec, status={"hostIP": node})
    flow = ("10.0.0.7", 40000, node, 443)
    for l4, name in ((L4_TCP, "web"), (L4_UDP, "dns")):
        assert flows_of(cluster, flow, l4=l4)[0][1].pod_name == name


def test_a_port_of_a_node_stays_with_who_has_it_when_a_list_tells_of_the_one_before_last() -> None:
    cluster = Cluster()
    node = "192.168.0.1"
    cluster.tell(
        objects.Node,
        metadata={"name": "node-a"},
        status={"addresses": [{"type": "InternalIP", "address": node}]},
    )
    ports = [{"name": "main", "ports": [{"containerPort": 9100, "hostPort": 9100}]}]
    spec = {"nodeName": "node-a", "hostNetwork": True, "containers": ports}
    service = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}
    times = {"old": NOW, "new": NOW + 60 * SECOND}
    for name, began in times.items():
        cluster.now = began + SECOND
        cluster.pod(name, node, spec=spec, status={"hostIP": node, "startTime": text_of(began)})
        cluster.tell(objects.Service, metadata={"name": name, "namespace": "shop"}, spec=service)
    # What a list no longer has comes last, and is dated by when it was last known to be there.
    heard, cluster.now = cluster.now, NOW + 30 * SECOND
    for kind in (objects.Pod, objects.Service):
        cluster.gone(kind, ("shop", "old"))
    shown = []
    for at in (NOW + 2 * SECOND, NOW + 40 * SECOND, heard):
        cluster.now = at
        ((_, entity),) = flows_of(cluster, ("10.0.0.7", 40000, node, 9100))
        shown.append(entity.pod_name)
    assert shown == ["old", "", "new"]
    assert cluster.services(node) == {30080: "shop/new"}
    cluster.gone(objects.Pod, ("shop", "new"))
    cluster.now += SECOND
    assert flows_of(cluster, ("10.0.0.7", 40000, node, 9100))[0][1].pod_name == ""


def test_a_pod_that_has_ended_has_no_address() -> None:
    cluster = Cluster()
    cluster.pod("job-1", "10.0.0.1")
    cluster.now += SECOND
    cluster.pod("job-1", "10.0.0.1", status={"phase": "Succeeded"})
    cluster.now += SECOND
    assert cluster.entity("10.0.0.1").pod_name == ""


def test_a_pod_of_the_same_name_elsewhere_ends_the_one_before_when_it_began() -> None:
    cluster = Cluster()
    cluster.pod("db-0", "10.0.0.1", status={"startTime": text_of(NOW - 60 * SECOND)})
    cluster.now = NOW + 60 * SECOND  # heard of late, and meanwhile others may have had its address
    cluster.pod("db-0", "10.0.0.2", status={"startTime": text_of(NOW + 12 * SECOND)})
    shown = []
    for seconds in (5, 12, 13, 61):
        cluster.now = NOW + seconds * SECOND
        shown.append([cluster.entity(f"10.0.0.{n}").pod_name for n in (1, 2)])
    assert shown == [["db-0", ""], ["db-0", "db-0"], ["", "db-0"], ["", "db-0"]]


def test_a_pod_that_ends_yields_its_address_to_the_one_that_got_it() -> None:
    cluster = Cluster()
    cluster.pod("old", "10.0.0.1")
    cluster.now += 60 * SECOND
    cluster.pod("old", "10.0.0.1", metadata={"deletionTimestamp": "2026-09-21T14:14:40Z"})
    cluster.now += SECOND
    cluster.pod("new", "10.0.0.1")
    assert cluster.entity("10.0.0.1").pod_name == "new"
    cluster.gone(objects.Pod, ("shop", "old"))
    cluster.now += SECOND
    assert cluster.entity("10.0.0.1").pod_name == "new"
    cluster.gone(objects.Pod, ("shop", "new"))
    cluster.now += SECOND
    assert cluster.entity("10.0.0.1").pod_name == ""


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ((), {"app", "app.kubernetes.io/name", "team"}),
        (("!team",), {"app", "app.kubernetes.io/name"}),
        (("k8s:app",), {"app", "app.kubernetes.io/name"}),
        (("team", "other:app"), {"app.kubernetes.io/name", "team"}),
        (("other:app",), {"app.kubernetes.io/name"}),
        # The longer match of the default includes what the shorter one would exclude.
        (("k8s:!app", "!team"), {"app.kubernetes.io/name"}),
    ],
)
def test_the_labels_option_is_ciliums(patterns: tuple[str, ...], kept: set[str]) -> None:
    counts = LabelFilter(patterns).counts
    keys = {
        "app", "app.kubernetes.io/name", "team", "kubernetes.io/arch", "pod-template-hash",
        "failure-domain.beta.kubernetes.io/zone", "statefulset.kubernetes.io/pod-name",
        "io.kubernetes.container", "controller-revision-hash", "annotation.x", "etcd_node",
        "batch.kubernetes.io/controller-uid", "k8s.io/x", "pod-template-generation",
    }  # fmt: skip
    assert {key for key in keys if counts(key)} == kept


def test_the_first_list_holds_since_ever() -> None:
    cluster = Cluster()
    said = {"metadata": {"name": "web-1", "namespace": "shop"}, "status": {"podIP": "10.0.0.1"}}
    cluster.tell(objects.Pod, SINCE_EVER, **said)
    assert cluster.directory.entity(packed("10.0.0.1"), 0, 5).pod_name == "web-1"


def test_where_only_pods_of_the_node_are_watched_endpoint_slices_name_others() -> None:
    cluster = Cluster(everywhere=False)
    cluster.tell(objects.Node, metadata={"name": "node-b"}, spec={"podCIDRs": ["10.0.1.0/24"]})
    metadata = {"name": "web-1", "namespace": "shop"}
    target = {"kind": "Pod", "name": "web-7"}
    endpoints = [{"addresses": ["10.0.1.7"], "targetRef": target}, {"addresses": ["10.0.1.8"]}]
    cluster.tell(objects.EndpointSlice, metadata=metadata, endpoints=endpoints)
    assert cluster.entity("10.0.1.7") == Entity(0, 0, "shop", "web-7", ("reserved:unknown",))
    assert cluster.directory.reason(packed("10.0.1.8"), NOW) == NOT_IN_SCOPE
    cluster.now += SECOND
    cluster.gone(objects.EndpointSlice, ("shop", "web-1"))
    cluster.now += SECOND
    assert cluster.entity("10.0.1.7").pod_name == ""
    assert cluster.directory.reason(packed("10.0.1.7"), cluster.now) == EXPIRED
    assert len(cluster.names) == 0


def test_a_slice_names_pods_of_its_own_namespace_alone() -> None:
    cluster = Cluster(everywhere=False)
    endpoints = [
        {
            "addresses": [f"10.0.1.{number}"],
            "targetRef": {"kind": "Pod", "name": "web-7", "namespace": namespace},
        }
        for number, namespace in enumerate(("shop", "kube-system"), start=7)
    ]
    metadata = {"name": "web-1", "namespace": "shop"}
    cluster.tell(objects.EndpointSlice, metadata=metadata, endpoints=endpoints)
    own, other = (cluster.entity(address) for address in ("10.0.1.7", "10.0.1.8"))
    assert [("shop", "web-7"), ("", "")] == [(e.namespace, e.pod_name) for e in (own, other)]


@pytest.mark.parametrize("names", [("web-1", "web-2"), ("web-2", "web-1")])
def test_an_endpoint_that_outlives_its_pod_yields_its_address_to_the_next(
    names: tuple[str, str],
) -> None:
    cluster = Cluster(everywhere=False)
    networking = {"addressing": [{"ipv4": "10.0.0.1"}], "node": "192.168.0.9"}
    for name in names:
        cluster.now += 10 * SECOND
        status = {"id": 7, "identity": {"id": 1207}, "networking": networking}
        metadata = {"name": name, "namespace": "shop"}
        cluster.tell(objects.CiliumEndpoint, metadata=metadata, status=status)
        assert cluster.entity("10.0.0.1").pod_name == name
    cluster.gone(objects.CiliumEndpoint, ("shop", names[0]))
    assert cluster.entity("10.0.0.1").pod_name == names[1]


def test_who_is_near_a_pod_is_unknown_and_not_the_world() -> None:
    cluster = Cluster()
    cluster.pod("web-1", "10.0.0.1", status={"podIPs": [{"ip": "fd00:1::1"}]})
    near = [cluster.directory.reason(packed(a), NOW) for a in ("10.0.0.2", "fd00:1::ffff")]
    assert near == [UNKNOWN_ADDRESS] * 2
    assert cluster.entity("10.0.0.2").identity == 0
    assert cluster.entity("10.0.1.2").labels == ("reserved:world",)


def test_what_may_be_of_a_kind_that_we_may_not_list_is_unknown_and_not_the_world() -> None:
    cluster = Cluster(everything=False)
    # Nor does the node's network know better: another node may be behind an uplink.
    cluster.directory.set_node_network(NodeNetwork(frozenset(), frozenset()))
    cluster.pod("web-1", "10.0.0.1")
    assert "web-1" == cluster.entity("10.0.0.1").pod_name
    assert UNKNOWN_ADDRESS == cluster.directory.reason(packed("198.51.100.1"), NOW)
    assert 0 == cluster.entity("198.51.100.1").identity
    seen = cluster.directory.changes.count
    cluster.names.synced(everything=True)
    assert ("reserved:world",) == cluster.entity("198.51.100.1").labels
    assert cluster.directory.changes.since(seen).past  # flows of the history have it as well


def test_what_is_kept_of_pods_that_are_gone_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.kubernetes.names._RECLAIMED", 100)
    cluster = Cluster()
    for number in range(1000):
        if number % 100 == 0:
            cluster.names.apply(
                objects.Pod, [], [("shop", f"pod-{n}") for n in range(number - 100, number)],
                cluster.now,
            )  # fmt: skip
        cluster.now += SECOND
        pod = objects.Pod(
            objects.Metadata(f"pod-{number}", "shop"),
            objects.PodSpec(node_name="node-a"),
            objects.PodStatus("Running", pod_ip=f"10.0.0.{number % 100}"),
        )
        cluster.names.apply(objects.Pod, [pod], [], cluster.now)
        while cluster.directory.forget(cluster.now - 60 * SECOND):
            pass
        cluster.names.reclaim(cluster.now - 60 * SECOND)
    assert len(cluster.directory.owners) < 400
    assert cluster.entity("10.0.0.99").pod_name == "pod-999"


@pytest.mark.parametrize("has_cilium", [False, True])
def test_labels_of_identities_that_nobody_has_are_forgotten_at_last(
    monkeypatch: pytest.MonkeyPatch, has_cilium: bool
) -> None:
    for module in ("identities", "numbers"):
        monkeypatch.setattr(f"bridge.kubernetes.{module}.KEPT_UNUSED", 10)
    cluster = Cluster()
    numbers = []
    for run in range(40):
        cluster.now += SECOND
        if has_cilium:
            numbers.append(1000 + run)
            metadata = {"name": str(1000 + run)}
            labels = {"k8s:job-name": f"backup-{run}"}
            cluster.tell(objects.CiliumIdentity, metadata=metadata, **{"security-labels": labels})
            cluster.gone(objects.CiliumIdentity, ("", metadata["name"]))
        else:
            cluster.pod("run", "10.0.0.1", metadata={"labels": {"job-name": f"backup-{run}"}})
            numbers.append(cluster.entity("10.0.0.1").identity)
            cluster.gone(objects.Pod, ("shop", "run"))
    known = [n for n in numbers if cluster.entity("192.0.2.1", n).labels]
    assert known == numbers[-10:]


def test_a_headless_service_takes_no_address_of_another_one() -> None:
    cluster = Cluster()
    ports = [{"port": 53, "protocol": "UDP"}]
    for name, namespace, address in (("mine", "aaa", "None"), ("dns", "kube-system", "10.96.0.10")):
        metadata = {"name": name, "namespace": namespace}
        cluster.tell(
            objects.Service, metadata=metadata, spec={"clusterIP": address, "ports": ports}
        )
    labels = {"kubernetes.io/service-name": "mine"}
    cluster.tell(
        objects.EndpointSlice,
        metadata={"name": "any", "namespace": "aaa", "labels": labels},
        endpoints=[{"addresses": ["10.96.0.10", "10.0.0.1"]}],
        ports=ports,
    )
    assert {53: "kube-system/dns"} == cluster.services("10.96.0.10")
    assert {53: "aaa/mine"} == cluster.services("10.0.0.1")


def test_services_that_share_a_port_are_told_apart_by_their_protocols() -> None:
    cluster = Cluster()
    node = [{"type": "InternalIP", "address": "192.168.0.1"}]
    cluster.tell(objects.Node, metadata={"name": "node-a"}, status={"addresses": node})
    shared = {"type": "LoadBalancer", "loadBalancerIP": "203.0.113.5"}
    for name, protocol in (("a-tcp", "TCP"), ("b-udp", "UDP")):
        ports = [{"port": 53, "protocol": protocol, "nodePort": 30053}]
        metadata = {"name": name, "namespace": "shop"}
        cluster.tell(objects.Service, metadata=metadata, spec={**shared, "ports": ports})
    for address, port in (("203.0.113.5", 53), ("192.168.0.1", 30053)):
        shown = [cluster.frontends(address).at(l4, port) for l4 in (L4_TCP, L4_UDP)]
        assert [Service("a-tcp", "shop"), Service("b-udp", "shop")] == shown
    cluster.gone(objects.Service, ("shop", "a-tcp"))
    # Of a protocol that has no service there the other one is shown, as Hubble shows it.
    for l4 in (L4_TCP, L4_UDP):
        assert Service("b-udp", "shop") == cluster.frontends("203.0.113.5").at(l4, 53)


def test_a_service_has_its_address_since_it_was_made_and_its_changes_since_they_are_heard() -> None:
    cluster = Cluster()
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}
    old = {"name": "old", "namespace": "shop", "creationTimestamp": text_of(NOW - 60 * SECOND)}
    cluster.tell(objects.Service, metadata=old, spec=spec)
    cluster.now += 10 * SECOND + SECOND // 2
    cluster.tell(objects.Service, metadata=old, spec={**spec, "ports": [{"port": 443}]})
    cluster.now += SECOND
    cluster.gone(objects.Service, ("shop", "old"))
    new = {**old, "name": "new", "creationTimestamp": text_of(cluster.now)}
    cluster.now += SECOND // 4
    cluster.tell(objects.Service, metadata=new, spec=spec)
    shown = []
    for seconds in (-50, 5, 10.75, 11.25, 12):
        cluster.now = NOW + int(seconds * SECOND)
        shown.append(cluster.services("10.96.0.1"))
    first, then, last = ({n: f"shop/{s}"} for n, s in ((80, "old"), (443, "old"), (80, "new")))
    assert [first, first, then, then, last] == shown


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_service_is_not_dated_by_a_clock_that_differs(ahead: int) -> None:
    cluster = Cluster()
    cluster.names.clock_is_ahead(ahead * SECOND)
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}
    old = {"name": "old", "namespace": "shop"}
    cluster.tell(objects.Service, SINCE_EVER, metadata=old, spec=spec)
    cluster.now += 10 * SECOND
    cluster.gone(objects.Service, ("shop", "old"))
    new = {**old, "name": "new", "creationTimestamp": text_of(cluster.now - ahead * SECOND)}
    cluster.tell(objects.Service, metadata=new, spec=spec)
    assert {80: "shop/new"} == cluster.services("10.96.0.1")
    cluster.now -= SECOND
    assert {80: "shop/old"} == cluster.services("10.96.0.1")


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")], ids=["in order", "against order"])
def test_a_service_made_in_an_outage_has_its_address_since_then(names: tuple[str, str]) -> None:
    """As a list tells it: what is there first, then what ended, dated when it was last seen."""
    cluster = Cluster()
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}
    before, after = ({"name": name, "namespace": "shop"} for name in names)
    cluster.tell(objects.Service, SINCE_EVER, metadata=before, spec=spec)
    late = {**after, "creationTimestamp": text_of(NOW + 60 * SECOND)}
    cluster.tell(objects.Service, NOW + 100 * SECOND, metadata=late, spec=spec)
    cluster.now = NOW + 10 * SECOND
    cluster.gone(objects.Service, ("shop", before["name"]))
    shown = []
    for seconds in (0, 30, 70):
        cluster.now = NOW + seconds * SECOND
        shown.append(cluster.services("10.96.0.1"))
    assert [{80: f"shop/{names[0]}"}, {}, {80: f"shop/{names[1]}"}] == shown
