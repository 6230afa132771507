"""Flows of what happens to TCP connections: retransmits, resets, opens, closes, failed calls.

The kernel tells these of sockets and not of packets, so the flows are Hubble's SOCK type
with the verdict TRACED, and count in no packet metric. What happened has no place in the
API; it stands in the flow's extension (``tcp_event``) with the round-trip time and what
else the kernel knows.

The source of a retransmit or of a reset is who sent it. The source of an open or a close is
who opened the connection, where that was seen; else the local end.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.details import Extension, Extensions
from parsers.flow_batch import (
    ABSENT_SOURCE,
    FLAG_TCP_FLAGS,
    L4_TCP,
    ORIGIN_TRACEPOINT,
    REPLY_FALSE,
    REPLY_TRUE,
    REPLY_UNKNOWN,
)
from parsers.flow_columns import EGRESS, INGRESS
from parsers.probe_flows import ProbeFlows, empty_flows
from parsers.probe_translation import known_as
from parsers.windows import Columns

RETRANSMIT, RESET_SENT, RESET_RECEIVED, STATE, CONNECT_FAILED, ACCEPT_FAILED = 1, 2, 3, 4, 5, 6
"""``kind``."""

ROLE_UNKNOWN, ACTIVE, PASSIVE = range(3)
"""``role`` of the local end: whether it opened the connection."""

TCP_RECORD = np.dtype(
    [
        ("time_ns", "<u8"),  # boot clock
        ("socket", "<u8"),  # its address joins what happens to one connection
        ("duration_ns", "<u8"),  # since it was established, where that was seen
        ("netns", "<u4"),  # inode of the network namespace
        ("rtt_us", "<u4"),  # smoothed round trip, 0 before the first
        ("segments", "<u4"),  # sent again
        ("retransmitted", "<u4"),  # segments of the connection so far
        ("reset_reason", "<u4"),  # the running kernel's number
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("local_ip", "u1", (16,)),
        ("remote_ip", "u1", (16,)),
        ("tcp_flags", "<u2"),
        ("error", "<u2"),  # errno of what failed
        ("kind", "u1"),
        ("old_state", "u1"),
        ("state", "u1"),  # index of STATES
        ("role", "u1"),
        ("ip_version", "u1"),
        ("reserved", "u1", (7,)),
    ]
)
"""``struct tcp_record`` of ``bpf/tcp.h``."""

STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE",
    "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV", "BOUND_INACTIVE",
)  # fmt: skip
"""Kernel ``include/net/tcp_states.h``."""

_ESTABLISHED, _SYN_SENT, _SYN_RECEIVED, _CLOSED = 1, 2, 3, 7
_TRACE_SOCK, _TRACED, _SOCK = 7, 6, 3  # monitor message type, flow.Verdict, flow.FlowType
_EVENTS = {
    RETRANSMIT: "retransmit", RESET_SENT: "reset_sent", RESET_RECEIVED: "reset_received",
    CONNECT_FAILED: "connect_failed", ACCEPT_FAILED: "accept_failed",
}  # fmt: skip


def tcp_flows(records: Columns, reset_reasons: Mapping[int, str]) -> ProbeFlows:
    """The flow of each TCP_RECORD; ``reset_reasons`` are the running kernel's, by number."""
    told, from_remote = known_as(records), _from_remote(records)
    if len(told):
        told["from_client"] ^= from_remote
    found = empty_flows(len(records), told)
    flows, key, flow_class = found.flows, found.flows.key, found.flows.flow_class
    kind = records["kind"]
    unknown = records["role"] == ROLE_UNKNOWN
    role = np.where(unknown & (records["old_state"] == _SYN_SENT), ACTIVE, records["role"])
    for side, near, far in (
        ("source", "local", "remote"),
        ("destination", "remote", "local"),
    ):
        key[f"{side}_ip"] = np.where(
            from_remote[:, None], records[f"{far}_ip"], records[f"{near}_ip"]
        )
        getattr(flows, f"{side}_port")[:] = np.where(
            from_remote, records[f"{far}_port"], records[f"{near}_port"]
        )
    version = (records["ip_version"] == 4) + 2 * (records["ip_version"] == 6)
    key["ip_version"] = flow_class["ip_version"] = version
    key["absent"] = (kind == ACCEPT_FAILED) * np.uint16(ABSENT_SOURCE)  # nobody came
    flow_class["event_type"], flow_class["verdict"] = _TRACE_SOCK, _TRACED
    flow_class["flow_type"], flow_class["origin"] = _SOCK, ORIGIN_TRACEPOINT
    flow_class["l4"] = L4_TCP
    # whether the source is who opened the connection
    of_opener = (role == ACTIVE) ^ from_remote
    flow_class["is_reply"] = np.where(
        role == ROLE_UNKNOWN, REPLY_UNKNOWN, np.where(of_opener, REPLY_FALSE, REPLY_TRUE)
    )
    flow_class["direction"] = np.where(
        role == ROLE_UNKNOWN, 0, np.where(role == ACTIVE, EGRESS, INGRESS)
    )
    of_segment = kind <= RESET_RECEIVED
    flow_class["flags"] = of_segment * np.uint8(FLAG_TCP_FLAGS)
    flow_class["tcp_flags"] = np.where(of_segment, records["tcp_flags"] & 0x1FF, 0)
    read = partial(_extension, reset_reasons=reset_reasons)
    translated = np.zeros(len(records), np.bool_)
    if len(told):
        translated = (told["front_port"] | told["masked_port"]) != 0
    for row in translated.nonzero()[0].tolist():  # these have more to say
        flows.extra[row] = {"extension": read(records[row])}
    others = (~translated).nonzero()[0]
    flows.extensions.append((others, Extensions(records[others], read)))
    found.time[:] = records["time_ns"]
    return found


