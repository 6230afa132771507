"""All services of the Hubble API as one table for an engine."""

from __future__ import annotations

from google.protobuf import descriptor_pool

from api.hubble.grpc_protos import grpc_pool
from api.hubble.health import health_methods
from api.hubble.observer import SERVICE, Observer
from api.hubble.peers import Peers
from api.hubble.reflection import reflection_methods
from api.hubble.rpc import Method, Services

VERSION_HEADER = "hubble-server-version"


def services_of(observer: Observer, peers: Peers, *, version: str) -> Services:
    """What a node serves. ``version`` is a semantic version without ``v``; the CLI warns when
    it is newer than its own.
    """
    pool = grpc_pool()
    methods: dict[str, Method] = {
        **observer.methods(),
        **peers.methods(),
        **health_methods([SERVICE], pool),
    }
    names = {path.split("/")[1] for path in methods}
    reflection = reflection_methods(names, [descriptor_pool.Default()], pool)
    return Services({**methods, **reflection}, ((VERSION_HEADER, version),))
