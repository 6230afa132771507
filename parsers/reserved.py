"""Cilium's reserved security identities: who is no pod (Cilium 1.20, numeric identities)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

HOST, WORLD, UNMANAGED, HEALTH, INIT, REMOTE_NODE, KUBE_APISERVER, INGRESS = range(1, 9)

RESERVED: Final[Mapping[int, tuple[str, ...]]] = MappingProxyType(
    {
        0: ("reserved:unknown",),
        HOST: ("reserved:host",),
        WORLD: ("reserved:world",),
        UNMANAGED: ("reserved:unmanaged",),
        HEALTH: ("reserved:health",),
        INIT: ("reserved:init",),
        REMOTE_NODE: ("reserved:remote-node",),
        KUBE_APISERVER: ("reserved:kube-apiserver", "reserved:remote-node"),
        INGRESS: ("reserved:ingress",),
        9: ("reserved:world-ipv4",),
        10: ("reserved:world-ipv6",),
    }
)
"""Their labels."""
