"""For tests of tracing programs: which events are ours, and when they are there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.kernel.lab import Lab, Pod, inside

_PATIENCE = 30.0


def inode(namespace: str) -> int:
    """By which the kernel knows a network namespace."""
    return Path(f"/run/netns/{namespace}").stat().st_ino


def namespaces(lab: Lab) -> frozenset[int]:
    """All of a lab's."""
    return frozenset(inode(name) for name in (lab.node, *(pod.namespace for pod in lab.pods)))


def wait_for(condition: Callable[[], object]) -> None:
    """Until it is true."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


def reachable(source: Pod, destination: Pod) -> bool:
    """Connections come through in both families; then the neighbours are known, too."""
    for family in (4, 6):
        with (
            listening(destination.namespace, address(destination, family)) as server,
            inside(source.namespace),
        ):
            try:
                socket.create_connection(server.getsockname()[:2], 1).close()
            except OSError:
                return False
    return True


def listening(namespace: str, host: str, port: int = 0) -> socket.socket:
    """A TCP server's socket."""
    with inside(namespace):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)


def address(pod: Pod, family: int) -> str:
    """Of family 4 or 6."""
    return pod.ipv4 if family == 4 else pod.ipv6


def ip(sixteen: NDArray[np.uint8]) -> str:
    """The text of a record's address."""
    return socket.inet_ntop(socket.AF_INET6, sixteen.tobytes()).removeprefix("::ffff:")
