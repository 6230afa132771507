"""A storm: every record another tuple of addresses, identity, ports, ICMP code and interface.

What record ``n`` says follows from ``n`` by the arithmetic here, so a test can tell what the
flow with that number has to be, however much was forgotten in between. A record is a trace
or drop header (``bpf/lib/trace.h`` version 1, ``drop.h`` version 1), Ethernet, IPv4, and
TCP or ICMP.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.directory import Directory, LocalEndpoint
from parsers.framing import PAYLOAD_SAMPLE, PayloadBatch

PODS, SITES, NAME_EVERY = 1000, 3000, 8
RELEASE = (1, 19)
_TRACE_HEADER, _DROP_HEADER, _RECORD = 48, 36, 112
_SOURCES, _PODS = int(IPv4Address("10.0.0.0")), int(IPv4Address("172.16.0.0"))


def source_ip(number: Any) -> Any:
    """As a number; another one for each of 2**24 records."""
    return _SOURCES + number


def pod(number: Any) -> Any:
    """Index of the pod the record is sent to."""
    return number * 7 % PODS


def ports(number: Any) -> tuple[Any, Any]:
    """Of a TCP record."""
    return 1 + number % 65_521, 1 + number % 9973


def icmp(number: Any) -> tuple[Any, Any]:
    """Type and code of an ICMP record."""
    return number % 251, number >> 3 & 255


def identity(number: Any) -> Any:
    """Of the source, which no one has heard of."""
    return 1000 + number


def interface(number: Any) -> Any:
    """Index of the interface in a trace record."""
    return 1 + number


def line(number: Any) -> Any:
    """Of the drop site of a dropped record, in ``bpf_host.c``."""
    return 1 + number % SITES


def is_drop(number: Any) -> Any:
    """Whether the record is a drop."""
    return number % 5 == 0


def is_icmp(number: Any) -> Any:
    """Whether the packet is ICMP; else it is TCP."""
    return number % 3 == 0


def name_of(number: int) -> tuple[str, ...]:
    """The DNS names of the source."""
    return () if number % NAME_EVERY else (f"host-{number}.example",)


def directory(records: int) -> Directory:
    """Who is who in a storm of so many records."""
    known = Directory()
    for index in range(PODS):
        endpoint = LocalEndpoint(id=1 + index, identity=500, pod_name=f"pod-{index}")
        known.set_endpoint(endpoint, (_mapped(_PODS + index),), since=0)
    known.set_names(
        {
            (1 + pod(number), _mapped(source_ip(number))): name_of(number)
            for number in range(0, records, NAME_EVERY)
        }
    )
    return known


def payloads(start: int, stop: int) -> PayloadBatch:
    """Records ``start`` to ``stop``, as framing would hand them over."""
    number = np.arange(start, stop, dtype=np.int64)
    count = len(number)
    buffer = np.zeros((count + 2, _RECORD), dtype=np.uint8)
    records = buffer[:count]
    drop, ping = is_drop(number), is_icmp(number)
    header = np.where(drop, _DROP_HEADER, _TRACE_HEADER)
    records[:, 0] = np.where(drop, 1, 4)
    records[:, 1] = np.where(drop, 133, 0)  # policy denied; to an endpoint
    _put(records, 12, np.full(count, _RECORD - _TRACE_HEADER), "<u2")
    records[:, 14] = 1
    _put(records, 16, identity(number), "<u4")
    _put(records, 20, np.full(count, 500), "<u4")
    _put(records, 24, 1 + pod(number), "<u2")
    # A drop's line (16 bits) and file (1 is bpf_host.c) stand where a trace has its interface.
    _put(records, 28, np.where(drop, 1 << 16 | line(number), interface(number)), "<u4")
    for rows, length in ((drop, _DROP_HEADER), (~drop, _TRACE_HEADER)):
        packet = records[rows, length:]
        _fill_packet(packet, number[rows], ping[rows])
        records[rows, length:] = packet
    return PayloadBatch(
        buffer.ravel(),
        np.arange(count, dtype=np.int64) * _RECORD,
        np.where(drop, header + _RECORD - _TRACE_HEADER, _RECORD),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.uint64),
        np.full(count, PAYLOAD_SAMPLE, dtype=np.int64),
        0,
    )


def _fill_packet(packet: NDArray[np.uint8], number: NDArray[np.int64], ping: Any) -> None:
    packet[:, 12] = 8  # IPv4
    packet[:, 14] = 0x45
    _put(packet, 16, np.full(len(number), 40), ">u2")
    packet[:, 22] = 64
    packet[:, 23] = np.where(ping, 1, 6)
    _put(packet, 26, source_ip(number), ">u4")
    _put(packet, 30, _PODS + pod(number), ">u4")
    source, destination = ports(number)
    kind, code = icmp(number)
    _put(packet, 34, np.where(ping, kind << 8 | code, source), ">u2")
    _put(packet, 36, np.where(ping, 0, destination), ">u2")
    packet[:, 46] = np.where(ping, 0, 0x50)
    packet[:, 47] = np.where(ping, 0, 2)  # SYN


def _put(rows: NDArray[np.uint8], at: int, values: NDArray[Any], dtype: str) -> None:
    width = np.dtype(dtype).itemsize
    rows[:, at : at + width] = values.astype(dtype).view(np.uint8).reshape(len(rows), width)


def _mapped(address: int) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + address.to_bytes(4, "big")
