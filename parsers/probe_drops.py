"""Flows of packets that the kernel dropped, one flow a packet.

Verdict, direction and addresses are in Hubble's terms, and so is the reason as far as it
has one (``kernel_drop_reasons``). The kernel's own name of the reason is the class's
``own_reason``; the flow's extension has it together with the function that gave the packet up
and, for netfilter, the hook.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parsers.flow_batch import (
    FLAG_TCP_FLAGS,
    L4_ICMPV4,
    L4_ICMPV6,
    L4_NONE,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    ORIGIN_TRACEPOINT,
    U32,
    FlowTables,
)
from parsers.intern import InternTable, lengthened
from parsers.kernel_drop_reasons import (
    NETFILTER_DROP,
    NOT_SPECIFIED,
    KernelReasons,
    hubble_reason,
)
from parsers.packets import SCTP_CHUNK_TYPES
from parsers.probe_flows import ProbeFlows, empty_flows
from parsers.probe_traffic import L4_OF
from parsers.probe_translation import known_as
from parsers.windows import Columns

HAS_ETHERNET, IS_FRAGMENT, HAS_VLAN = 1, 2, 4
"""Bits of ``flags``."""

DROP_RECORD = np.dtype(
    [
        ("time_ns", "<u8"),  # boot clock
        ("packet", "<u8"),  # address of the skb
        ("location", "<u8"),  # code address at which it was freed
        ("reason", "<u4"),  # the running kernel's number
        ("length", "<u4"),  # bytes
        ("interface", "<u4"),  # ifindex, 0 when there was none yet or no longer
        ("netns", "<u4"),  # inode of the network namespace, 0 when nothing tells it
        ("segments", "<u2"),  # packets on the wire, at least 1
        ("ether_type", "<u2"),
        ("vlan", "<u2"),  # tag control information, with HAS_VLAN
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("tcp_flags", "<u2"),
        ("ip_version", "u1"),  # 4, 6; 0 without an IP header
        ("protocol", "u1"),
        ("l4_type", "u1"),  # ICMP type, SCTP chunk
        ("l4_code", "u1"),
        ("source_ip", "u1", (16,)),
        ("destination_ip", "u1", (16,)),
        ("source_mac", "u1", (6,)),
        ("destination_mac", "u1", (6,)),
        ("direction", "u1"),  # flow.TrafficDirection, as the interface's namespace sees it
        ("hook", "u1"),  # index of HOOKS
        ("flags", "u1"),
        ("reserved", "u1"),
        ("symbol", "S40"),  # name of location
    ]
)
"""``struct drop_record`` of ``bpf/drops.h``."""

VERDICT_RECORD = np.dtype(
    [
        ("time_ns", "<u8"),  # boot clock
        ("packet", "<u8"),  # address of the skb, as in DROP_RECORD
        ("table", "S32"),
        ("chain", "S32"),
        ("function", "u1"),  # enum verdict_function
        ("reserved", "u1", (7,)),
    ]
)
"""``struct verdict_record`` of ``bpf/netfilter.h``."""

OF_CHAIN, OF_TABLE = 0, 1
"""Values of ``function`` for rules: nftables' have a chain, iptables-legacy's that of the hook."""

VERDICT_FUNCTIONS = {2: "nf_nat_inet_fn", 3: "nf_conntrack_in", 4: "__nf_conntrack_confirm"}
"""Values of ``function`` for functions of the kernel that drop packets by themselves."""

SAME_DROP_NS = 100_000_000
"""A verdict farther from a drop is of another packet; they are some microseconds apart, and more
when names of functions are worked out between."""

HOOKS = ("", "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
"""Netfilter's hooks by ``hook``; 0 is no hook, or none that the stack shows."""

_NETFILTER = "nf_hook_slow"
"""The function of netfilter that drops packets; before 5.18 there is no other sign of it."""

_DROP, _DROPPED, _L3_L4 = 1, 2, 1  # monitor message type, flow.Verdict, flow.FlowType

_SITE = np.dtype([("location", "<u8"), ("reason", "<u4"), ("hook", "u1"), ("pad", "V3")])
_MOST_SITES = 1 << 12

_WITH_PORTS = np.zeros(8, dtype=np.bool_)
_WITH_PORTS[[L4_TCP, L4_UDP, L4_SCTP]] = True
_CHUNKS = np.zeros(256, dtype=np.uint8)
for _wire, _number in SCTP_CHUNK_TYPES.items():
    _CHUNKS[_wire] = _number

