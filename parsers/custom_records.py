"""Records of programs that a user brings: their layout by names and types, and their flows.

A layout is the program's C struct, field by field; it lies as C would lay it. Fields with the
names of ``COLUMNS`` become what these say, those that begin with ``_`` are padding, and all
others go into the flow's extension by their own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from parsers.addresses import MAPPED, address_text
from parsers.errors import UsageError
from parsers.flow_batch import (
    ABSENT_DESTINATION,
    ABSENT_SOURCE,
    FLAG_TCP_FLAGS,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    ORIGIN_TRACEPOINT,
)
from parsers.flow_columns import EGRESS, INGRESS
from parsers.probe_flows import ProbeFlows, empty_flows, packet_counts
from parsers.probe_traffic import FORWARDED, FROM_NETWORK, L3_L4, L4_OF, TO_NETWORK, TRACE
from parsers.reason_names import ReasonNames
from parsers.windows import Columns

_NUMBERS = MappingProxyType(
    {"u8": "u1", "u16": "<u2", "u32": "<u4", "u64": "<u8",
     "s8": "i1", "s16": "<i2", "s32": "<i4", "s64": "<i8"}
)  # fmt: skip
_ADDRESSES = MappingProxyType({"ipv4": "<u4", "ipv6": "V16"})
_TEXT = re.compile(r"text([1-9][0-9]{0,2})")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")

_ADDRESS = ("ipv4", "ipv6")
_ANY_NUMBER = tuple(_NUMBERS)
COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "time_ns": ("u64",),  # bpf_ktime_get_boot_ns()
        "source_ip": _ADDRESS,
        "destination_ip": _ADDRESS,
        "source_port": ("u16",),  # host order
        "destination_port": ("u16",),
        "protocol": ("u8",),  # as in an IP header
        "tcp_flags": ("u8", "u16"),
        "direction": ("u8",),  # 1 ingress, 2 egress, 0 unknown
        "interface": ("u32",),  # ifindex
        "packets": _ANY_NUMBER,
        "bytes": _ANY_NUMBER,
        "dropped": ("u8",),  # not 0: the packet was
        "drop_reason": ("text",),
    }
)
"""What a field of that name means, and the types it may have."""

_DROP, _DROPPED = 1, 2


@dataclass(frozen=True, slots=True)
class CustomLayout:
    """Of the probe ``name``; ``types`` by field, ``dtype`` as C lays it."""

    name: str
    types: Mapping[str, str]
    dtype: np.dtype[np.void]

    @classmethod
    def of(cls, name: str, types: Mapping[str, str]) -> CustomLayout:
        """Raises ``UsageError`` with what is wrong with a field, or with the record's size."""
        formats = []
        for field, kind in types.items():
            formats.append((field, _format(field, kind)))
            wanted = COLUMNS.get(field)
            if wanted is not None and not _is_one_of(kind, wanted):
                raise UsageError(f"the field {field} is {' or '.join(wanted)}, not {kind}")
        dtype = np.dtype(formats, align=True)
        size = dtype.itemsize
        if not size or size % 8:
            missing = -size % 8 or 8
            raise UsageError(
                f"the record has {size} bytes; fill it up to a multiple of 8, in the program as "
                f"well, with fields such as _pad: {'u32' if missing == 4 else f'text{missing}'}"
            )
        return cls(name, MappingProxyType(dict(types)), dtype)


@dataclass(frozen=True, slots=True)
class CustomRecords:
    """What a user's program told: rows of ``layout.dtype``."""

    layout: CustomLayout
    rows: Columns

    def __len__(self) -> int:
        return len(self.rows)


