"""Flows of socket load-balancer records (``trace-sock``).

They carry no packet and no source: the pod is found by the cgroup of its container, the
source port is not known. Two layouts share one number and no version; the release tells
them apart, or else their content does. Rules: Hubble's ``sock`` parser, Cilium 1.20.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.addresses import MAPPED
from parsers.datapath_flows import FIXED, FlowColumns
from parsers.directory import Directory
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    CONVERSATION,
    FLOW_CLASS,
    L4_NONE,
    L4_TCP,
    L4_UDP,
    ORIGIN_CILIUM,
)
from parsers.headers import TRACE_SOCK, Layout

SOCK = 3  # flow.FlowType
_VERDICT = {1: 6, 2: 7, 3: 6, 4: 7}  # xlate point to TRACED, TRANSLATED
_REVERSE_POINTS = (3, 4)
_L4 = {1: L4_TCP, 2: L4_UDP}

# Field to (offset, size), layout C (1.19 on) and layout A (1.13 to 1.18).
_ALIGNED = {"l4": (2, 1), "flags": (3, 1), "port": (4, 2), "cookie": (8, 8), "cgroup": (16, 8),
            "ip": (24, 16), "end": (40, 0)}  # fmt: skip
_PACKED = {"l4": (36, 1), "flags": (37, 1), "port": (18, 2), "cookie": (20, 8), "cgroup": (28, 8),
           "ip": (2, 16), "end": (38, 0)}  # fmt: skip


def sock_flows(
    rows: list[int], records: list[bytes], layout: Layout, directory: Directory
) -> tuple[FlowColumns, dict[int, ProtocolError]]:
    """Flows of the records; the error of each that gives none, by index here."""
    count = len(records)
    key = np.zeros(count, dtype=CONVERSATION)
    flow_class = np.zeros(count, dtype=FLOW_CLASS)
    flow_class["event_type"] = TRACE_SOCK
    flow_class["flow_type"] = SOCK
    flow_class["origin"] = ORIGIN_CILIUM
    flows = FlowColumns(
        np.array(rows, dtype=np.int64),
        key,
        flow_class,
        np.zeros(count, dtype=np.uint16),
        np.zeros(count, dtype=np.uint16),
        np.zeros(count, dtype=np.uint32),
        np.zeros(count, dtype=np.uint16),
        np.full(count, FIXED, dtype=np.uint8),
    )
    errors: dict[int, ProtocolError] = {}
    for index, data in enumerate(records):
        error = _fill(flows, index, data, layout, directory)
        if error is not None:
            errors[index] = error
    return flows, errors


def _fill(
    flows: FlowColumns, index: int, data: bytes, layout: Layout, directory: Directory
) -> ProtocolError | None:
    offsets = _offsets(data, layout)
    if len(data) < offsets["end"][0]:
        return ProtocolError(f"trace-sock record has {len(data)} bytes", error_class="decode")
    value = {
        name: int.from_bytes(data[at : at + size], "little")
        for name, (at, size) in offsets.items()
    }
    ipv6 = bool(value["flags"] & 1)
    at = offsets["ip"][0]
    peer = data[at : at + 16] if ipv6 else MAPPED + data[at : at + 4]
    own = next(
        (a for a in directory.pod_addresses(value["cgroup"]) if a.startswith(MAPPED) != ipv6),
        None,
    )
    if own is None:
        return ProtocolError("trace-sock of an unknown cgroup", error_class="skipped")
    point = data[1]
    source, destination = (peer, own) if point in _REVERSE_POINTS else (own, peer)
    ports = (value["port"], 0) if point in _REVERSE_POINTS else (0, value["port"])
    key = flows.key[index : index + 1]
    key["source_ip"] = np.frombuffer(source, dtype=np.uint8)
    key["destination_ip"] = np.frombuffer(destination, dtype=np.uint8)
    key["ip_version"] = 2 if ipv6 else 1
    row: dict[str, Any] = {
        "sub_type": point,
        "verdict": _VERDICT.get(point, 0),
        "ip_version": 2 if ipv6 else 1,
        "l4": _L4.get(value["l4"], L4_NONE),
    }
    for name, number in row.items():
        flows.flow_class[name][index] = number
    if row["l4"]:
        flows.source_port[index], flows.destination_port[index] = ports
    flows.extra[index] = {
        "socket_cookie": value["cookie"],
        "cgroup_id": value["cgroup"],
        "service_ports": ports,
    }
    return None


def _offsets(data: bytes, layout: Layout) -> dict[str, tuple[int, int]]:
    if layout.sock:
        return _ALIGNED if layout.sock == 40 else _PACKED
    # A live socket's cookie is never 0; in the packed layout these bytes are the
    # rest of an IPv4 address (zero) or of an IPv6 one, and its last two are small.
    aligned = (
        len(data) >= 40 and data[2] <= 2 and data[3] <= 1 and data[6:8] == b"\0\0" and any(data[8:16])
    )
    packed = len(data) >= 38 and data[36] <= 2 and data[37] <= 1
    return _PACKED if packed and not aligned else _ALIGNED
