"""Programs that send a known number of packets from inside a namespace."""

from __future__ import annotations

import socket

from tests.kernel.lab import inside


def send_udp(namespace: str, destination: tuple[str, int], sizes: list[int]) -> int:
    """One datagram for each size, from one port, which is returned."""
    with inside(namespace):
        family = socket.AF_INET6 if ":" in destination[0] else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
    with udp:
        for size in sizes:
            udp.sendto(bytes(size), destination)
        return int(udp.getsockname()[1])