Extension = tuple[tuple[str, str | float], ...]


def symbol_name(symbol: bytes) -> str:
    """A function's name without its module and without what compilers append to it."""
    return symbol.decode("ascii", "replace").split(" ")[0].split(".")[0]


class DropFlows:
    """Makes flows of drop records; remembers places and reasons, which are few.

    ``tables``: those of the flows.
    """

    __slots__ = ("_extensions", "_hubble", "_numbers", "_sites", "_tables")

    def __init__(self, tables: FlowTables) -> None:
        self._tables = tables
        self._forget()

    def _forget(self) -> None:
        self._sites = InternTable(_SITE)
        self._extensions = np.zeros(_MOST_SITES + 1, dtype=np.uint32)
        self._hubble = np.zeros(_MOST_SITES + 1, dtype=np.uint32)
        self._numbers = np.zeros(_MOST_SITES + 1, dtype=np.uint8)

    def flows(
        self,
        drops: Columns,
        verdicts: Columns,
        names: KernelReasons,
        node: int,
        pods: frozenset[int],
    ) -> ProbeFlows:
        """The flow of each DROP_RECORD; ``names`` are the running kernel's.

        ``verdicts``: VERDICT_RECORD rows, which say of some drops which chain decided.
        ``node``: inode of the node's network namespace; ``pods``: its interfaces that lead to
        pods. Numbers of interfaces mean nothing in other namespaces.
        """
        found = empty_flows(len(drops), known_as(drops))
        site = self._sites_of(drops, names)
        flows, key, flow_class = found.flows, found.flows.key, found.flows.flow_class
        version = drops["ip_version"]
        for name in ("source_ip", "destination_ip", "source_mac", "destination_mac"):
            key[name] = drops[name]
        key["ip_version"] = (version == 4) + 2 * (version == 6)
        key["has_ethernet"] = drops["flags"] & HAS_ETHERNET
        l4 = np.where(version != 0, L4_OF[drops["protocol"]], L4_NONE).astype(np.uint8)
        ports = (drops["source_port"] != 0) | (drops["destination_port"] != 0)
        later = (drops["flags"] & IS_FRAGMENT != 0) & ~ports
        l4[later & _WITH_PORTS[l4]] = L4_NONE  # where the ports are is another fragment
        flows.source_port[:] = drops["source_port"]
        flows.destination_port[:] = drops["destination_port"]
        portless = ~_WITH_PORTS[l4]
        flows.source_port[portless] = flows.destination_port[portless] = 0
        reason = self._hubble[site]
        flow_class["event_type"], flow_class["verdict"] = _DROP, _DROPPED
        flow_class["flow_type"], flow_class["origin"] = _L3_L4, ORIGIN_TRACEPOINT
        flow_class["sub_type"] = flow_class["drop_reason"] = reason
        flow_class["own_reason"] = self._numbers[site]
        on_node = drops["netns"] == node
        at_pod = on_node & np.isin(drops["interface"], np.fromiter(pods, np.uint32, len(pods)))
        direction = drops["direction"]
        flow_class["direction"] = np.where(at_pod & (direction != 0), 3 - direction, direction)
        flow_class["ip_version"] = key["ip_version"]
        flow_class["l4"] = l4
        flow_class["interface"] = np.where(on_node, drops["interface"], 0)
        tcp = l4 == L4_TCP
        flow_class["flags"] = tcp * np.uint8(FLAG_TCP_FLAGS)
        flow_class["tcp_flags"] = np.where(tcp, drops["tcp_flags"], 0)
        icmp = (l4 == L4_ICMPV4) | (l4 == L4_ICMPV6)
        chunk = np.where(l4 == L4_SCTP, _CHUNKS[drops["l4_type"]], 0)
        flow_class["l4_type"] = np.where(icmp, drops["l4_type"], chunk)
        flow_class["l4_code"] = np.where(icmp, drops["l4_code"], 0)
        flows.site[:] = self._extensions[site]
        own = names.numbers.get(NETFILTER_DROP)
        decided = decided_by(drops, verdicts, reason=own) if len(verdicts) else {}
        self._set_extensions(found, drops, decided)
        found.time[:] = drops["time_ns"]
        found.packets[:] = drops["segments"]
        found.bytes[:] = drops["length"]
        return found

    def _sites_of(self, drops: Columns, names: KernelReasons) -> U32:
        """Row of ``_sites`` for each drop."""
        if len(self._sites) + len(drops) > _MOST_SITES and len(self._sites) > 1:
            self._forget()
        keys = np.zeros(len(drops), dtype=_SITE)
        for name in ("location", "reason", "hook"):
            keys[name] = drops[name]
        numbers, made = self._sites.lookup(keys)
        if len(made):
            first = dict(zip(numbers[::-1].tolist(), range(len(drops) - 1, -1, -1), strict=True))
            for row in made.tolist():
                self._add(row, drops[first[row]], names)
        return numbers

    def _add(self, row: int, drop: Any, names: KernelReasons) -> None:
        reason, symbol = names.name(int(drop["reason"])), symbol_name(drop["symbol"])
        if reason == NOT_SPECIFIED and symbol == _NETFILTER:  # where it was dropped says why
            reason = NETFILTER_DROP
        if row >= len(self._hubble):
            self._hubble = lengthened(self._hubble, 2 * row)
            self._numbers = lengthened(self._numbers, 2 * row)
            self._extensions = lengthened(self._extensions, 2 * row)
        self._hubble[row] = hubble_reason(reason)
        self._numbers[row] = self._tables.reasons.number(reason)
        fields: list[tuple[str, str | float]] = []
        if symbol:
            fields.append(("location", symbol))
        if drop["hook"]:
            fields.append(("netfilter_hook", HOOKS[drop["hook"]]))
        self._extensions[row] = self._tables.extensions.intern(tuple(fields)) if fields else 0

    def _set_extensions(
        self, found: ProbeFlows, drops: Columns, decided: dict[int, Extension]
    ) -> None:
        """What single drops have to say beyond that; ``decided``: by row, see ``decided_by``."""
        flows = found.flows
        odd = (drops["flags"] & (HAS_VLAN | IS_FRAGMENT) != 0).nonzero()[0].tolist()
        for row in {*odd, *decided}:
            fields = [*self._tables.extensions[flows.site[row]], *decided.get(row, ())]
            drop = drops[row]
            if drop["flags"] & IS_FRAGMENT:
                later = not drop["source_port"] and not drop["destination_port"]
                fields.append(("fragment", "later" if later else "first"))
            if drop["flags"] & HAS_VLAN:
                fields.append(("vlan", float(drop["vlan"] & 0xFFF)))
            flows.extra[row] = {"extension": tuple(sorted(fields))}
            flows.site[row] = 0


