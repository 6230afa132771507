"""What of Kubernetes' and Cilium's objects is needed for names, decoded by msgspec.

Fields that are not named here are skipped without being built. A field that a server may
leave out, or write as null, is None or has a default; everything of the wrong type is a
``msgspec.ValidationError``, which costs that one object. Texts are bounded by what
Kubernetes itself admits (labels: API conventions, 253/name and 63 bytes), so whoever gets
an object needs no further check of sizes. Annotations are never decoded.

Sources: Kubernetes API reference 1.35 (core/v1, discovery.k8s.io/v1), Cilium's CRDs
(cilium.io/v2 and v2alpha1, releases 1.14 to 1.20).
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct, field

Key: TypeAlias = tuple[str, str]
"""Namespace (empty for objects of the whole cluster) and name."""

Text: TypeAlias = Annotated[str, Meta(max_length=512)]
"""Names, label keys (317 in Kubernetes, with a prefix in CiliumIdentity), addresses."""
Labels: TypeAlias = Annotated[dict[Text, Text], Meta(max_length=1024)]
Port: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 16)]
Number: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 32)]
"""Of an identity, or of an endpoint: flow.Endpoint has 32 bits for either."""


class _Part(Struct, frozen=True, gc=False, rename="camel"):
    """A part of an object."""


class _KebabPart(Struct, frozen=True, gc=False, rename="kebab"):
    """A part of a Cilium object, whose keys are written with dashes."""


class Owner(_Part, frozen=True):
    """metadata.ownerReferences: ``controller`` is true for the one that manages it."""

    kind: Text
    name: Text
    controller: bool | None = None


class Metadata(_Part, frozen=True):
    """metadata of any object."""

    name: Text
    namespace: Text = ""
    uid: Text = ""
    generate_name: Text = ""
    creation_timestamp: Text = ""
    resource_version: Text = ""
    labels: Labels | None = None
    owner_references: tuple[Owner, ...] | None = None
    deletion_timestamp: Text | None = None


class Object(_Part, frozen=True):
    """Any object, as far as it is the same for all."""

    metadata: Metadata

    @property
    def key(self) -> Key:
        """What it is known by."""
        return (self.metadata.namespace, self.metadata.name)


# Pods


class ContainerPort(_Part, frozen=True):
    """``host_port`` 0: none (a hostNetwork pod has it equal to ``container_port``)."""

    container_port: Port = 0
    host_port: Port = 0
    protocol: Text = "TCP"


class Container(_Part, frozen=True):
    """One container of a pod."""

    ports: tuple[ContainerPort, ...] | None = None


class PodSpec(_Part, frozen=True):
    """What is asked for."""

    node_name: Text = ""
    host_network: bool = False
    service_account_name: Text = ""
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None


class PodIP(_Part, frozen=True):
    """One address."""

    ip: Text = ""


class PodCondition(_Part, frozen=True):
    """``type``: PodReadyToStartContainers, which is true once the network is there, ..."""

    type: Text = ""
    status: Text = ""
    last_transition_time: Text | None = None


class PodStatus(_Part, frozen=True):
    """``phase``: Pending, Running, Succeeded, Failed; the last two have given back their
    addresses.
    """

    phase: Text = ""
    pod_ip: Text = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] | None = field(default=None, name="podIPs")
    host_ip: Text = field(default="", name="hostIP")
    start_time: Text | None = None
    conditions: tuple[PodCondition, ...] | None = None


class Pod(Object, frozen=True):
    """v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Namespace(Object, frozen=True):
    """v1 Namespace: its labels are part of Cilium's identity."""


# Nodes


class NodeAddress(_Part, frozen=True):
    """``type``: InternalIP, ExternalIP, Hostname, InternalDNS, ExternalDNS."""

    type: Text = ""
    address: Text = ""


class NodeSpec(_Part, frozen=True):
    """Prefixes of the node's pods."""

    pod_cidrs: tuple[Text, ...] | None = field(default=None, name="podCIDRs")
    provider_id: Text = field(default="", name="providerID")


class NodeStatus(_Part, frozen=True):
    """The node's addresses."""

    addresses: tuple[NodeAddress, ...] | None = None


