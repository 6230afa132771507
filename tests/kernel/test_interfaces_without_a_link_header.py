from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from native_probes.interfaces import InterfacePatterns
from native_probes.source import SourceSettings
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS
from tests.kernel import frames
from tests.kernel.lab import Lab, inside
from tests.kernel.running import running
from tests.kernel.senders import send_udp

_TUN = Path("/dev/net/tun")
_SET_INTERFACE, _IFF_TUN, _IFF_NO_PACKET_INFO = 0x400454CA, 0x0001, 0x1000


@pytest.fixture
def tunnel(lab: Lab) -> Iterator[int]:
    """The far end of an interface ``tun7`` of the node, where 10.88.0.2 is."""
    if not _TUN.exists():
        assert os.environ.get("CI") != "true"
        pytest.skip(f"there is no {_TUN}")
    with inside(lab.node):
        fd = os.open(_TUN, os.O_RDWR)
        request = struct.pack("16sH22x", b"tun7", _IFF_TUN | _IFF_NO_PACKET_INFO)
        fcntl.ioctl(fd, _SET_INTERFACE, request)
    lab.ip("addr", "add", "10.88.0.1/24", "dev", "tun7")
    lab.ip("link", "set", "tun7", "up")
    try:
        yield fd
    finally:
        os.close(fd)


async def test_packets_of_a_tun_device_are_read_from_their_ip_header(lab: Lab, tunnel: int) -> None:
    settings = SourceSettings(interfaces=InterfacePatterns(uplinks=("tun*",)))
    async with running(lab, settings) as probes:
        await probes.covers(lab.ifindex("tun7"))
        for _ in range(4):
            os.write(
                tunnel, frames.ipv4("10.88.0.2", "10.88.0.1", 17, frames.udp(21, 22, bytes(10)))
            )
        send_udp(lab.node, ("10.88.0.2", 23), [10] * 3)
        await probes.until(lambda: probes.traffic(source_port=21)["skbs"].sum() == 4)
        await probes.until(lambda: probes.traffic(destination_port=23)["skbs"].sum() == 3)
    came, went = probes.traffic(source_port=21), probes.traffic(destination_port=23)
    assert {POINT_INGRESS} == set(came["point"])
    assert {POINT_EGRESS} == set(went["point"])
    assert 4 * 38 == came["bytes"].sum()
