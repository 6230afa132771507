"""Records of a user's program: laid out as C does, and shown as flows."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from api.hubble.messages import FlowMessages
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from parsers.custom_records import CustomLayout, CustomRecords
from parsers.directory import Directory
from parsers.errors import UsageError
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from parsers.probe_batch import ProbeBatch
from parsers.probe_pipeline import ProbePipeline

RECORD = {
    "time_ns": "u64", "dropped": "u8", "source_ip": "ipv4", "destination_ip": "ipv6",
    "source_port": "u16", "destination_port": "u16", "protocol": "u8", "direction": "u8",
    "packets": "u32", "bytes": "s64", "drop_reason": "text12", "delay_us": "u32",
    "via": "ipv4", "_pad": "u32",
}  # fmt: skip


class Record(ctypes.Structure):
    """The same in C."""

    _fields_ = (
        ("time_ns", ctypes.c_uint64), ("dropped", ctypes.c_uint8), ("source_ip", ctypes.c_uint32),
        ("destination_ip", ctypes.c_uint8 * 16), ("source_port", ctypes.c_uint16),
        ("destination_port", ctypes.c_uint16), ("protocol", ctypes.c_uint8),
        ("direction", ctypes.c_uint8), ("packets", ctypes.c_uint32), ("bytes", ctypes.c_int64),
        ("drop_reason", ctypes.c_char * 12), ("delay_us", ctypes.c_uint32),
        ("via", ctypes.c_uint32), ("pad", ctypes.c_uint32),
    )  # fmt: skip


def test_a_layout_is_that_of_c() -> None:
    layout = CustomLayout.of("mine", RECORD)
    assert layout.dtype.itemsize == ctypes.sizeof(Record)
    assert [layout.dtype.fields[n][1] for n in RECORD] == [  # type: ignore[index]
        getattr(Record, name).offset for name, *_ in Record._fields_
    ]


def test_fields_become_columns_and_the_rest_the_extension() -> None:
    layout = CustomLayout.of("mine", RECORD)
    rows = np.zeros(2, dtype=layout.dtype)
    rows["time_ns"], rows["protocol"], rows["direction"] = [1, 2], 17, [2, 1]
    for field, address in (("source_ip", [10, 0, 0, 1]), ("via", [10, 0, 0, 9])):
        rows[field] = np.array(address, dtype=np.uint8).view("<u4")
    rows["destination_ip"] = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 2])
    rows["source_port"], rows["destination_port"] = 5000, 53
    rows["packets"], rows["bytes"], rows["delay_us"] = 3, 300, 77
    rows["dropped"], rows["drop_reason"] = [0, 1], [b"", b"TOO_LATE"]
    tables, ledger = new_tables(), Ledger()
    monitor = MonitorPipeline(tables, Directory(), ledger)
    pipeline = ProbePipeline(monitor.assembler, monitor.numbers, ledger)
    batch = ProbeBatch(10, custom=(CustomRecords(layout, rows),), seen={"mine": 2})
    flows = pipeline.parse(batch).flows
    passed, dropped = (FlowMessages(tables, LocalNode("n")).flow(flows, i) for i in range(2))
    assert (passed.IP.source, passed.IP.destination) == ("10.0.0.1", "10.0.0.2")
    assert passed.IP.ipVersion == flow_pb2.IPv4
    assert (passed.l4.UDP.source_port, passed.l4.UDP.destination_port) == (5000, 53)
    assert (passed.verdict, dropped.verdict) == (flow_pb2.FORWARDED, flow_pb2.DROPPED)
    assert (passed.traffic_direction, dropped.traffic_direction) == (
        flow_pb2.EGRESS, flow_pb2.INGRESS,
    )  # fmt: skip
    assert dropped.Summary == "UDP; TOO_LATE"
    assert flows.time.tolist() == [11, 12]
    assert flows.packets is not None
    assert flows.packets.tolist() == [3, 3]
    detail = tables.details[int(flows.detail[0])]
    assert detail.extension == (("delay_us", 77.0), ("via", "10.0.0.9"))
    assert ledger.stages["parser"].kinds == {"flows": 2, "no_flow": 0}


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"a": "u65"}, "the field a has no type u65"),
        ({"A b": "u64"}, "'A b' is no name"),
        ({"source_ip": "u64"}, "the field source_ip is ipv4 or ipv6, not u64"),
        ({"drop_reason": "u64"}, "the field drop_reason is text, not u64"),
        ({"a": "u64", "b": "u32"}, ""),
        ({"a": "u32"}, "the record has 4 bytes; fill it up to a multiple of 8"),
        ({}, "the record has 0 bytes"),
        ({"a": "text7"}, "the record has 7 bytes"),
    ],
)
def test_what_is_wrong_with_a_layout_is_said_in_a_sentence(
    record: dict[str, str], complaint: str
) -> None:
    if not complaint:
        assert CustomLayout.of("mine", record).dtype.itemsize == 16
        return
    with pytest.raises(UsageError, match=complaint):
        CustomLayout.of("mine", record)