class Node(Object, frozen=True):
    """v1 Node; the zone is the label topology.kubernetes.io/zone."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


# Services


class ServicePort(_Part, frozen=True):
    """A port of a service; ``node_port`` 0: none."""

    port: Port = 0
    name: Text = ""
    protocol: Text = "TCP"
    node_port: Port = 0


class ServiceSpec(_Part, frozen=True):
    """``cluster_ip`` is ``None`` (the text) for a headless service."""

    type: Text = "ClusterIP"
    cluster_ip: Text = field(default="", name="clusterIP")
    cluster_ips: tuple[Text, ...] | None = field(default=None, name="clusterIPs")
    external_ips: tuple[Text, ...] | None = field(default=None, name="externalIPs")
    load_balancer_ip: Text = field(default="", name="loadBalancerIP")
    external_name: Text = ""
    ports: tuple[ServicePort, ...] | None = None


class Ingress(_Part, frozen=True):
    """One address of a load balancer."""

    ip: Text = ""
    hostname: Text = ""


class LoadBalancer(_Part, frozen=True):
    """Where a load balancer is reached."""

    ingress: tuple[Ingress, ...] | None = None


class ServiceStatus(_Part, frozen=True):
    """What was given."""

    load_balancer: LoadBalancer = LoadBalancer()


class Service(Object, frozen=True):
    """v1 Service."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class TargetRef(_Part, frozen=True):
    """What an endpoint of a slice is: a Pod, as a rule."""

    kind: Text = ""
    namespace: Text = ""
    name: Text = ""
    uid: Text = ""


class EndpointConditions(_Part, frozen=True):
    """``ready`` None counts as true."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(_Part, frozen=True):
    """One backend of a service."""

    addresses: tuple[Text, ...] | None = None
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef | None = None
    node_name: Text | None = None
    zone: Text | None = None


class SlicePort(_Part, frozen=True):
    """A port that the backends of a slice serve; None: all."""

    name: Text | None = None
    port: Port | None = None
    protocol: Text | None = None


class EndpointSlice(Object, frozen=True):
    """discovery.k8s.io/v1: its service is the label kubernetes.io/service-name."""

    address_type: Text = "IPv4"
    endpoints: tuple[SliceEndpoint, ...] | None = None
    ports: tuple[SlicePort, ...] | None = None


# Cilium


class CiliumIdentity(Object, frozen=True):
    """cilium.io/v2: ``metadata.name`` is the number, labels are ``source:key`` -> value."""

    security_labels: Labels | None = field(default=None, name="security-labels")


class AddressPair(_KebabPart, frozen=True):
    """An endpoint's addresses."""

    ipv4: Text = ""
    ipv6: Text = ""


class EndpointNetworking(_KebabPart, frozen=True):
    """``node``: the address of the endpoint's node."""

    addressing: tuple[AddressPair, ...] | None = None
    node: Text = ""


class EndpointIdentity(_KebabPart, frozen=True):
    """``labels``: ``source:key=value``."""

    id: Number = 0
    labels: tuple[Text, ...] | None = None


class CiliumEndpointStatus(_KebabPart, frozen=True):
    """``id`` is the endpoint's number on its node."""

    id: Number = 0
    identity: EndpointIdentity | None = None
    networking: EndpointNetworking | None = None


class CiliumEndpoint(Object, frozen=True):
    """cilium.io/v2: has the namespace and the name of its pod."""

    status: CiliumEndpointStatus | None = None


class CoreCiliumEndpoint(_KebabPart, frozen=True):
    """An endpoint in a slice: ``id`` is its identity's number."""

    name: Text = ""
    id: Number = 0
    networking: EndpointNetworking | None = None


class CiliumEndpointSlice(Object, frozen=True):
    """cilium.io/v2alpha1 (v2 in 1.18): endpoints of one namespace, many an object."""

    namespace: Text = ""
    endpoints: tuple[CoreCiliumEndpoint, ...] | None = None


class CiliumNodeAddress(_Part, frozen=True):
    """``type``: InternalIP, ExternalIP, CiliumInternalIP."""

    type: Text = ""
    ip: Text = ""


class FamilyPair(_Part, frozen=True):
    """One address of each family."""

    ipv4: Text = field(default="", name="ipv4")
    ipv6: Text = field(default="", name="ipv6")


class CiliumNodeSpec(_Part, frozen=True):
    """Addresses that Cilium uses: the host's, of its health endpoint, of its ingress."""

    addresses: tuple[CiliumNodeAddress, ...] | None = None
    health: FamilyPair | None = None
    ingress: FamilyPair | None = None


class CiliumNode(Object, frozen=True):
    """cilium.io/v2: has the name of its node."""

    spec: CiliumNodeSpec = CiliumNodeSpec()


KINDS: Final[tuple[type[Object], ...]] = (
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    CiliumIdentity,
    CiliumEndpoint,
    CiliumEndpointSlice,
    CiliumNode,
)
"""Every kind that can be watched."""
