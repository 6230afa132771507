"""Where a relay finds this node's Hubble API."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from bridge.addresses import split_address
from bridge.config import Config

_ELSEWHERE = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))
"""Addresses that nobody has: where packets to anywhere would leave."""


def hubble_address(config: Config, told: Mapping[str, Any]) -> str:
    """``ip:port`` of the TCP listener, else the unix socket, "" when there is neither.

    The configuration's address wins over one that is listened on, and that over the
    identity file's (``told`` is its node) and the one of the default route.
    """
    hubble = config.hubble
    if hubble.listen is None:
        return f"unix://{hubble.unix_socket.absolute()}" if hubble.unix_socket else ""
    return dialable(hubble.listen, told, config.node.address)


def dialable(listen: str, told: Mapping[str, Any], preferred: str | None = None) -> str:
    """``ip:port`` by which others reach who listens on ``listen``, "" when nothing tells.

    ``preferred`` and ``told`` as above.
    """
    host, port = split_address(listen)
    found = (
        preferred
        or ("" if _is_any(host) else host)
        or told.get("ipv4")
        or told.get("ipv6")
        or _default_route()
    )
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}" if found else ""


def _is_any(host: str) -> bool:
    try:
        return not host or ip_address(host).is_unspecified
    except ValueError:
        return False  # a name


def _default_route() -> str:
    """The address that packets to other networks would leave from; nothing is sent."""
    for address, family in _ELSEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return ""
