"""Captured packets as columns: the ordinary ones a batch at a time.

Ordinary is Ethernet, IPv4 without IP options and not fragmented or IPv6 without extension
headers, then TCP, UDP, SCTP, ICMP or ICMPv6 with a whole header. Three gathers bring
Ethernet with IP, and layer 4, of all packets into two small arrays; columns are views of
them. Every other packet is found by mask and goes through ``parsers.packets`` one by one.
Both ways fill the same columns, and a test holds them equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parsers.addresses import MAPPED
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    CONVERSATION,
    L4_ICMPV4,
    L4_ICMPV6,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
)
from parsers.headers import Datapath
from parsers.packets import SCTP_CHUNK_TYPES, Packet, decode_packet
from parsers.windows import Columns, windows

_IP = np.dtype(
    {
        "names": ["ether_type", "v4_head", "v4_total", "v4_fragment", "v4_protocol",
                  "v6_length", "v6_next",
                  "destination_mac", "source_mac", "v4_source", "v4_destination"],
        "formats": [">u2", "u1", ">u2", ">u2", "u1", ">u2", "u1", "V6", "V6", "u4", "u4"],
        "offsets": [12, 14, 16, 20, 23, 18, 20, 0, 6, 26, 30],
        "itemsize": 56,
    }
)  # fmt: skip
_L4 = np.dtype(
    {
        "names": ["source", "destination", "udp_length", "tcp_word", "chunk",
                  "icmp_type", "icmp_code"],
        "formats": [">u2", ">u2", ">u2", ">u2", "u1", "u1", "u1"],
        "offsets": [0, 2, 4, 12, 12, 0, 1],
        "itemsize": 16,
    }
)  # fmt: skip

# By IP protocol number: the API's layer 4 (0: not ordinary), the header's least size.
V4_L4 = np.zeros(256, dtype=np.uint8)
V6_L4 = np.zeros(256, dtype=np.uint8)
for _protocol, _number in ((6, L4_TCP), (17, L4_UDP), (132, L4_SCTP)):
    V4_L4[_protocol] = V6_L4[_protocol] = _number
V4_L4[1] = L4_ICMPV4
V6_L4[58] = L4_ICMPV6
_LEAST = np.array([1 << 20, 20, 8, 8, 4, 12, 0, 0], dtype=np.int64)
CHUNKS = np.zeros(256, dtype=np.uint8)
for _wire, _number in SCTP_CHUNK_TYPES.items():
    CHUNKS[_wire] = _number

_MAPPED_WORD = np.frombuffer(MAPPED, dtype=np.uint32)[2]  # before the IPv4 address
_KEY_WORDS = CONVERSATION.itemsize // 4
_MACS = np.dtype(
    {
        "names": ["source_mac", "destination_mac"],
        "formats": ["V6", "V6"],
        "offsets": [32, 38],
        "itemsize": CONVERSATION.itemsize,
    }
)
"""The MACs of a ``CONVERSATION`` as values that are copied whole."""


@dataclass(frozen=True, slots=True)
class PacketColumns:
    """One row a record; ``key`` (``CONVERSATION``) has MACs, addresses and their versions
    set. ``refused``: row to error, for packets that no flow is made of. ``odd``: row to
    packet, where there is more than columns hold.
    """

    key: Columns
    l4: NDArray[np.uint8]
    source_port: NDArray[np.uint16]
    destination_port: NDArray[np.uint16]
    l4_type: NDArray[np.uint8]
    l4_code: NDArray[np.uint8]
    tcp_flags: NDArray[np.uint16]
    refused: dict[int, ProtocolError]
    odd: dict[int, Packet]


def read_packets(
    buffer: NDArray[np.uint8], start: NDArray[np.int64], records: Datapath, *, fast: bool = True
) -> PacketColumns:
    """Packets at ``start`` of ``buffer`` (which reaches 128 bytes beyond the last).

    ``fast`` false sends every packet the slow way, for comparison.
    """
    count = len(start)
    key = np.zeros(count, dtype=CONVERSATION)
    available = records.available
    plain = ~records.l3_device & (records.tunnel == 0) & (available >= 34)
    if not fast:
        plain[:] = False
    ip = windows(buffer, start, 56).view(_IP)
    ether_type = ip["ether_type"]
    v4 = ether_type == 0x0800
    v4 &= plain
    # Neither more-fragments nor an offset: don't-fragment is the one flag it may have.
    v4 &= (ip["v4_head"] & 15 == 5) & (ip["v4_fragment"] & 0x3FFF == 0)
    v6 = ether_type == 0x86DD
    v6 &= plain & (available >= 54)
    claimed = np.where(v4, ip["v4_total"].astype(np.int64) - 20, ip["v6_length"])
    offset = np.where(v6, 54, 34)
    size = np.minimum(claimed, available - offset)
    l4 = np.where(v6, V6_L4[ip["v6_next"]], V4_L4[ip["v4_protocol"]])
    l4[~(v4 | v6)] = 0
    ordinary = size >= _LEAST[l4]
    ordinary &= (l4 != L4_ICMPV4) | (size >= 8)
    head = windows(buffer, start + offset, 16).view(_L4)
    tcp = l4 == L4_TCP
    word = head["tcp_word"].astype(np.uint16)  # data offset, reserved bits, nine flags
    header = (word >> 12).astype(np.int64) * 4
    udp_length = head["udp_length"]
    ordinary &= ~tcp | ((header >= 20) & (header <= size))
    ordinary &= (l4 != L4_UDP) | (udp_length == 0) | (udp_length >= 8)
    with_options = (tcp & ordinary & (header > 20)).nonzero()[0]
    if len(with_options):
        sound = _options_are_sound(
            buffer, (start + offset)[with_options] + 20, header[with_options] - 20
        )
        ordinary[with_options[~sound]] = False
    l4[~ordinary] = 0
    columns = PacketColumns(
        key,
        l4,
        head["source"].astype(np.uint16),
        head["destination"].astype(np.uint16),
        np.zeros(count, dtype=np.uint8),
        np.zeros(count, dtype=np.uint8),
        np.where(l4 == L4_TCP, word & 0x1FF, 0).astype(np.uint16),
        {},
        {},
    )
    icmp = ((l4 == L4_ICMPV4) | (l4 == L4_ICMPV6)).nonzero()[0]
    columns.l4_type[icmp] = head["icmp_type"][icmp]
    columns.l4_code[icmp] = head["icmp_code"][icmp]
    columns.source_port[icmp] = 0
    columns.destination_port[icmp] = 0
    sctp = (l4 == L4_SCTP).nonzero()[0]
    columns.l4_type[sctp] = np.where(size[sctp] > 12, CHUNKS[head["chunk"][sctp]], 0)
    _fill_keys(key, ip, ordinary & v4, ordinary & v6, ordinary)
    for row in (~ordinary).nonzero()[0].tolist():
        _read_odd(columns, buffer, int(start[row]), records, row)
    return columns


def _fill_keys(
    key: Columns,
    ip: Columns,
    v4: NDArray[np.bool_],
    v6: NDArray[np.bool_],
    ordinary: NDArray[np.bool_],
) -> None:
    """MACs and addresses: the key's first 48 bytes from the packet's."""
    words = key.view(np.uint32).reshape(len(key), _KEY_WORDS)
    key["ip_version"] = v4 + 2 * v6.view(np.uint8)
    key["has_ethernet"] = ordinary
    macs = key.view(_MACS)
    for name in _MACS.names or ():
        macs[name] = ip[name]
    words[:, 2] = words[:, 6] = _MAPPED_WORD
    words[:, 3] = ip["v4_source"]
    words[:, 7] = ip["v4_destination"]
    rows = v6.nonzero()[0]
    if len(rows):
        raw = ip.view(np.uint8).reshape(len(ip), 56)
        key.view(np.uint8).reshape(len(key), 64)[rows, :32] = raw[rows, 22:54]
    if not ordinary.all():
        words[~ordinary] = 0


def _options_are_sound(
    buffer: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether TCP options are well-formed; false where the slow path must look.

    Nearly all packets of a network have options in one of three arrangements, which a few
    comparisons recognise; the others are walked.
    """
    words = windows(buffer, start, 20).view(np.uint32).reshape(len(start), 5)
    second = words[:, 1]
    mss = words[:, 0] & 0xFFFF == _MSS
    sound: NDArray[np.bool_] = (length == 8) & mss & (second == _NOP_NOP_SACK)
    sound |= (length == 12) & (words[:, 0] == _NOP_NOP_TIMESTAMP)
    sound |= (
        (length == 20) & mss & (second == _SACK_TIMESTAMP) & (words[:, 4] & 0xFFFFFF == _NOP_SCALE)
    )
    rest = (~sound).nonzero()[0]
    if len(rest):
        sound[rest] = _walk_options(buffer, start[rest], length[rest])
    return sound


