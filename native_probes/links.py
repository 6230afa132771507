"""The network interfaces of this thread's namespace, and news of them.

Formats are those of rtnetlink(7) and the kernel's ``include/uapi/linux/if_link.h``.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from native_probes.rtnetlink import ask, attributes, dump, messages, open_route_socket, text

_NEW_LINK, _DELETED_LINK, _GET_LINK = 16, 17, 18
_GROUP_LINK = 1  # RTMGRP_LINK

_IFNAME, _LINK, _MASTER, _LINKINFO, _STATS64, _LINK_NETNSID = 3, 5, 10, 18, 23, 37
_INFO_KIND, _INFO_SLAVE_KIND = 1, 4
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772

_BUFFER_BYTES = 4 << 20  # 200 interfaces at once make some 600 messages of 1.5 kB


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. ``kind`` is that of ``ip link`` ("veth", "bond", ...), "" for hardware."""

    ifindex: int
    name: str
    kind: str = ""
    has_link_header: bool = True
    is_loopback: bool = False
    master: int = 0  # ifindex, 0 without one
    slave_kind: str = ""  # what the master is
    lower: int = 0  # ifindex of what it sits on (of a veth: its peer's), 0 without one
    peer_namespace: int = -1  # this namespace's number of the one where ``lower`` is
    packets: int = 0  # that it has counted, in both directions


@dataclass(frozen=True, slots=True)
class LinkNews:
    """``gone`` is the end of an interface; else it is new or has changed."""

    link: Link
    gone: bool


def open_link_socket() -> socket.socket:
    """A socket that hears of changes. When it overruns, recv raises ENOBUFS: list anew."""
    listening = open_route_socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    listening.bind((0, _GROUP_LINK))
    return listening


def all_links() -> list[Link]:
    """Every interface. Raises ``OSError``."""
    return [_link(body) for body in dump(_GET_LINK, _question(0))]


def one_link(ifindex: int) -> Link:
    """One interface as it is now. Raises ``OSError`` (ENODEV) when it is gone."""
    return _link(ask(_GET_LINK, _question(ifindex))[1])


def read_news(data: bytes) -> list[LinkNews]:
    """What one datagram of the listening socket tells.

    A bridge tells of its ports in messages of the same types and another family: a port that
    leaves it is not gone.
    """
    return [
        LinkNews(_link(body), kind == _DELETED_LINK)
        for kind, body in messages(data)
        if kind in {_NEW_LINK, _DELETED_LINK} and body[0] == socket.AF_UNSPEC
    ]


def _question(ifindex: int) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, ifindex, 0, 0)


def _link(body: bytes) -> Link:
    hardware, ifindex = struct.unpack_from("=xxHi", body)
    of = attributes(body[16:])
    info = attributes(of.get(_LINKINFO, b""))
    return Link(
        ifindex=ifindex,
        name=text(of.get(_IFNAME, b"")),
        kind=text(info.get(_INFO_KIND, b"")),
        has_link_header=hardware in {_ARPHRD_ETHER, _ARPHRD_LOOPBACK},
        is_loopback=hardware == _ARPHRD_LOOPBACK,
        master=int.from_bytes(of.get(_MASTER, b""), "little"),
        slave_kind=text(info.get(_INFO_SLAVE_KIND, b"")),
        lower=int.from_bytes(of.get(_LINK, b""), "little"),
        peer_namespace=int.from_bytes(of.get(_LINK_NETNSID, b"\xff" * 4), "little", signed=True),
        packets=sum(struct.unpack_from("=QQ", of.get(_STATS64, bytes(16)))),
    )
