"""The kernel's drop reasons in Hubble's terms.

The kernel numbers its reasons anew with each release, so numbers never stand here: names
are read from the running kernel (``KernelReasons``), and the table goes from names to
flow.DropReason, to the nearest one where Hubble has no equal. What is not in the table is
``DROP_REASON_UNKNOWN``; the kernel's own name goes with the flow in any case.

Sources: the kernel's ``include/net/dropreason-core.h`` (5.17 to 7.2) and Cilium's
``flow.proto`` (1.20).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_PREFIXES = ("SKB_DROP_REASON_", "SKB_")
NOT_SPECIFIED = "NOT_SPECIFIED"
NETFILTER_DROP = "NETFILTER_DROP"

SUBSYSTEM_SHIFT = 16
"""The upper half of a reason says whose it is; 0 is the core's."""

(
    UNKNOWN, INVALID_SOURCE_MAC, INVALID_SOURCE_IP, POLICY_DENIED, INVALID_PACKET,
    INVALID_HEADER, UNSUPPORTED_L3, WRITING, UNKNOWN_L4, TUNNEL_KEY, UNKNOWN_TARGET,
    UNROUTABLE, L3_CHECKSUM, L4_CHECKSUM, EXTENSION_HEADER, FRAGMENTATION, DEPARTURE_HORIZON,
    UNSUPPORTED_L2, FIB_LOOKUP, SOCKET_LOOKUP, PROXY_ASSIGN, VLAN, VNI, AUTHENTICATION,
    TTL_EXCEEDED, RATE_LIMITED, FRAGMENT_NOT_FOUND, NOT_READY,
) = (
    0, 130, 132, 133, 134,
    135, 139, 141, 142, 147, 150,
    151, 153, 154, 156, 157, 162,
    166, 169, 178, 179, 182, 183, 189,
    196, 198, 175, 202,
)  # fmt: skip
"""flow.DropReason."""

