"""One captured packet to its fields, layer by layer: the exact, slow path.

The fast path (``parsers.packet_columns``) takes the ordinary packets a batch at a time and sends
everything else here: VLAN and unknown EtherTypes, options, fragments, extension headers,
IP in IP, tunnels, L3 devices, VRRP, IGMP, and whatever is cut or broken.

The rules are those of the library Hubble decodes with, so that a packet gives a flow here
exactly when it does there: a header that is cut or malformed refuses the packet, a layer
nobody knows ends the walk quietly, fragments have no layer 4, the innermost IP header wins.
Unlike Hubble, the walk ends at the captured length: filler behind it is not packet.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

from parsers.addresses import address_text, mapped
from parsers.details import Tunnel
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    L4_ICMPV4,
    L4_ICMPV6,
    L4_IGMP,
    L4_NONE,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L4_VRRP,
)

VXLAN, GENEVE = 1, 2
"""``flow.Tunnel.Protocol``."""

SCTP_CHUNK_TYPES = {1: 1, 2: 2, 7: 3, 8: 4, 14: 5, 6: 6}
"""RFC 9260 section 3.2 chunk type to ``flow.SCTPChunkType``; any other is UNSUPPORTED (0)."""

_ETHERNET, _IPV4, _IPV6, _VXLAN, _GENEVE, _STOP = "eth", "v4", "v6", "vxlan", "geneve", ""
_UDP = "udp"  # what a datagram holds

_ETHER_TYPES = {
    b"\x08\x00": _IPV4,
    b"\xff\xff": _IPV4,  # that library's number for an IP packet without a type
    b"\x86\xdd": _IPV6,
    b"\x65\x58": _ETHERNET,
}
_IN_IP = {4: _IPV4, 94: _IPV4, 41: _IPV6}

# Below a tunnel the walk goes on into datagrams by the destination's port or else the
# source's: into further tunnels, and no further where a port means something else.
_TUNNEL_PORTS = {4789: _VXLAN, 6081: _GENEVE}
_OTHER_PORTS = frozenset(
    {53, 67, 68, 123, 546, 547, 623, 666, 1000, 1812, 2123, 2152, 2222, 3784, 5060, 6343, 44818}
)

_IP_PROTOCOLS = {
    1: L4_ICMPV4,
    2: L4_IGMP,
    6: L4_TCP,
    17: L4_UDP,
    58: L4_ICMPV6,
    112: L4_VRRP,
    132: L4_SCTP,
}


@dataclass(slots=True)
class Packet:
    """What was read; addresses are 16 bytes (IPv4 mapped), zero when absent."""

    has_ethernet: bool = False
    source_mac: bytes = bytes(6)
    destination_mac: bytes = bytes(6)
    ip_version: int = 0  # flow.IPVersion
    source_ip: bytes = bytes(16)
    destination_ip: bytes = bytes(16)
    l4: int = L4_NONE
    source_port: int = 0
    destination_port: int = 0
    l4_type: int = 0
    l4_code: int = 0
    tcp_flags: int = 0
    vrrp_id: int = 0
    vrrp_priority: int = 0
    igmp_group: str = ""
    tunnel: Tunnel | None = None
    udp_payload: bytes = b""


def decode_packet(data: bytes, *, l3_device: bool, ipv6: bool, tunnel: int) -> Packet:
    """Decode captured bytes; ``tunnel`` is 0, ``VXLAN`` or ``GENEVE``.

    Raises ``ProtocolError`` (class ``decode``) for a cut or malformed header.
    """
    packet = Packet()
    if not data:
        return packet
    first = _ETHERNET if not l3_device else _IPV6 if ipv6 else _IPV4
    _walk(packet, data, first)
    if not tunnel:
        return packet
    # Of a packet without UDP nothing is left to look into: the tunnel's header is cut.
    inner = Packet()
    try:
        vni = _walk(inner, packet.udp_payload, _VXLAN if tunnel == VXLAN else _GENEVE, overlay=True)
    except ProtocolError as error:
        raise _refused(f"overlay: {error}") from None
    inner.tunnel = Tunnel(
        protocol=tunnel,
        source_ip=address_text(packet.source_ip),
        destination_ip=address_text(packet.destination_ip),
        ip_version=packet.ip_version,
        l4=packet.l4,
        source_port=packet.source_port,
        destination_port=packet.destination_port,
        vni=vni,
    )
    return inner


def _walk(packet: Packet, data: bytes, layer: str, *, overlay: bool = False) -> int:
    """Follow the layers from ``layer`` on; returns the VNI of a tunnel header."""
    vni = 0
    while layer != _STOP:
        if layer == _ETHERNET:
            layer, data = _ethernet(packet, data)
        elif layer == _IPV4:
            layer, data = _ipv4(packet, data)
        elif layer == _IPV6:
            layer, data = _ipv6(packet, data)
        elif layer == _VXLAN:
            if len(data) < 8:
                raise _refused("vxlan packet too small")
            vni = int.from_bytes(data[4:7], "big")
            layer, data = _ETHERNET, data[8:]
        elif layer == _UDP:
            layer = _inside_datagram(packet) if overlay else _STOP
            continue
        else:
            vni, layer, data = _geneve(data)
        if not data:
            break
    return vni


def _ethernet(packet: Packet, data: bytes) -> tuple[str, bytes]:
    if len(data) < 14:
        raise _refused("ethernet packet too small")
    packet.has_ethernet = True
    packet.destination_mac, packet.source_mac = data[:6], data[6:12]
    return _ether_type(data[12:14]), data[14:]


def _ether_type(two: bytes) -> str:
    return _ETHER_TYPES.get(two, _STOP)


def _inside_datagram(packet: Packet) -> str:
    port = packet.destination_port
    if port not in _TUNNEL_PORTS and port not in _OTHER_PORTS:
        port = packet.source_port
    return _TUNNEL_PORTS.get(port, _STOP)


def _ipv4(packet: Packet, data: bytes) -> tuple[str, bytes]:
    if len(data) < 20:
        raise _refused("ipv4 header is cut", data)
    # 0: segmentation offload left the length to the device.
    total = int.from_bytes(data[2:4], "big") or len(data) & 0xFFFF
    header = (data[0] & 15) * 4
    if total < 20:
        raise _refused("ipv4 total length is too small", data)
    if header < 20:
        raise _refused("ipv4 header length is too small", data)
    if header > total:
        raise _refused("ipv4 header is longer than its packet", data)
    data = data[:total]
    if header > len(data):
        raise _refused("ipv4 options are cut", data)
    for _ in _options(data[20:header], "ipv4", 3):
        pass  # the walk refuses what gopacket refuses
    packet.ip_version = 1
    packet.source_ip, packet.destination_ip = mapped(data[12:16]), mapped(data[16:20])
    if data[6] & 0x3F or data[7]:  # more fragments, or not the first
        return _STOP, b""
    return _transport(packet, data[9], data[header:])


def _options(options: bytes, protocol: str, shortest: int) -> Iterator[bytes]:
    """The options of an IPv4 or TCP header that have a length, whole."""
    position = 0
    while position < len(options):
        kind = options[position]
        if kind == 0:
            return
        if kind == 1:
            position += 1
            continue
        if position + 1 >= len(options):
            raise _refused(f"{protocol} option is cut")
        length = options[position + 1]
        if length < shortest or position + length > len(options):
            raise _refused(f"{protocol} option {kind} has length {length}")
        yield options[position : position + length]
        position += length


def _ipv6(packet: Packet, data: bytes) -> tuple[str, bytes]:
    if len(data) < 40:
        raise _refused("ipv6 header is cut", data)
    length = int.from_bytes(data[4:6], "big")
    protocol = data[6]
    payload = data[40:]
    if protocol == 0:
        jumbo, header = _hop_by_hop(payload)
        if jumbo and length:
            raise _refused("ipv6 has both a length and a jumbo length")
        protocol = payload[0]
        if jumbo:
            # The walk then takes the hop-by-hop header for the next layer, as Hubble does.
            payload = payload[:jumbo]
            length = jumbo
        else:
            payload = payload[header:]
    if not length:
        raise _refused("ipv6 length is 0")
    packet.ip_version = 2
    packet.source_ip, packet.destination_ip = data[8:24], data[24:40]
    return _transport(packet, protocol, payload[:length])


def _hop_by_hop(data: bytes) -> tuple[int, int]:
    """Jumbo length (0 without one) and header length."""
    if len(data) < 2:
        raise _refused("ipv6 extension header is cut")
    header = data[1] * 8 + 8
    if len(data) < header:
        raise _refused("ipv6 extension header is cut")
    jumbo = 0
    position = 2
    while position < header:
        if position + 2 > len(data):
            raise _refused("ipv6 option is cut")
        kind, length = data[position], data[position + 1]
        if kind == 0:
            position += 1
            continue
        value = data[position + 2 : position + 2 + length]
        if len(value) < length:
            raise _refused("ipv6 option is cut")
        if kind == 0xC2 and not jumbo:  # RFC 2675
            if length != 4 or int.from_bytes(value, "big") <= 0xFFFF:
                raise _refused("ipv6 jumbo option is malformed")
            jumbo = int.from_bytes(value, "big")
        position += 2 + length
    return jumbo, header


def _transport(packet: Packet, protocol: int, data: bytes) -> tuple[str, bytes]:
    if not data:
        return _STOP, b""
    if protocol in _IN_IP:
        return _IN_IP[protocol], data
    l4 = _IP_PROTOCOLS.get(protocol, L4_NONE)
    if l4 == L4_TCP:
        _tcp(packet, data)
    elif l4 == L4_UDP:
        _udp(packet, data)
        packet.l4 = L4_UDP
        return _UDP, packet.udp_payload
    if l4 == L4_SCTP:
        if len(data) < 12:
            raise _refused("sctp header is cut")
        _ports(packet, data)
        packet.l4_type = SCTP_CHUNK_TYPES.get(data[12], 0) if len(data) > 12 else 0
    elif l4 in (L4_ICMPV4, L4_ICMPV6):
        if len(data) < (8 if l4 == L4_ICMPV4 else 4):
            raise _refused("icmp header is cut")
        packet.l4_type, packet.l4_code = data[0], data[1]
    elif l4 == L4_VRRP:
        _vrrp(packet, data)
    elif l4 == L4_IGMP:
        if len(data) < 8:
            raise _refused("igmp packet too small")
        packet.l4_type = data[0]
        packet.igmp_group = address_text(mapped(data[4:8]))
    if l4:
        packet.l4 = l4
    return _STOP, b""


def _ports(packet: Packet, data: bytes) -> None:
    packet.source_port = int.from_bytes(data[:2], "big")
    packet.destination_port = int.from_bytes(data[2:4], "big")


def _tcp(packet: Packet, data: bytes) -> None:
    if len(data) < 20:
        raise _refused("tcp header is cut")
    header = (data[12] >> 4) * 4
    if header < 20:
        raise _refused("tcp data offset is too small")
    if header > len(data):
        raise _refused("tcp data offset is beyond the packet")
    _check_tcp_options(data[20:header])
    _ports(packet, data)
    packet.tcp_flags = (data[12] & 1) << 8 | data[13]


_MPTCP = 30
_MPTCP_LENGTHS = {
    0: (4, 12, 20, 22, 24),  # MP_CAPABLE
    1: (12, 16, 24),  # MP_JOIN
    4: range(4, 41),  # REMOVE_ADDR
    5: (3, 4),  # MP_PRIO
    6: (12,),  # MP_FAIL
    7: (12,),  # MP_FASTCLOSE
    8: (4,),  # MP_TCPRST
}
"""Option lengths by subtype, RFC 8684 section 3 (and RFC 6824 for MP_PRIO)."""
_ADD_ADDR_LENGTHS = (8, 10, 20, 22)


def _mptcp_lengths(option: bytes) -> Container[int]:
    """Lengths an option may have; ``option`` starts behind its length byte."""
    subtype, flags = option[0] >> 4, option[1] if len(option) > 1 else 0
    if subtype == 2:  # DSS: what its flags announce
        acknowledged = 4 + 4 * (flags >> 1 & 1) if flags & 1 else 0
        mapped_data = 10 + 4 * (flags >> 3 & 1) if flags & 4 else 0
        length = 4 + acknowledged + mapped_data
        return (length, length + 2) if mapped_data else (length,)
    if subtype == 3:  # ADD_ADDR: 8 bytes more where it is authenticated, as in version 1
        authenticated = option[0] & 15 == 0
        return tuple(n + 8 * authenticated for n in _ADD_ADDR_LENGTHS)
    return _MPTCP_LENGTHS.get(subtype, range(256))


def _check_tcp_options(options: bytes) -> None:
    for option in _options(options, "tcp", 2):
        if option[0] == _MPTCP and (
            len(option) == 2 or len(option) not in _mptcp_lengths(option[2:])
        ):
            raise _refused(f"mptcp option has length {len(option)}")


def _udp(packet: Packet, data: bytes) -> None:
    if len(data) < 8:
        raise _refused("udp header is cut")
    length = int.from_bytes(data[4:6], "big")
    if 0 < length < 8:
        raise _refused(f"udp length is {length}")
    _ports(packet, data)
    packet.udp_payload = data[8:length] if length else data[8:]


def _vrrp(packet: Packet, data: bytes) -> None:
    # The addresses behind are not shown; that they are cut does not matter.
    if len(data) < 6 or data[0] & 15 != 1 or not data[3]:
        raise _refused("vrrp packet is cut or no advertisement", data)
    packet.l4_type = data[0] & 15
    packet.vrrp_id, packet.vrrp_priority = data[1], data[2]


def _geneve(data: bytes) -> tuple[int, str, bytes]:
    length = (data[0] & 0x3F) * 4 if data else 0
    if len(data) < 7 + length or len(data) < 8:
        raise _refused("geneve packet too short")
    end = 8 + length
    position = 8
    while position < end:
        if len(data) - position < 4:
            raise _refused("geneve option is cut")
        position += (data[position + 3] & 0x1F) * 4 + 4
        if position > len(data):
            raise _refused("geneve option is cut")
    return int.from_bytes(data[4:7], "big"), _ether_type(data[2:4]), data[position:]


def _refused(text: str, data: bytes = b"") -> ProtocolError:
    return ProtocolError(text, error_class="decode", excerpt=data)
