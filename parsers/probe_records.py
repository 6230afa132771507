"""Layouts that own probes share with the kernel, and what is made of them.

``FLOW_KEY`` to ``INTERFACE_VALUE`` mirror ``bpf/record.h`` byte for byte (a test compares
them with the objects' type information). ``FLOW_REPORT`` and ``INTERFACE_TOTALS`` are what a
``ProbeBatch`` carries. Integers are little-endian, addresses 16 bytes in network order
with IPv4 as ``::ffff:a.b.c.d``, ports in host order.
"""

from __future__ import annotations

import numpy as np

POINT_INGRESS, POINT_EGRESS = 0, 1
"""As the interface sees it: what a pod sends is ingress at the host's end of its veth."""

KIND_FRAGMENT, KIND_MALFORMED = 1, 2
"""Bits of ``kind``: a later fragment (no ports); a header cut off or without sense."""

TUNNEL_NONE, TUNNEL_VXLAN, TUNNEL_GENEVE, TUNNEL_GRE, TUNNEL_IPIP = range(5)
"""What the packet carries, where its outer header is what is reported."""

CAUSE_SWEEP, CAUSE_FIRST, CAUSE_FLAGS, CAUSE_PACKET = range(4)
"""Why there is a report: the timer, a flow's first packet, SYN, FIN or RST, a sample."""

OPENER_UNKNOWN, OPENER_SOURCE, OPENER_DESTINATION = range(3)
"""Who opened the connection, of a report; proved by a SYN or its answer, never guessed."""

FLOW_KEY = np.dtype(
    [
        ("a", "V16"),
        ("b", "V16"),
        ("aport", "<u2"),
        ("bport", "<u2"),
        ("ifindex", "<u4"),
        ("vlan", "<u2"),
        ("proto", "u1"),
        ("a_leaves", "u1"),
        ("family", "u1"),
        ("tunnel", "u1"),
        ("kind", "u1"),
        ("pad", "u1"),
    ]
)

FLOW_VALUE = np.dtype(
    [
        ("id", "<u8"),
        ("skbs", "<u8", 2),
        ("more_segments", "<u8", 2),
        ("bytes", "<u8", 2),
        ("first_ns", "<u8"),
        ("last_ns", "<u8"),
        ("tcp_flags", "u1", 2),
        ("opener", "u1"),
        ("first", "u1"),
        ("pad", "u1", 4),
        ("received_on", "<u4", 2),
    ]
)

FLOW_EVENT = np.dtype(
    [
        ("time_ns", "<u8"),
        ("id", "<u8"),
        ("key", FLOW_KEY),
        ("bytes", "<u4"),
        ("segments", "<u4"),
        ("received_on", "<u4"),
        ("back", "u1"),
        ("tcp_flags", "u1"),
        ("cause", "u1"),
        ("opener", "u1"),
        ("first", "u1"),
        ("pad", "u1", 7),
    ]
)

INTERFACE_KEY = np.dtype([("ifindex", "<u4"), ("point", "<u4")])

INTERFACE_VALUE = np.dtype(
    [
        ("skbs", "<u8"),
        ("more_segments", "<u8"),
        ("bytes", "<u8"),
        ("inserted", "<u8"),
        ("not_inserted", "<u8"),
        ("folded", "<u8"),
    ]
)

TRANSLATION = np.dtype(
    [
        ("front", "V16"),  # the server's address as the client knows it, if that is another
        ("masked", "V16"),  # the client's address as the server knows it, likewise
        ("front_port", "<u2"),
        ("masked_port", "<u2"),
        ("from_client", "u1"),  # 1 if the packets went to the server; with either of these
        ("more", "u1", 3),
    ]
)
"""What is left of the addresses in the packets, where these are not the real ends."""

FLOW_REPORT = np.dtype(
    [
        ("first_ns", "<u8"),  # boot clock: of the flow's first packet
        ("last_ns", "<u8"),  # boot clock: of the newest packet, to a few ms in sweeps
        ("packets", "<u8"),  # on the wire: segments of segmented packets each count
        ("skbs", "<u8"),  # as the interface's counters count
        ("bytes", "<u8"),  # as the interface counts: with the link header, segments' once
        ("source", "V16"),
        ("destination", "V16"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("ifindex", "<u4"),
        ("received_on", "<u4"),  # by which interface the node got the packets, 0 for its own
        ("ethertype", "<u2"),  # of packets without IP; else 0
        ("vlan", "<u2"),  # the outer tag's network, 0 without one
        ("protocol", "u1"),
        ("point", "u1"),  # POINT_*
        ("family", "u1"),  # 4, 6; 0 without an IP header
        ("tunnel", "u1"),  # TUNNEL_*
        ("kind", "u1"),  # KIND_* bits
        ("tcp_flags", "u1"),  # an event's packet's; in a sweep, all seen so far this way
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("cause", "u1"),  # CAUSE_*
        ("opener", "u1"),  # OPENER_*
        ("first", "u1"),  # 1 if the flow's first packet, as far as we saw, went this way
        ("pad", "u1", 5),
        *TRANSLATION.descr,
    ]
)
"""One direction of one flow: what is new since the last report, never told twice.

The sum of ``skbs`` and ``bytes`` over all reports of an interface is what the interface
counted since it was covered, less what ``ProbeBatch.lost`` has.
"""

INTERFACE_TOTALS = np.dtype(
    [
        ("ifindex", "<u4"),
        ("point", "<u4"),
        ("packets", "<u8"),  # on the wire
        ("skbs", "<u8"),  # as the interface counts
        ("bytes", "<u8"),
    ]
)
"""Since the last drain."""
