"""Which objects are watched, and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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

PIECE: Final = 50  # objects told to the sink at once, which takes 1 to 3 ms
_SLICES: Final = frozenset({EndpointSlice, CiliumEndpointSlice})
_PIECE_OF_SLICES: Final = 4  # with 100 endpoints each, as large as they are made


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind at a path; ``fields`` is a field selector, empty for all objects."""

    kind: type[Object]
    path: str
    fields: str = ""

    @property
    def piece(self) -> int:
        """How many objects are told to the sink at once."""
        return _PIECE_OF_SLICES if self.kind in _SLICES else PIECE

    @property
    def name(self) -> str:
        """Plural, as roles have it."""
        return self.path.rpartition("/")[2]


# Pods that have ended gave their addresses back.
_RUNNING: Final = "status.phase!=Succeeded,status.phase!=Failed"


def core_resources(node: str = "") -> tuple[Resource, ...]:
    """What every cluster has; with ``node`` only that node's pods."""
    fields = f"spec.nodeName={node},{_RUNNING}" if node else _RUNNING
    return (
        Resource(Namespace, "/api/v1/namespaces"),
        Resource(Node, "/api/v1/nodes"),
        Resource(Pod, "/api/v1/pods", fields),
        Resource(Service, "/api/v1/services"),
        Resource(EndpointSlice, "/apis/discovery.k8s.io/v1/endpointslices"),
    )


CILIUM_VERSIONS: Final = ("/apis/cilium.io/v2", "/apis/cilium.io/v2alpha1")
"""Where Cilium's definitions may be, the preferred first."""

_CILIUM: Final[dict[str, type[Object]]] = {
    "ciliumidentities": CiliumIdentity,
    "ciliumendpoints": CiliumEndpoint,
    "ciliumendpointslices": CiliumEndpointSlice,
    "ciliumnodes": CiliumNode,
}


def cilium_resources(found: dict[str, list[str]]) -> tuple[Resource, ...]:
    """Those of Cilium's that exist; ``found``: version -> plurals, as discovery has them."""
    return tuple(
        Resource(kind, f"{version}/{plural}")
        for plural, kind in _CILIUM.items()
        for version in [v for v in CILIUM_VERSIONS if plural in found.get(v, ())][:1]
    )