def _from_remote(records: Columns) -> NDArray[np.bool_]:
    kind = records["kind"]
    opened_there = (kind == STATE) & (records["role"] == PASSIVE)
    found: NDArray[np.bool_] = (kind == RESET_RECEIVED) | (kind == ACCEPT_FAILED) | opened_there
    return found


def event_name(kind: int, old_state: int, state: int) -> str:
    """What happened: ``retransmit``, ``open``, ``open_failed``, ``close``, …"""
    if kind != STATE:
        return _EVENTS.get(kind, f"event_{kind}")
    if state == _ESTABLISHED:
        return "open"
    if state != _CLOSED:
        return "state"
    return "open_failed" if old_state in (_SYN_SENT, _SYN_RECEIVED) else "close"


def _extension(record: Any, reset_reasons: Mapping[int, str]) -> Extension:
    kind, old_state, state = int(record["kind"]), int(record["old_state"]), int(record["state"])
    fields: dict[str, str | float] = {"tcp_event": event_name(kind, old_state, state)}
    for name in ("rtt_us", "retransmitted", "segments"):
        if record[name]:
            fields[name] = float(record[name])
    if record["duration_ns"]:
        fields["duration_us"] = float(record["duration_ns"] // 1000)
    if kind == STATE:
        fields["old_state"], fields["state"] = state_name(old_state), state_name(state)
    elif state:
        fields["state"] = state_name(state)
    if record["error"]:
        fields["errno"] = errno_name(int(record["error"]))
    if record["reset_reason"]:
        number = int(record["reset_reason"])
        fields["reset_reason"] = reset_reasons.get(number, f"reason_{number}")
    return tuple(sorted(fields.items()))


def state_name(state: int) -> str:
    """As netstat and ss know them."""
    return STATES[state] if 0 < state < len(STATES) else f"state_{state}"


def errno_name(number: int) -> str:
    """``ENETUNREACH``; Linux's numbers are those of the machine that asks."""
    return errno.errorcode.get(number, str(number))
