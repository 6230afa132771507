"""Batches made of the flows that Hubble's own parser printed, field by field.

So that metrics are judged by themselves: what goes in is Hubble's, and what must come
out is what Hubble's own handlers counted of the same flows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from parsers.flow_batch import FlowBatch, FlowTables
from tests.api.hubble.from_json import batch_of, flows_of, new_tables

__all__ = ["batch_of", "batches", "flows", "new_tables", "recorded_batches"]

flows = cache(flows_of)


def batches(
    tables: FlowTables, events: list[dict[str, Any]], size: int = 1000
) -> Iterator[FlowBatch]:
    """The flows in batches of one pipeline."""
    for start in range(0, len(events), size):
        yield batch_of(events[start : start + size], tables)


@cache
def recorded_batches(release: str, mix: str, size: int = 1000) -> tuple[FlowBatch, ...]:
    """All flows of a recording, for those who only count them."""
    return tuple(batches(new_tables(), flows(release, mix), size))
