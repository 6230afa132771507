"""What counting and scraping cost: ``python -m tests.bench.bench_metrics [--json]``.

Counting: recorded flows of ``steady`` in batches of 1,000, ten handlers. Scraping: 50,000
series; the longest step is what an event loop would have to wait.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterable
from time import perf_counter, process_time

from api.metrics.exposition import Format, gzipped, render
from api.metrics.family import Counters
from api.metrics.hubble import DEFAULT_HANDLERS, HubbleMetrics
from tests.api.metrics.recorded_flows import batches, flows, new_tables

TEN = (*DEFAULT_HANDLERS, "policy", "flows-to-world", "kafka")
PODS = [
    f"{name}:sourceEgressContext=pod;destinationIngressContext=pod"
    for name in ("flow", "tcp", "dns", "drop")
]
"""Of each flow the side that is on this node: what Retina's chart asks for."""
SERIES = 50_000
ROUNDS = 20


def counting() -> dict[str, float]:
    """Nanoseconds of CPU an event, best of ``ROUNDS``."""
    tables = new_tables()
    recorded = flows("v1.19", "steady")
    found = list(batches(tables, recorded, 1000))
    without = [batch.select(batch.detail == 0) for batch in found]
    results = {}
    for name, given, handlers in (
        ("steady", found, TEN), ("datapath", without, TEN), ("pods", found, PODS),
    ):  # fmt: skip
        metrics = HubbleMetrics(handlers)
        events = sum(len(batch) for batch in given)
        times = []
        for _ in range(ROUNDS):
            started = process_time()
            for batch in given:
                metrics.count(batch)
            times.append(process_time() - started)
        results[f"count_{name}_ns_per_event"] = min(times) / events * 1e9
    return results


def scraping() -> dict[str, float]:
    """Milliseconds of a first and of later scrapes, whole and in their longest step."""
    labels = ("destination", "namespace", "pod", "port", "source")
    family = Counters("a_total", "A", labels, budget=SERIES)
    for n in range(SERIES):
        pod = f"frontend-{n * 7919 % SERIES:05}-abcde"
        family.add((f"10.0.{n % 256}.{n % 199}", f"ns-{n % 37}", pod, str(n), "shop/cart"), n)
    gc.collect()
    gc.freeze()
    results: dict[str, float] = {}
    scrapes = (
        ("first", Format.CLASSIC, False),
        ("classic", Format.CLASSIC, False),
        ("openmetrics", Format.OPENMETRICS, False),
        ("gzip", Format.CLASSIC, True),
    )
    for name, form, packed in scrapes:
        for _ in range(1 if name == "first" else 5):
            chunks = render([family], form)
            whole, longest, size = _drain(gzipped(chunks) if packed else chunks)
            key = f"scrape_{name}"
            results[f"{key}_ms"] = min(whole, results.get(f"{key}_ms", whole))
            results[f"{key}_step_ms"] = min(longest, results.get(f"{key}_step_ms", longest))
            results[f"{key}_bytes"] = size
    return results


def _drain(chunks: Iterable[bytes]) -> tuple[float, float, int]:
    longest, size = 0.0, 0
    started = before = perf_counter()
    for chunk in chunks:
        now = perf_counter()
        longest = max(longest, now - before)
        size += len(chunk)
        before = perf_counter()
    return (perf_counter() - started) * 1e3, longest * 1e3, size


def main(arguments: list[str]) -> None:
    results = counting() | scraping()
    if "--json" in arguments:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
        return
    for name, value in results.items():
        sys.stdout.write(f"{name:32} {value:12,.1f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
