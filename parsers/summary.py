"""One line of text about a packet: the API's deprecated but widely printed ``Summary``.

Texts are Hubble's (tools match on them). L7 records bring their own summary.
"""

from __future__ import annotations

from types import MappingProxyType

from parsers.flow_batch import (
    L4_ICMPV4,
    L4_ICMPV6,
    L4_IGMP,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L4_VRRP,
)

TCP_FLAGS = MappingProxyType(
    {
        "FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128,
        "NS": 256,
    }
)  # fmt: skip
"""Bits of ``FLOW_CLASS.tcp_flags`` by the API's name."""

_PRINTED = ("SYN", "ACK", "RST", "FIN", "PSH", "URG", "ECE", "CWR", "NS")

# Names of types and, where there are any, of codes from 0 (RFC 792, 1256, 4443, 4861).
_ICMPV4: MappingProxyType[int, tuple[str, ...]] = MappingProxyType(
    {
        0: ("EchoReply",),
        3: (
            "DestinationUnreachable", "Net", "Host", "Protocol", "Port", "FragmentationNeeded",
            "SourceRoutingFailed", "NetUnknown", "HostUnknown", "SourceIsolated",
            "NetAdminProhibited", "HostAdminProhibited", "NetTOS", "HostTOS",
            "CommAdminProhibited", "HostPrecedence", "PrecedenceCutoff",
        ),
        4: ("SourceQuench",),
        5: ("Redirect", "Net", "Host", "TOS+Net", "TOS+Host"),
        8: ("EchoRequest",),
        9: ("RouterAdvertisement",),
        10: ("RouterSolicitation",),
        11: ("TimeExceeded", "TTLExceeded", "FragmentReassemblyTimeExceeded"),
        12: ("ParameterProblem", "PointerIndicatesError", "MissingOption", "BadLength"),
        13: ("TimestampRequest",),
        14: ("TimestampReply",),
        15: ("InfoRequest",),
        16: ("InfoReply",),
        17: ("AddressMaskRequest",),
        18: ("AddressMaskReply",),
    }
)  # fmt: skip
_ICMPV6: MappingProxyType[int, tuple[str, ...]] = MappingProxyType(
    {
        1: (
            "DestinationUnreachable", "NoRouteToDst", "AdminProhibited", "BeyondScopeOfSrc",
            "AddressUnreachable", "PortUnreachable", "SrcAddressFailedPolicy", "RejectRouteToDst",
        ),
        2: ("PacketTooBig",),
        3: ("TimeExceeded", "HopLimitExceeded", "FragmentReassemblyTimeExceeded"),
        4: (
            "ParameterProblem", "ErroneousHeaderField", "UnrecognizedNextHeader",
            "UnrecognizedIPv6Option",
        ),
        128: ("EchoRequest",),
        129: ("EchoReply",),
        133: ("RouterSolicitation",),
        134: ("RouterAdvertisement",),
        135: ("NeighborSolicitation",),
        136: ("NeighborAdvertisement",),
        137: ("Redirect",),
    }
)  # fmt: skip
_IGMP = MappingProxyType(
    {
        0x11: "IGMP Membership Query",
        0x12: "IGMPv1 Membership Report",
        0x16: "IGMPv2 Membership Report",
        0x17: "Leave Group",
        0x22: "IGMPv3 Membership Report",
    }
)


def icmpv4_text(icmp_type: int, code: int) -> str:
    """``DestinationUnreachable(Port)``; also the label of the ICMP metric."""
    return _icmp(_ICMPV4, icmp_type, code)


def icmpv6_text(icmp_type: int, code: int) -> str:
    """``EchoRequest``; also the label of the ICMP metric."""
    return _icmp(_ICMPV6, icmp_type, code)


def packet_summary(l4: int, l4_type: int, l4_code: int, tcp_flags: int, ip_version: int) -> str:
    """Of a captured packet. Without an IP layer it is empty (``Ethernet`` if there is one)."""
    if l4 == L4_TCP:
        return "TCP Flags: " + ", ".join(n for n in _PRINTED if tcp_flags & TCP_FLAGS[n])
    if l4 == L4_ICMPV4:
        return "ICMPv4 " + icmpv4_text(l4_type, l4_code)
    if l4 == L4_ICMPV6:
        return "ICMPv6 " + icmpv6_text(l4_type, l4_code)
    if l4 == L4_IGMP:
        return "IGMP " + _IGMP.get(l4_type, "")
    if l4:
        # VRRP reads so for every version: Hubble's words.
        return {L4_UDP: "UDP", L4_SCTP: "SCTP", L4_VRRP: "VRRP VRRPv2 Advertisement"}[l4]
    return ("", "IPv4", "IPv6")[ip_version]


def socket_summary(l4: int) -> str:
    """Of a socket translation, which has no packet."""
    return {L4_TCP: "TCP", L4_UDP: "UDP"}.get(l4, "Unknown")


def _icmp(table: MappingProxyType[int, tuple[str, ...]], icmp_type: int, code: int) -> str:
    names = table.get(icmp_type)
    if names is None:
        return f"{icmp_type}({code})"
    name, codes = names[0], names[1:]
    if code < len(codes):
        return f"{name}({codes[code]})"
    return name if not codes and code == 0 else f"{name}(Code: {code})"