def decided_by(
    drops: Columns,
    verdicts: Columns,
    *,
    reason: int | None = None,
    within_ns: int = SAME_DROP_NS,
) -> dict[int, Extension]:
    """Rows of drops, and who decided them: the nearest verdict, and those of the same time.

    A packet's memory is used again at once, so an address alone does not tell. ``reason``: the
    kernel's number of what netfilter drops, None where it has none (before 5.18).
    """
    found: dict[int, Extension] = {}
    candidates = np.isin(drops["packet"], verdicts["packet"])
    if reason is not None:
        candidates &= drops["reason"] == reason
    for row in candidates.nonzero()[0].tolist():
        of_packet = verdicts[verdicts["packet"] == drops["packet"][row]]
        apart = np.abs(of_packet["time_ns"].astype(np.int64) - int(drops["time_ns"][row]))
        nearest = int(apart.argmin())
        if apart[nearest] <= within_ns:
            together = of_packet[of_packet["time_ns"] == of_packet["time_ns"][nearest]]
            words = {word for verdict in together for word in _words(verdict, drops[row])}
            found[row] = tuple(sorted(words))
    return found


def _words(verdict: Any, drop: Any) -> Extension:
    function = VERDICT_FUNCTIONS.get(int(verdict["function"]))
    if function:
        return (("netfilter_function", function),)
    table = ("netfilter_table", verdict["table"].decode("utf-8", "replace"))
    if verdict["function"] == OF_CHAIN:
        return (table, ("netfilter_chain", verdict["chain"].decode("utf-8", "replace")))
    return (table, ("netfilter_chain", HOOKS[drop["hook"]])) if drop["hook"] else (table,)