# Options by kind and length as little-endian words (RFC 9293 section 3.1, 7323, 2018).
_MSS = 0x0402
_NOP_NOP_SACK = 0x02040101
_NOP_NOP_TIMESTAMP = 0x0A080101
_SACK_TIMESTAMP = 0x0A080204
_NOP_SCALE = 0x030301


def _walk_options(
    buffer: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Walk options of many packets in step."""
    sound = np.ones(len(start), dtype=np.bool_)
    position = start.copy()
    end = start + length
    active = np.arange(len(start))
    while len(active):
        at = position[active]
        kind = buffer[at]
        size = np.where(kind == 1, 1, buffer[at + 1]).astype(np.int64)
        ended = kind == 0
        # Multipath TCP (30) has rules of its own.
        broken = ~ended & (kind != 1) & ((size < 2) | (kind == 30) | (at + 2 > end[active]))
        broken |= ~ended & (at + size > end[active])
        sound[active[broken]] = False
        position[active] = at + size
        active = active[~ended & ~broken & (position[active] < end[active])]
    return sound


def _read_odd(
    columns: PacketColumns,
    buffer: NDArray[np.uint8],
    start: int,
    records: Datapath,
    row: int,
) -> None:
    columns.source_port[row] = columns.destination_port[row] = 0
    if records.problem[row]:
        return
    data = buffer[start : start + int(records.available[row])].tobytes()
    try:
        packet = decode_packet(
            data,
            l3_device=bool(records.l3_device[row]),
            ipv6=bool(records.ipv6[row]),
            tunnel=int(records.tunnel[row]),
        )
    except ProtocolError as error:
        columns.refused[row] = error
        return
    key = columns.key[row : row + 1]
    key["has_ethernet"] = packet.has_ethernet
    key["ip_version"] = packet.ip_version
    for field in ("source_mac", "destination_mac", "source_ip", "destination_ip"):
        key[field] = np.frombuffer(getattr(packet, field), dtype=np.uint8)
    for field in ("l4", "source_port", "destination_port", "l4_type", "l4_code", "tcp_flags"):
        getattr(columns, field)[row] = getattr(packet, field)
    if packet.tunnel is not None or packet.igmp_group or packet.vrrp_id or packet.vrrp_priority:
        columns.odd[row] = packet
