"""Sides of flows that have no name are counted by why."""

from __future__ import annotations

import numpy as np

from api.metrics.names import UnnamedSides
from parsers.addresses import parse_address
from parsers.directory import NOT_IN_SCOPE, AddressRecord, Directory, LocalEndpoint
from parsers.flow_batch import ABSENT_DESTINATION, CONVERSATION, FlowBatch
from tests.api.metrics.recorded_flows import new_tables


def packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


def counted(directory: Directory, *pairs: tuple[str, str], absent: int = 0) -> dict[str, float]:
    """What a scrape shows after flows between these addresses, without what is 0."""
    tables, count = new_tables(), len(pairs)
    keys = np.zeros(count, dtype=CONVERSATION)
    keys["ip_version"], keys["absent"] = 1, absent
    for row, texts in enumerate(pairs):
        for side, text in zip(("source_ip", "destination_ip"), texts, strict=True):
            keys[side][row] = np.frombuffer(packed(text), dtype=np.uint8)
    time, zeros = np.full(count, 50), np.zeros(count, dtype=np.uint32)
    unnamed = UnnamedSides()
    unnamed.count(
        FlowBatch(
            tables,
            time=time,
            sequence=zeros.astype(np.uint64),
            flow_class=zeros,
            conversation=tables.conversations.lookup(keys, time, directory),
            source_port=zeros.astype(np.uint16),
            destination_port=zeros.astype(np.uint16),
            detail=zeros,
        )
    )
    (family,) = unnamed.collect()
    return {s.labels["reason"]: s.value for s in family.samples if s.value}


def test_each_side_without_a_name_counts_for_its_reason() -> None:
    directory = Directory()
    directory.set_endpoint(LocalEndpoint(7, 1007, "shop", "web-1"), (packed("10.0.0.1"),))
    directory.set_endpoint(LocalEndpoint(8, 1007, "shop", "old"), (packed("10.0.0.2"),))
    directory.set_endpoint(None, (packed("10.0.0.2"),), since=20)
    directory.set_address("10.1.0.0/16", AddressRecord(0, unknown=NOT_IN_SCOPE))
    flows = [
        ("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.9"), ("10.1.0.1", "10.0.0.1"),
        ("10.1.0.1", "10.1.0.2"), ("10.0.0.1", "10.0.0.1"),
    ]  # fmt: skip
    found = counted(directory, *flows)
    assert found == {"expired": 2, "unknown_address": 1, "not_in_scope": 3}


def test_a_side_without_an_address_has_no_name_to_miss() -> None:
    flow = ("10.0.0.9", "0.0.0.0")
    assert counted(Directory(), flow, absent=ABSENT_DESTINATION) == {"unknown_address": 1}
    assert counted(Directory(synced=False), flow) == {"not_synced": 2}
