"""Programs that send a known number of packets from inside a namespace."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def started(command: list[str], says: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs once it has said something; ended at the end, or when it is slow."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        patience = threading.Timer(60, program.kill)
        patience.start()
        try:
            assert program.stdout is not None
            assert any(says in line for line in program.stdout), f"{command} never said {says}"
            yield program
        finally:
            patience.cancel()
            program.terminate()
