"""Counts a storm of addresses, ports and names: ``python -m ... FLOWS BUDGET`` says how it went.

Each flow has an address, a port and a name asked of DNS that no other one has. JSON: after each
tenth, ``sums`` of three metrics, the ``resident`` bytes, how many bytes a scrape has and how
many ms of CPU time it takes; at the end the ``series`` of each metric and how many flows were
``folded``.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from bridge.process_tuning import tune_process
from parsers.details import Detail
from parsers.flow_batch import CONVERSATION, FLOW_CLASS, L7_DNS, FlowBatch, FlowTables
from parsers.l7 import DnsLabels, L7Content
from parsers.pipeline import new_tables
from parsers.world import directory_of
from tests.api.hubble.from_json import Record

SIZE = 5000
COUNTED = (
    "hubble_dns_queries_total", "hubble_flows_processed_total", "hubble_port_distribution_total",
)  # fmt: skip


def storm(tables: FlowTables, flows: int, size: int) -> Iterator[FlowBatch]:
    """Ever new addresses talk to ever new ports."""
    row = np.zeros(1, dtype=FLOW_CLASS)
    row["event_type"], row["verdict"], row["is_reply"], row["ip_version"] = 4, 1, 1, 1
    row["l4"], row["event_type"], row["l7_record"], row["l7_type"] = 1, 129, L7_DNS, 1
    directory = directory_of({})
    for start in range(0, flows, size):
        numbers = np.arange(start, start + size)
        keys = np.zeros(size, dtype=CONVERSATION)
        keys["ip_version"] = 1
        keys["source_ip"][:, 12:] = numbers.astype(">u4").view(np.uint8).reshape(size, 4)
        keys["source_ip"][:, 10:12] = 0xFF
        conversations = tables.conversations.lookup(keys, numbers, directory)
        ports: NDArray[np.uint16] = numbers.astype(np.uint16)
        yield FlowBatch(
            tables,
            time=numbers,
            sequence=numbers.astype(np.uint64),
            flow_class=np.repeat(tables.classes.lookup(row)[0], size),
            conversation=conversations,
            source_port=ports,
            destination_port=ports,
            detail=np.array(
                [tables.details.add(Detail(l7=asked(n))) for n in numbers.tolist()], dtype=np.uint32
            ),
        )


def asked(number: int) -> Any:
    """A DNS request for a name of its own."""
    return Record(1, 0, "", L7Content(None, ""), DnsLabels("A", 0, 0, (), f"{number}.example."))


def resident() -> int:
    """Bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main(flows: int, budget: int) -> None:
    """Count them, and print."""
    tune_process()
    option = "flow:sourceContext=ip port-distribution:sourceContext=ip dns:query"
    metrics, tables = HubbleMetrics(option, series=budget), new_tables()
    tables.classes.before_free.append(metrics.forget)
    sums, sizes, written, scrapes = [], [], [], []
    for number, batch in enumerate(storm(tables, flows, SIZE), 1):
        metrics.count(batch)
        tables.conversations.reclaim(np.zeros(tables.conversations.end, dtype=np.bool_))
        tables.details.reclaim(np.zeros(tables.details.end, dtype=np.bool_))
        if number * SIZE % (flows // 10) == 0:
            metrics.fold()
            counted = [family for family in metrics.families if family.name in COUNTED]
            sums.append([int(family.totals.sum()) for family in counted])
            began = process_time()
            written.append(sum(map(len, render(metrics.families, Format.CLASSIC))))
            scrapes.append(round((process_time() - began) * 1e3, 1))
            sizes.append(resident())
    told = {
        "sums": sums,
        "resident": sizes,
        "scrape_bytes": written,
        "scrape_ms": scrapes,
        "series": [len(family) for family in metrics.families],
        "folded": metrics.statistics().folded,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