HUBBLE_REASONS: Mapping[str, int] = MappingProxyType(
    {
        # Somebody decided it.
        "NETFILTER_DROP": POLICY_DENIED,
        "BPF_CGROUP_EGRESS": POLICY_DENIED,
        "SOCKET_FILTER": POLICY_DENIED,
        "SECURITY_HOOK": POLICY_DENIED,
        "XDP": POLICY_DENIED,
        "TC_INGRESS": POLICY_DENIED,
        "TC_EGRESS": POLICY_DENIED,
        "XFRM_POLICY": POLICY_DENIED,
        "TAP_FILTER": POLICY_DENIED,
        "TAP_TXFILTER": POLICY_DENIED,
        # Nobody takes it.
        "NO_SOCKET": SOCKET_LOOKUP,
        "SOCKET_CLOSE": SOCKET_LOOKUP,
        "TCP_CLOSE": SOCKET_LOOKUP,
        "UNHANDLED_PROTO": UNSUPPORTED_L3,
        "IPV6DISABLED": UNSUPPORTED_L3,
        "IP_NOPROTO": UNKNOWN_L4,
        "INVALID_PROTO": UNKNOWN_L4,
        "OTHERHOST": UNKNOWN_TARGET,
        "LOCAL_MAC": INVALID_SOURCE_MAC,
        "MAC_INVALID_SOURCE": INVALID_SOURCE_MAC,
        "MAC_IEEE_MAC_CONTROL": UNSUPPORTED_L2,
        # It cannot get there.
        "IP_OUTNOROUTES": FIB_LOOKUP,
        "IP_INNOROUTES": FIB_LOOKUP,
        "NO_TX_TARGET": FIB_LOOKUP,
        "IP_INADDRERRORS": UNROUTABLE,
        "IP_INVALID_DEST": UNROUTABLE,
        "IP_LOCALNET": UNROUTABLE,
        "NEIGH_CREATEFAIL": UNKNOWN_TARGET,
        "NEIGH_FAILED": UNKNOWN_TARGET,
        "NEIGH_QUEUEFULL": UNKNOWN_TARGET,
        "NEIGH_DEAD": UNKNOWN_TARGET,
        "NEIGH_HH_FILLFAIL": UNKNOWN_TARGET,
        "DEV_READY": NOT_READY,
        # Where it says to come from cannot be.
        "IP_RPFILTER": INVALID_SOURCE_IP,
        "IP_LOCAL_SOURCE": INVALID_SOURCE_IP,
        "IP_INVALID_SOURCE": INVALID_SOURCE_IP,
        "UNICAST_IN_L2_MULTICAST": INVALID_SOURCE_IP,
        # Its bytes are wrong.
        "PKT_TOO_SMALL": INVALID_PACKET,
        "HDR_TRUNC": INVALID_PACKET,
        "IP_INHDR": INVALID_PACKET,
        "DEV_HDR": INVALID_PACKET,
        "CAN_RX_INVALID_FRAME": INVALID_PACKET,
        "CANFD_RX_INVALID_FRAME": INVALID_PACKET,
        "CANXL_RX_INVALID_FRAME": INVALID_PACKET,
        "IPV6_NDISC_BAD_CODE": INVALID_PACKET,
        "IPV6_NDISC_BAD_OPTIONS": INVALID_PACKET,
        "IPV6_NDISC_FRAG": INVALID_PACKET,
        "IPV6_NDISC_HOP_LIMIT": INVALID_PACKET,
        "IPV6_BAD_EXTHDR": EXTENSION_HEADER,
        "IP_CSUM": L3_CHECKSUM,
        "SKB_CSUM": L4_CHECKSUM,
        "TCP_CSUM": L4_CHECKSUM,
        "UDP_CSUM": L4_CHECKSUM,
        "ICMP_CSUM": L4_CHECKSUM,
        "TCP_MINTTL": TTL_EXCEEDED,
        # TCP did not expect it.
        "TCP_FLAGS": INVALID_HEADER,
        "TCP_INVALID_SYN": INVALID_HEADER,
        "TCP_INVALID_SEQUENCE": INVALID_HEADER,
        "TCP_INVALID_END_SEQUENCE": INVALID_HEADER,
        "TCP_INVALID_ACK_SEQUENCE": INVALID_HEADER,
        "TCP_OLD_SEQUENCE": INVALID_HEADER,
        "TCP_ACK_UNSENT_DATA": INVALID_HEADER,
        "TCP_TOO_OLD_ACK": INVALID_HEADER,
        "TCP_OVERWINDOW": INVALID_HEADER,
        "TCP_RFC7323_PAWS": INVALID_HEADER,
        "TCP_RFC7323_PAWS_ACK": INVALID_HEADER,
        "TCP_RFC7323_TW_PAWS": INVALID_HEADER,
        "TCP_RFC7323_TSECR": INVALID_HEADER,
        "TCP_AUTH_HDR": AUTHENTICATION,
        "TCP_MD5NOTFOUND": AUTHENTICATION,
        "TCP_MD5UNEXPECTED": AUTHENTICATION,
        "TCP_MD5FAILURE": AUTHENTICATION,
        "TCP_AONOTFOUND": AUTHENTICATION,
        "TCP_AOUNEXPECTED": AUTHENTICATION,
        "TCP_AOKEYNOTFOUND": AUTHENTICATION,
        "TCP_AOFAILURE": AUTHENTICATION,
        # Fragments.
        "PKT_TOO_BIG": FRAGMENTATION,
        "DUP_FRAG": FRAGMENT_NOT_FOUND,
        "FRAG_REASM_TIMEOUT": FRAGMENT_NOT_FOUND,
        "FRAG_TOO_FAR": FRAGMENT_NOT_FOUND,
        # There was no room.
        "QDISC_DROP": RATE_LIMITED,
        "QDISC_OVERLIMIT": RATE_LIMITED,
        "QDISC_CONGESTED": RATE_LIMITED,
        "CAKE_FLOOD": RATE_LIMITED,
        "FQ_BAND_LIMIT": RATE_LIMITED,
        "FQ_FLOW_LIMIT": RATE_LIMITED,
        "FQ_HORIZON_LIMIT": DEPARTURE_HORIZON,
        "DUALPI2_STEP_DROP": RATE_LIMITED,
        "CPU_BACKLOG": RATE_LIMITED,
        "FULL_RING": RATE_LIMITED,
        "SOCKET_RCVBUFF": RATE_LIMITED,
        "SOCKET_BACKLOG": RATE_LIMITED,
        "PROTO_MEM": RATE_LIMITED,
        "TCP_LISTEN_OVERFLOW": RATE_LIMITED,
        "TCP_OFO_QUEUE_PRUNE": RATE_LIMITED,
        "TCP_OFO_DROP": RATE_LIMITED,
        "TCP_ZEROWINDOW": RATE_LIMITED,
        "NOMEM": WRITING,
        "SKB_GSO_SEG": WRITING,
        "SKB_UCOPY_FAULT": WRITING,
        # Tunnels and bridges.
        "VXLAN_INVALID_HDR": TUNNEL_KEY,
        "VXLAN_VNI_NOT_FOUND": VNI,
        "VXLAN_ENTRY_EXISTS": UNKNOWN_TARGET,
        "TUNNEL_TXINFO": TUNNEL_KEY,
        "IP_TUNNEL_ECN": INVALID_PACKET,
        "BRIDGE_INGRESS_STP_STATE": NOT_READY,
        "VLAN_FILTER": VLAN,
    }
)  # fmt: skip
"""flow.DropReason by the kernel's name, its prefix taken off."""


def short_name(member: str) -> str:
    """The name of an enumerator without what all of them begin with."""
    for prefix in _PREFIXES:
        if member.startswith(prefix):
            return member.removeprefix(prefix)
    return member


class KernelReasons:
    """Names of the running kernel's reasons: ``members`` of enum skb_drop_reason by number.

    ``subsystems``: names of reasons that modules add, by their whole number.
    """

    __slots__ = ("_names", "numbers")

    def __init__(
        self, members: Mapping[int, str], subsystems: Mapping[int, str] | None = None
    ) -> None:
        self._names = {number: short_name(member) for number, member in members.items()}
        self._names |= dict(subsystems or {})
        self.numbers = {name: number for number, name in self._names.items()}

    def name(self, reason: int) -> str:
        """The kernel's name; an unknown number is shown as that, and never guessed."""
        if not self._names:  # before 5.17 the kernel gives no reasons
            return NOT_SPECIFIED
        return self._names.get(reason, f"reason_{reason}")


def hubble_reason(name: str) -> int:
    """flow.DropReason of a kernel's name."""
    return HUBBLE_REASONS.get(name, UNKNOWN)
