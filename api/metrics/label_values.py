"""Label values of ``hubble_*``: how Hubble writes enumerations and type codes.

Names of enumerations are those of the Flow API. ICMP names are those that Hubble's
packet library prints (RFC 792, 950, 1256, 4443, 4861), response codes those of its DNS
handler (IANA "DNS RCODEs" with words of its own).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from api.metrics.classes import MetricClass
from api.v1.flow import flow_pb2
from parsers import dns_names
from parsers.flow_batch import L7_DNS, L7_HTTP, L7_KAFKA

DROP, CAPTURE, TRACE, POLICY_VERDICT, ACCESS_LOG = 1, 3, 4, 5, 129
"""Monitor message types that make flows."""

EVENT_TYPES: Final[Mapping[int, str]] = {
    DROP: "Drop", CAPTURE: "Capture", TRACE: "Trace", POLICY_VERDICT: "PolicyVerdict",
    ACCESS_LOG: "L7",
}  # fmt: skip

OBSERVATION_POINTS: Final = (
    "to-endpoint", "to-proxy", "to-host", "to-stack", "to-overlay", "from-endpoint",
    "from-proxy", "from-host", "from-stack", "from-overlay", "from-network", "to-network",
    "from-crypto", "to-crypto",
)  # fmt: skip

L4_NAMES: Final = ("", "TCP", "UDP", "ICMPv4", "ICMPv6", "SCTP", "VRRP", "IGMP")
L7_NAMES: Final[Mapping[int, str]] = {L7_DNS: "DNS", L7_HTTP: "HTTP", L7_KAFKA: "Kafka"}
FAMILIES: Final = ("IP_NOT_USED", "IPv4", "IPv6")
REPORTERS: Final = ("unknown", "server", "client")
DIRECTIONS: Final = ("traffic_direction_unknown", "ingress", "egress")

POLICY_MATCHES: Final = (
    "none", "l3-only", "l3-l4", "l4-only", "all", "l3-proto", "proto-only",
)  # fmt: skip

RESPONSE_CODES: Final[Mapping[int, str]] = {
    **dns_names.RESPONSE_CODES,
    # Hubble's labels take their names from another library than its flows' summaries.
    9: "Not Authorized",
    11: "DSO-TYPE Not Implemented",
    23: "Bad/missing Server Cookie",
}

ICMPV4_TYPES: Final[Mapping[int, tuple[str, tuple[str, ...]]]] = {
    0: ("EchoReply", ()),
    3: (
        "DestinationUnreachable",
        (
            "Net", "Host", "Protocol", "Port", "FragmentationNeeded", "SourceRoutingFailed",
            "NetUnknown", "HostUnknown", "SourceIsolated", "NetAdminProhibited",
            "HostAdminProhibited", "NetTOS", "HostTOS", "CommAdminProhibited",
            "HostPrecedence", "PrecedenceCutoff",
        ),
    ),
    4: ("SourceQuench", ()),
    5: ("Redirect", ("Net", "Host", "TOS+Net", "TOS+Host")),
    8: ("EchoRequest", ()),
    9: ("RouterAdvertisement", ()),
    10: ("RouterSolicitation", ()),
    11: ("TimeExceeded", ("TTLExceeded", "FragmentReassemblyTimeExceeded")),
    12: ("ParameterProblem", ("PointerIndicatesError", "MissingOption", "BadLength")),
    13: ("TimestampRequest", ()),
    14: ("TimestampReply", ()),
    15: ("InfoRequest", ()),
    16: ("InfoReply", ()),
    17: ("AddressMaskRequest", ()),
    18: ("AddressMaskReply", ()),
}  # fmt: skip
"""By type: name, and names of the codes from 0 on; no names where codes mean nothing."""

ICMPV6_TYPES: Final[Mapping[int, tuple[str, tuple[str, ...]]]] = {
    1: (
        "DestinationUnreachable",
        (
            "NoRouteToDst", "AdminProhibited", "BeyondScopeOfSrc", "AddressUnreachable",
            "PortUnreachable", "SrcAddressFailedPolicy", "RejectRouteToDst",
        ),
    ),
    2: ("PacketTooBig", ()),
    3: ("TimeExceeded", ("HopLimitExceeded", "FragmentReassemblyTimeExceeded")),
    4: (
        "ParameterProblem",
        ("ErroneousHeaderField", "UnrecognizedNextHeader", "UnrecognizedIPv6Option"),
    ),
    128: ("EchoRequest", ()),
    129: ("EchoReply", ()),
    133: ("RouterSolicitation", ()),
    134: ("RouterAdvertisement", ()),
    135: ("NeighborSolicitation", ()),
    136: ("NeighborAdvertisement", ()),
    137: ("Redirect", ()),
}  # fmt: skip


def protocol(flow: MetricClass) -> str:
    """The ``protocol`` of flow, drop and flows-to-world."""
    if flow.event_type == ACCESS_LOG:
        return L7_NAMES.get(flow.l7_record, "Unknown L7")
    if flow.event_type in EVENT_TYPES:
        return at(L4_NAMES, flow.l4) or "Unknown L4"
    return "Unknown flow"


def icmp_type(types: Mapping[int, tuple[str, tuple[str, ...]]], number: int, code: int) -> str:
    """Type and code as Hubble's packet library prints them."""
    if number not in types:
        return f"{number}({code})"
    name, codes = types[number]
    if not codes and not code:
        return name
    return f"{name}({at(codes, code) or f'Code: {code}'})"


def verdict(number: int) -> str:
    """flow.Verdict."""
    return _enum("Verdict", number)


def drop_reason(number: int) -> str:
    """flow.DropReason, or the number (a signed one) where it has no name."""
    return _enum("DropReason", number - (1 << 32) if number >> 31 else number)


def sctp_chunk_type(number: int) -> str:
    """flow.SCTPChunkType."""
    return _enum("SCTPChunkType", number)


def at(names: tuple[str, ...], number: int) -> str:
    """The name of a number, empty when it has none."""
    return names[number] if number < len(names) else ""


def _enum(enum: str, number: int) -> str:
    names = flow_pb2.DESCRIPTOR.enum_types_by_name[enum].values_by_number
    return names[number].name if number in names else str(number)
