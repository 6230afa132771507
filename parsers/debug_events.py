"""Debug messages of the datapath (message type 2): one record to flow.DebugEvent.

The record is 20 bytes, little endian: type, sub type, source endpoint (u16), hash and three
arguments (u32). The message is a template by sub type over the arguments. Where Hubble
lists connection flags in random order, this is the alphabetical one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import MappingProxyType

from parsers.drop_reasons import drop_reason_text
from parsers.errno_texts import errno_text
from parsers.errors import ProtocolError

_RECORD = struct.Struct("<xBHIIII")


@dataclass(frozen=True, slots=True)
class DebugEvent:
    """flow.DebugEvent; ``source`` is an endpoint id, 0 for none."""

    type: int  # flow.DebugEventType, or a number it does not know
    source: int
    hash: int
    arg1: int
    arg2: int
    arg3: int
    message: str
    cpu: int


_DIRECTIONS = {0: "egress", 1: "ingress"}
_STATES = {0: "New", 1: "Established", 2: "Reply", 3: "Related"}


@dataclass(frozen=True, slots=True)
class _Arguments:
    """The arguments in the forms that templates name."""

    a: int
    b: int
    c: int

    # Numbers in network order, in the low half of an argument.
    port_a = property(lambda self: _swap16(self.a))
    port_b = property(lambda self: _swap16(self.b))
    port_c = property(lambda self: _swap16(self.c))
    high_port_a = property(lambda self: _swap16(self.a >> 16))
    high_port_c = property(lambda self: _swap16(self.c >> 16))
    # Halves and bytes.
    high_a = property(lambda self: self.a >> 16)
    low_a = property(lambda self: self.a & 0xFFFF)
    high_c = property(lambda self: self.c >> 16)
    low_c = property(lambda self: self.c & 0xFFFF)
    protocol_a = property(lambda self: self.a >> 8)
    flags_a = property(lambda self: self.a & 0xFF)
    protocol_b = property(lambda self: self.b >> 8)
    flags_b = property(lambda self: _connection_flags(self.b))
    protocol_c = property(lambda self: self.c & 0xFF)
    # Addresses; of IPv6 the last four bytes.
    ip_a = property(lambda self: _ipv4(self.a))
    ip_b = property(lambda self: _ipv4(self.b))
    ip_c = property(lambda self: _ipv4(self.c))
    ip6_a = property(lambda self: _ipv6_tail(self.a))
    ip6_b = property(lambda self: _ipv6_tail(self.b))
    # Names.
    state_a = property(lambda self: _connection_state(self.a))
    direction_b = property(lambda self: _DIRECTIONS.get(self.b, ""))
    errno_a = property(lambda self: _assign_result(self.a))


_CONNECTION = "sport={0.high_a} dport={0.low_a} nexthdr={0.protocol_b} flags={0.flags_b}"
_LOOKUP4 = "src={0.ip_a}:{0.low_c} dst={0.ip_b}:{0.high_c}"
_LOOKUP6 = "src=[::{0.ip6_a}]:{0.low_c} dst=[::{0.ip6_b}]:{0.high_c}"
_LOOKUP_2 = "nexthdr={0.protocol_a} flags={0.flags_a} dir={0.b} scope={0.c}"
_CREATED = "proxy-port={0.high_a} revnat={0.port_a} src-identity={0.b}"
_PROXY = "sport={0.high_port_a} dport={0.port_a} saddr={0.ip_b} nexthdr={0.c}"
_SLOT = "slot={0.a}, dport={0.port_b}"

TEMPLATES: Mapping[int, str] = MappingProxyType(
    {
        1: "No message, arg1={0.a} ({0.a:#x}) arg2={0.b} ({0.b:#x}) arg3={0.c} ({0.c:#x})",
        2: "Attempting local delivery for container id {0.a} from seclabel {0.b}",
        3: "Encapsulating to node {0.a} ({0.a:#x}) from seclabel {0.b}",
        # Hubble does not look the interface up, so its place is empty.
        4: "Local container found ifindex  seclabel {0.port_b}",
        5: "Policy evaluation would deny packet from {0.a} to {0.b}",
        6: f"CT lookup: {_CONNECTION}",
        7: f"CT reverse lookup: {_CONNECTION}",
        8: "CT entry found lifetime={0.a}, revnat={0.port_b}",
        9: f"CT created 1/2: {_CONNECTION} revnat={{0.port_c}}",
        10: "CT created 2/2: {0.ip_a} revnat={0.port_b}",
        11: "Handling ICMPv6 type={0.a}",
        12: "ICMPv6 echo request for router offset={0.a}",
        13: "ICMPv6 neighbour solicitation for address {0.a:x}:{0.b:x}",
        14: "Sending ICMPv6 time exceeded",
        15: "CT verdict: {0.state_a}, revnat={0.port_b}",
        16: "Tunnel decap: id={0.a} flowlabel={0.b:x}",
        17: "Mapping port from={0.a} to={0.b}",
        18: "BPF function {0.a} returned error {0.b}",
        19: "Going to host, policy-skip={0.a}",
        20: "Going to the stack, policy-skip={0.a}",
        21: "Packet hash={0.a} ({0.a:#x}), selected_service={0.b}",
        22: "Frontend service lookup, addr.p4={0.a:x} key.dport={0.port_b}",
        23: "Frontend service lookup failed, addr.p2={0.a:x} addr.p3={0.b:x}",
        24: f"Service backend slot lookup: {_SLOT}",
        25: "Service backend slot lookup result: target.p4={0.a:x} port={0.port_b}",
        26: f"Service backend slot lookup failed: {_SLOT}",
        27: "Backend service lookup failed: backend_id={0.a}",
        28: "Reverse NAT lookup, index={0.port_a}",
        29: "Performing reverse NAT, address.p4={0.a:x} port={0.port_b}",
        30: "Frontend service lookup, addr={0.ip_a} key.dport={0.port_b}",
        31: "Frontend service lookup failed",
        32: f"Service backend slot lookup: {_SLOT}",
        33: "Service backend slot lookup result: target={0.ip_a} port={0.port_b}",
        34: f"Service backend slot lookup failed: {_SLOT}",
        35: "Backend service lookup failed: backend_id={0.a}",
        36: "Reverse NAT lookup, index={0.port_a}",
        37: "Performing reverse NAT, address={0.ip_a} port={0.port_b}",
        38: "Loopback SNAT from={0.ip_a} to={0.ip_b}",
        39: "Loopback reverse SNAT from={0.ip_a} to={0.ip_b}",
        40: "CT lookup address: {0.ip_a}",
        41: "RR backend slot selection hash={0.a} ({0.a:#x}), selected_service={0.b}",
        42: f"Reverse proxy lookup {_PROXY}",
        43: "Reverse proxy entry found, orig-daddr={0.ip_a} orig-dport={0.b}",
        44: f"Reverse proxy updated {_PROXY}",
        45: "Resolved L4 policy to: {0.port_a} / {0.direction_b}",
        46: "Destination is inside cluster prefix, source identity: {0.a}",
        47: "Attempting encapsulation, lookup key: {0.ip_a}, identity: {0.b}",
        48: f"Conntrack lookup 1/2: {_LOOKUP4}",
        49: f"Conntrack lookup 2/2: {_LOOKUP_2}",
        50: f"Conntrack create: {_CREATED} lb={{0.ip_c}}",
        51: f"Conntrack lookup 1/2: {_LOOKUP6}",
        52: f"Conntrack lookup 2/2: {_LOOKUP_2}",
        53: f"Conntrack create: {_CREATED}",
        54: "Skipping proxy, tc_index is set={0.a:x}",
        55: "Matched L4 policy; creating conntrack src={0.a} dst={0.b} dport={0.high_port_c} "
        "proto={0.protocol_c}",
        56: "Failed to map addr={0.ip_a} to identity",
        57: "Failed to map addr.p4=[::{0.ip6_a}] to identity",
        58: "Successfully mapped addr={0.ip_a} to identity={0.b}",
        59: "Successfully mapped addr.p4=[::{0.ip6_a}] to identity={0.b}",
        60: "Stale CT entry found stale_ct.rev_nat_id={0.b}, svc.rev_nat_id={0.a}",
        61: "Inheriting identity={0.a} from stack",
        62: f"Socket lookup: {_LOOKUP4}",
        63: f"Socket lookup: {_LOOKUP6}",
        64: "Socket assign: {0.errno_a}",
        65: "L7 LB from {0.ip_a} to {0.ip_b}: proxy port {0.c}",
        # Hubble's texts stand one below the names that the API has for these numbers.
        66: "Loopback SNAT from.p4={0.a:x} to.p4={0.b:x}",
        67: "Loopback reverse SNAT from.p4={0.a:x} to.p4={0.b:x}",
    }
)
"""By sub type, over an ``_Arguments``."""


def decode_debug_event(data: bytes | memoryview, cpu: int) -> DebugEvent:
    """One record. Raises ProtocolError of class ``decode`` when it is too short."""
    if len(data) < _RECORD.size:
        raise ProtocolError(
            f"debug record has {len(data)} of {_RECORD.size} bytes", excerpt=bytes(data)
        )
    sub_type, source, hash_, a, b, c = _RECORD.unpack_from(data)
    template = TEMPLATES.get(sub_type)
    if template is None:
        message = f"Unknown message type={sub_type} arg1={a} arg2={b}"
    else:
        message = template.format(_Arguments(a, b, c))
    cpu = (cpu + (1 << 31)) % (1 << 32) - (1 << 31)
    return DebugEvent(sub_type, source, hash_, a, b, c, message, cpu)


def _swap16(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8 & 0xFF


def _ipv4(value: int) -> str:
    return str(IPv4Address(value.to_bytes(4, "little")))


def _ipv6_tail(value: int) -> str:
    swapped = int.from_bytes(value.to_bytes(4, "little"), "big")
    return f"{swapped >> 16:x}:{swapped & 0xFFFF:x}"


def _connection_flags(value: int) -> str:
    names = {1: "OUT", 2: "RELATED"}  # 0 is IN, which no test of a bit can find
    return ", ".join(name for bit, name in names.items() if value & bit)


def _connection_state(value: int) -> str:
    return _STATES.get(value) or drop_reason_text(value & 0xFF)


def _assign_result(number: int) -> str:
    return errno_text(number) if number else "Success"