def custom_flows(records: CustomRecords, now_ns: int, reasons: ReasonNames) -> ProbeFlows:
    """The flow of each record; ``now_ns`` (boot clock) for those that have no time."""
    rows, types = records.rows, records.layout.types
    found = empty_flows(len(rows))
    flows, key, flow_class = found.flows, found.flows.key, found.flows.flow_class
    found.time[:] = rows["time_ns"] if "time_ns" in types else now_ns
    is_v6 = np.zeros(len(rows), dtype=np.bool_)
    for side, absent in (("source", ABSENT_SOURCE), ("destination", ABSENT_DESTINATION)):
        field = f"{side}_ip"
        if field not in types:
            key["absent"] |= absent
            continue
        addresses = _addresses(rows[field], types[field])
        key[field] = addresses
        is_v6 |= (addresses[:, :12] != np.frombuffer(MAPPED, dtype=np.uint8)).any(axis=1)
    has_ip = "source_ip" in types or "destination_ip" in types
    key["ip_version"] = flow_class["ip_version"] = (1 + is_v6) * has_ip
    flow_class["flow_type"], flow_class["origin"] = L3_L4, ORIGIN_TRACEPOINT
    if "protocol" in types:
        flow_class["l4"] = L4_OF[rows["protocol"]]
    l4 = flow_class["l4"]
    with_ports = (l4 == L4_TCP) | (l4 == L4_UDP) | (l4 == L4_SCTP)
    for side in ("source", "destination"):
        if f"{side}_port" in types:
            getattr(flows, f"{side}_port")[:] = rows[f"{side}_port"] * with_ports
    if "tcp_flags" in types:
        flow_class["flags"] = (l4 == L4_TCP) * np.uint8(FLAG_TCP_FLAGS)
        flow_class["tcp_flags"] = rows["tcp_flags"] * (l4 == L4_TCP)
    if "direction" in types:
        known = np.isin(rows["direction"], (INGRESS, EGRESS))
        flow_class["direction"] = np.where(known, rows["direction"], 0)
    if "interface" in types:
        flow_class["interface"] = rows["interface"]
    found.packets[:] = packet_counts(_counts(rows, types, "packets"))
    found.bytes[:] = _counts(rows, types, "bytes")
    _set_verdicts(found, rows, types, reasons)
    _set_extensions(found, rows, types)
    return found


def _format(field: str, kind: str) -> str:
    if not _NAME.fullmatch(field):
        raise UsageError(f"{field!r} is no name for a field; use small letters, digits and _")
    text = _TEXT.fullmatch(kind)
    if text is not None:
        return f"S{text[1]}"
    found = _NUMBERS.get(kind) or _ADDRESSES.get(kind)
    if found is None:
        known = ", ".join((*_NUMBERS, *_ADDRESSES))
        raise UsageError(f"the field {field} has no type {kind}; there are {known}, and textN")
    return found


def _is_one_of(kind: str, wanted: Iterable[str]) -> bool:
    return kind in wanted or ("text" in wanted and _TEXT.fullmatch(kind) is not None)


def _addresses(values: Columns, kind: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(n, 16) in network order."""
    if kind == "ipv6":
        return np.ascontiguousarray(values).view(np.uint8).reshape(-1, 16)
    found = np.empty((len(values), 16), dtype=np.uint8)
    found[:, :12] = np.frombuffer(MAPPED, dtype=np.uint8)
    found[:, 12:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 4)
    return found


def _counts(rows: Columns, types: Mapping[str, str], field: str) -> Any:
    return np.maximum(rows[field], 0).astype(np.uint64) if field in types else np.uint64(0)


def _set_verdicts(
    found: ProbeFlows, rows: Columns, types: Mapping[str, str], reasons: ReasonNames
) -> None:
    flow_class = found.flows.flow_class
    dropped = rows["dropped"] != 0 if "dropped" in types else np.zeros(len(rows), dtype=np.bool_)
    flow_class["event_type"] = np.where(dropped, _DROP, TRACE)
    flow_class["verdict"] = np.where(dropped, _DROPPED, FORWARDED)
    inward = flow_class["direction"] == INGRESS
    flow_class["sub_type"] = np.where(dropped, 0, np.where(inward, FROM_NETWORK, TO_NETWORK))
    if "drop_reason" in types:
        for row in dropped.nonzero()[0].tolist():
            name = _text(rows["drop_reason"][row])
            flow_class["own_reason"][row] = reasons.number(name)


def _set_extensions(found: ProbeFlows, rows: Columns, types: Mapping[str, str]) -> None:
    """What has no column."""
    own = sorted(name for name in types if name not in COLUMNS and not name.startswith("_"))
    if not own:
        return
    told = zip(*(_printed(rows[name], types[name]) for name in own), strict=True)
    for row, values in enumerate(told):
        found.flows.extra[row] = {"extension": tuple(zip(own, values, strict=True))}


def _printed(values: Columns, kind: str) -> list[str] | list[float]:
    if kind in _ADDRESSES:
        return [address_text(address.tobytes()) for address in _addresses(values, kind)]
    if kind in _NUMBERS:
        return [float(value) for value in values.tolist()]
    return [_text(value) for value in values.tolist()]


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="replace")
