"""All services of the Hubble API as one table for an engine."""

from __future__ import annotations

from api.hubble.health import health_methods
from api.hubble.observer import SERVICE, Observer
from api.hubble.rpc import Services

VERSION_HEADER = "hubble-server-version"


def services_of(observer: Observer, *, version: str) -> Services:
    """What a node serves. ``version`` is a semantic version without ``v``; the CLI warns when
    it is newer than its own.
    """
    return Services(
        {**observer.methods(), **health_methods([SERVICE])}, ((VERSION_HEADER, version),)
    )
