"""Records of TCP connections as the flows that a client is shown."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.directory import Directory
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_pipeline import ProbePipeline
from parsers.probe_tcp import (
    ACCEPT_FAILED,
    ACTIVE,
    CONNECT_FAILED,
    PASSIVE,
    RESET_RECEIVED,
    RESET_SENT,
    RETRANSMIT,
    ROLE_UNKNOWN,
    STATE,
    TCP_RECORD,
    event_name,
    tcp_flows,
)
from parsers.windows import Columns

LOCAL, REMOTE = "10.0.0.1", "10.0.0.2"
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT2, CLOSE = 1, 2, 3, 5, 7  # tcp_states.h


def event(kind: int, **fields: Any) -> Columns:
    """Something about a connection from LOCAL:40000 to REMOTE:443."""
    row = np.zeros(1, dtype=TCP_RECORD)
    for name, text in (("local_ip", LOCAL), ("remote_ip", REMOTE)):
        row[name] = np.frombuffer(bytes(10) + b"\xff\xff" + ip_address(text).packed, np.uint8)
    row["kind"], row["ip_version"], row["local_port"], row["remote_port"] = kind, 4, 40000, 443
    row["old_state"] = row["state"] = ESTABLISHED
    for name, value in fields.items():
        row[name] = value
    return row


def shown(*events: Columns) -> list[flow_pb2.Flow]:
    tables = new_tables()
    monitor = MonitorPipeline(tables, Directory(), Ledger())
    pipeline = ProbePipeline(monitor.assembler, monitor.numbers, monitor.ledger)
    batch = pipeline.parse(ProbeBatch(0, tcp=np.concatenate(events))).flows
    messages = FlowMessages(tables, LocalNode("node"))
    return [messages.flow(batch, row) for row in range(len(batch))]


def words(record: Columns, reasons: dict[int, str] | None = None) -> dict[str, Any]:
    """The flow's extension."""
    ((_, extensions),) = tcp_flows(record, reasons or {}).flows.extensions
    return dict(extensions[0])


def test_a_retransmit_is_traced_and_comes_from_who_sent_it() -> None:
    (flow,) = shown(event(RETRANSMIT, tcp_flags=0x18, role=ACTIVE))
    assert flow.verdict == flow_pb2.TRACED
    assert flow.Type == flow_pb2.SOCK
    assert (flow.IP.source, flow.IP.destination) == (LOCAL, REMOTE)
    assert (flow.l4.TCP.source_port, flow.l4.TCP.destination_port) == (40000, 443)
    assert flow.traffic_direction == flow_pb2.EGRESS
    assert flow.HasField("is_reply")
    assert not flow.is_reply.value


@pytest.mark.parametrize(
    ("kind", "role", "state", "source", "is_reply", "direction"),
    [
        (RETRANSMIT, PASSIVE, ESTABLISHED, LOCAL, True, flow_pb2.INGRESS),
        (RETRANSMIT, ROLE_UNKNOWN, SYN_SENT, LOCAL, False, flow_pb2.EGRESS),
        (RETRANSMIT, ROLE_UNKNOWN, ESTABLISHED, LOCAL, None, 0),
        (RESET_SENT, ACTIVE, ESTABLISHED, LOCAL, False, flow_pb2.EGRESS),
        (RESET_RECEIVED, ACTIVE, ESTABLISHED, REMOTE, True, flow_pb2.EGRESS),
        (RESET_RECEIVED, PASSIVE, ESTABLISHED, REMOTE, False, flow_pb2.INGRESS),
        (STATE, ACTIVE, ESTABLISHED, LOCAL, False, flow_pb2.EGRESS),
        (STATE, PASSIVE, ESTABLISHED, REMOTE, False, flow_pb2.INGRESS),
    ],
)
def test_the_source_and_the_direction_follow_from_who_did_it_and_who_opened(
    kind: int, role: int, state: int, source: str, is_reply: bool | None, direction: int
) -> None:
    (flow,) = shown(event(kind, role=role, old_state=state, state=state))
    assert flow.IP.source == source
    assert (flow.l4.TCP.source_port == 40000) == (source == LOCAL)
    assert (flow.is_reply.value if flow.HasField("is_reply") else None) == is_reply
    assert flow.traffic_direction == direction


@pytest.mark.parametrize(
    ("kind", "old_state", "state", "name"),
    [
        (RETRANSMIT, ESTABLISHED, ESTABLISHED, "retransmit"),
        (RESET_SENT, ESTABLISHED, ESTABLISHED, "reset_sent"),
        (RESET_RECEIVED, ESTABLISHED, ESTABLISHED, "reset_received"),
        (STATE, SYN_SENT, ESTABLISHED, "open"),
        (STATE, SYN_RECV, ESTABLISHED, "open"),
        (STATE, SYN_SENT, CLOSE, "open_failed"),
        (STATE, FIN_WAIT2, CLOSE, "close"),
        (STATE, ESTABLISHED, FIN_WAIT2, "state"),
        (77, 0, 0, "event_77"),
    ],
)
def test_what_happened_has_a_name(kind: int, old_state: int, state: int, name: str) -> None:
    assert event_name(kind, old_state, state) == name
    assert words(event(kind, old_state=old_state, state=state))["tcp_event"] == name


def test_the_extension_says_what_the_kernel_knows_of_the_connection() -> None:
    closed = event(
        STATE, old_state=FIN_WAIT2, state=CLOSE, rtt_us=250, retransmitted=3, duration_ns=5_000_000,
    )  # fmt: skip
    assert words(closed) == {
        "tcp_event": "close", "rtt_us": 250.0, "retransmitted": 3.0, "duration_us": 5000.0,
        "old_state": "FIN_WAIT2", "state": "CLOSE",
    }  # fmt: skip


def test_reasons_of_resets_have_the_kernels_names_and_unknown_ones_their_number() -> None:
    names = {17: "TCP_ABORT_ON_CLOSE"}
    assert words(event(RESET_SENT, reset_reason=17), names)["reset_reason"] == "TCP_ABORT_ON_CLOSE"
    assert words(event(RESET_SENT, reset_reason=18), names)["reset_reason"] == "reason_18"


def test_calls_that_failed_say_why() -> None:
    connect = event(CONNECT_FAILED, role=ACTIVE, error=101, old_state=0, state=0)
    accept = event(ACCEPT_FAILED, role=PASSIVE, error=24, remote_ip=0, remote_port=0)
    assert words(connect) == {"tcp_event": "connect_failed", "errno": "ENETUNREACH"}
    assert words(accept)["errno"] == "EMFILE"
    failed, refused = shown(connect, accept)
    assert (failed.IP.source, failed.IP.destination) == (LOCAL, REMOTE)
    assert (refused.IP.source, refused.IP.destination) == ("", LOCAL)
    assert refused.l4.TCP.destination_port == 40000
    assert not failed.l4.TCP.HasField("flags")


def test_unknown_states_are_shown_as_their_number() -> None:
    assert words(event(STATE, old_state=200, state=201)) == {
        "tcp_event": "state", "old_state": "state_200", "state": "state_201",
    }  # fmt: skip
