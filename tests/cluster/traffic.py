"""Records of packets between given addresses, as Cilium's agent would tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

import numpy as np

from parsers.framing import PAYLOAD_SAMPLE, PayloadBatch

_HEADER, _RECORD = 48, 112


def payloads(pairs: Sequence[tuple[str, str]]) -> PayloadBatch:
    """A SYN from the first to the second address of each pair (``bpf/lib/trace.h`` version 1)."""
    count = len(pairs)
    buffer = np.zeros((count + 2, _RECORD), dtype=np.uint8)
    records = buffer[:count]
    records[:, 0] = 4  # a trace, to an endpoint
    records[:, 12] = _RECORD - _HEADER
    records[:, 14] = 1
    packet = records[:, _HEADER:]
    packet[:, 12] = 8  # IPv4
    packet[:, 14] = 0x45
    packet[:, 17] = 40
    packet[:, 22] = 64
    packet[:, 23] = 6
    for row, (source, destination) in zip(packet, pairs, strict=True):
        row[26:30] = np.frombuffer(IPv4Address(source).packed, dtype=np.uint8)
        row[30:34] = np.frombuffer(IPv4Address(destination).packed, dtype=np.uint8)
    packet[:, 34:38] = (0x9C, 0x40, 0, 80)  # ports 40000 and 80
    packet[:, 46] = 0x50
    packet[:, 47] = 2
    return PayloadBatch(
        buffer.ravel(),
        np.arange(count, dtype=np.int64) * _RECORD,
        np.full(count, _RECORD),
        np.zeros(count, dtype=np.int64),
        np.zeros(count, dtype=np.uint64),
        np.full(count, PAYLOAD_SAMPLE, dtype=np.int64),
        0,
    )
