"""File names of a drop's source line, by the datapath's file number.

Source: Cilium's ``bpf/lib/source_info.h`` and ``pkg/monitor/api/files.go``. Numbers from
101 on are headers and were given anew in 1.19; a drop record tells its generation by its
version (1: until 1.17, 2: 1.18 and late 1.17, 3: since 1.19), the release tells it better.
"""

from __future__ import annotations

from parsers.headers import Release

_FILES = {
    1: "bpf_host.c", 2: "bpf_lxc.c", 3: "bpf_overlay.c", 4: "bpf_xdp.c",
    5: "bpf_sock.c", 6: "bpf_network.c", 7: "bpf_wireguard.c",
}  # fmt: skip
_HEADERS = {
    (1, 19): (
        "drop.h srv6.h icmp6.h nodeport.h lb.h mcast.h ipv4.h conntrack.h local_delivery.h "
        "trace.h encap.h host_firewall.h nodeport_egress.h ipv6.h classifiers.h"
    ),
    (1, 18): (
        "arp.h drop.h srv6.h icmp6.h nodeport.h lb.h mcast.h ipv4.h conntrack.h "
        "local_delivery.h trace.h encap.h encrypt.h host_firewall.h nodeport_egress.h "
        "ipv6.h classifiers.h"
    ),
    (1, 17): (
        "arp.h drop.h srv6.h icmp6.h nodeport.h lb.h mcast.h ipv4.h conntrack.h l3.h trace.h "
        "encap.h encrypt.h host_firewall.h nodeport_egress.h"
    ),
    (1, 16): (
        "arp.h drop.h srv6.h icmp6.h nodeport.h lb.h mcast.h ipv4.h conntrack.h l3.h trace.h "
        "encap.h encrypt.h"
    ),
    (1, 15): "arp.h drop.h srv6.h icmp6.h nodeport.h lb.h encrypt.h mcast.h",
    (1, 14): "arp.h drop.h srv6.h icmp6.h nodeport.h encrypt.h",
}
_RELEASE_OF_VERSION = {0: (1, 17), 1: (1, 17), 2: (1, 18), 3: (1, 19)}
_WITHOUT_NETWORK = (1, 20)  # bpf_network.c is gone


def file_name(number: int, version: int, release: Release) -> str:
    """The file a drop record's ``file`` means; ``unknown(N)`` when it is none."""
    if release is None:
        release = _RELEASE_OF_VERSION.get(version, (1, 19))
    if number == 6 and release >= _WITHOUT_NETWORK:
        return f"unknown({number})"
    if number < 101:
        return _FILES.get(number, f"unknown({number})")
    generation = max((r for r in _HEADERS if r <= release), default=(1, 14))
    names = _HEADERS[generation].split()
    return names[number - 101] if number - 101 < len(names) else f"unknown({number})"
