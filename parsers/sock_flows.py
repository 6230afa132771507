"""Flows of socket load-balancer records (``trace-sock``).

They carry no packet and no source: the pod is found by the cgroup of its container, the
source port is not known. Two layouts share one number and no version; the release tells
them apart, or else their content does. Rules: Hubble's ``sock`` parser, Cilium 1.20.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parsers.addresses import MAPPED
from parsers.directory import Directory
from parsers.errors import ProtocolError
from parsers.flow_batch import CONVERSATION, FLOW_CLASS, L4_TCP, L4_UDP, ORIGIN_CILIUM
from parsers.flow_columns import FIXED, FlowColumns
from parsers.headers import TRACE_SOCK, Layout
from parsers.windows import Columns

SOCK = 3  # flow.FlowType
RECORD_WINDOW = 40

_FIELDS = ["point", "l4", "flags", "port", "cookie", "cgroup", "ip"]
_FORMATS = ["u1", "u1", "u1", "<u2", "<u8", "<u8", ("u1", (16,))]
_ALIGNED = np.dtype(  # 40 bytes, Cilium 1.19 on
    {"names": _FIELDS, "formats": _FORMATS, "offsets": [1, 2, 3, 4, 8, 16, 24], "itemsize": 40}
)
_PACKED = np.dtype(  # 38 bytes, Cilium 1.13 to 1.18
    {"names": _FIELDS, "formats": _FORMATS, "offsets": [1, 36, 37, 18, 20, 28, 2], "itemsize": 40}
)

# By xlate point: flow.Verdict (TRACED before, TRANSLATED after), and whether it is a reply's.
_VERDICT = np.zeros(256, dtype=np.uint8)
_VERDICT[1:5] = [6, 7, 6, 7]
_REVERSE = np.zeros(256, dtype=np.bool_)
_REVERSE[[3, 4]] = True
_L4 = np.zeros(256, dtype=np.uint8)
_L4[1:3] = [L4_TCP, L4_UDP]

_NOBODY = bytes(16)
_FEW_PROTOCOLS = 8  # numbers of layer 4: 0 to 2 today


def sock_flows(
    rows: NDArray[np.int64],
    windows: Columns,
    length: NDArray[np.int64],
    layout: Layout,
    directory: Directory,
) -> tuple[FlowColumns, dict[int, ProtocolError]]:
    """Flows of the records at ``rows``, and the error of each row that gives none.

    ``windows``: the first 40 bytes of each record (``V40``); ``length``: its size.
    """
    count = len(rows)
    packed = _are_packed(windows, length, layout)
    aligned_view, packed_view = windows.view(_ALIGNED), windows.view(_PACKED)
    if packed.all() or not packed.any():
        fields = packed_view if count and packed[0] else aligned_view
    else:
        # Both at once: an agent of another release attached some of the programs.
        fields = np.zeros(count, dtype=_ALIGNED)
        for name in _FIELDS:
            chosen = packed[:, None] if fields[name].ndim == 2 else packed
            fields[name] = np.where(chosen, packed_view[name], aligned_view[name])
    point, ipv6 = fields["point"], fields["flags"] & 1 != 0
    key = np.zeros(count, dtype=CONVERSATION)
    errors: dict[int, ProtocolError] = {}
    cgroups = zip(fields["cgroup"].tolist(), ipv6.tolist(), strict=True)
    found = [_pod_address(directory, cgroup, v6) for cgroup, v6 in cgroups]
    if None in found:
        for index, address in enumerate(found):
            if address is None:
                text = "trace-sock of an unknown cgroup"
                errors[index] = ProtocolError(text, error_class="skipped")
    raw = b"".join([address or _NOBODY for address in found])
    own = np.frombuffer(raw, dtype=np.uint8).reshape(count, 16)
    for index in (length < np.where(packed, 38, 40)).nonzero()[0].tolist():
        errors[index] = ProtocolError(f"trace-sock record has {length[index]} bytes")
    peer = np.where(ipv6[:, None], fields["ip"], 0)
    peer[~ipv6, 10:12] = 0xFF
    peer[~ipv6, 12:] = fields["ip"][~ipv6, :4]
    reverse = _REVERSE[point]
    key["source_ip"] = np.where(reverse[:, None], peer, own)
    key["destination_ip"] = np.where(reverse[:, None], own, peer)
    key["ip_version"] = 1 + ipv6
    flow_class = np.zeros(count, dtype=FLOW_CLASS)
    flow_class["event_type"] = TRACE_SOCK
    flow_class["sub_type"] = point
    flow_class["verdict"] = _VERDICT[point]
    flow_class["flow_type"] = SOCK
    flow_class["ip_version"] = 1 + ipv6
    flow_class["l4"] = _L4[fields["l4"]]
    flow_class["origin"] = ORIGIN_CILIUM
    known = flow_class["l4"] != 0
    port = fields["port"].astype(np.uint16)
    source_port, destination_port = np.where(reverse, port, 0), np.where(reverse, 0, port)
    # Services are looked up by port even where no layer 4 is printed.
    extra = {
        index: {"socket_cookie": cookie, "cgroup_id": cgroup, "service_ports": (source, target)}
        for index, (cookie, cgroup, source, target) in enumerate(
            zip(
                fields["cookie"].tolist(),
                fields["cgroup"].tolist(),
                source_port.tolist(),
                destination_port.tolist(),
                strict=True,
            )
        )
    }
    return FlowColumns(
        rows,
        key,
        flow_class,
        np.where(known, source_port, 0),
        np.where(known, destination_port, 0),
        np.zeros(count, dtype=np.uint32),
        np.zeros(count, dtype=np.uint16),
        np.full(count, FIXED, dtype=np.uint8),
        extra,
    ), errors


def _pod_address(directory: Directory, cgroup: int, ipv6: bool) -> bytes | None:
    for address in directory.pod_addresses(cgroup):
        if address.startswith(MAPPED) != ipv6:
            return address
    return None


def _are_packed(windows: Columns, length: NDArray[np.int64], layout: Layout) -> NDArray[np.bool_]:
    if layout.sock:
        return np.full(len(windows), layout.sock == 38)
    # A live socket's cookie is never 0; in the packed layout these bytes are the
    # rest of an IPv4 address (zero) or of an IPv6 one, which begins with 0x20 or more.
    # Nor is the cgroup's id, whose place in the packed layout an aligned IPv4 record has zero.
    raw = windows.view(np.uint8).reshape(len(windows), RECORD_WINDOW)
    aligned = (length >= 40) & (raw[:, 2] < _FEW_PROTOCOLS) & (raw[:, 3] <= 1)
    aligned &= ~raw[:, 6:8].any(axis=1) & raw[:, 8:16].any(axis=1)
    packed: NDArray[np.bool_] = ~aligned & (length >= 38)
    packed &= (raw[:, 36] < _FEW_PROTOCOLS) & (raw[:, 37] <= 1)
    packed &= raw[:, 28:36].any(axis=1)
    return packed
