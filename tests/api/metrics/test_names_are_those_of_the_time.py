"""A flow counts under the names of its time, however rows and numbers are used again.

Addresses change hands, tables are swept, caches are dropped, handlers are configured anew and
series of pods go, all in the middle of counting and of scrapes. What must come out is counted
here flow by flow, by the entities that each flow's conversation was resolved to.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from api.metrics import hubble
from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from parsers.directory import AddressRecord, Directory
from parsers.flow_batch import CONVERSATION, FLOW_CLASS, FlowBatch, FlowTables
from tests.api.metrics.readers import read_classic
from tests.api.metrics.recorded_flows import new_tables

ADDRESSES, PODS = 60, [("ns", f"pod-{n}") for n in range(12)]
OPTION = (
    "flow:sourceContext=pod;destinationContext=pod tcp:labelsContext=source_namespace,source_pod"
    " port-distribution:sourceContext=pod;destinationContext=pod flows-to-world:port"
)
FLOWS = "hubble_flows_processed_total"
SHOWN = ("source", "destination", "verdict")
Series = tuple[str, str, str]


def some_flows(
    tables: FlowTables, directory: Directory, at: int, choose: random.Random
) -> FlowBatch:
    count = choose.randint(1, 60)
    draw = np.random.default_rng(choose.getrandbits(32)).integers
    time = np.arange(at, at + count)
    keys = np.zeros(count, dtype=CONVERSATION)
    keys["ip_version"] = 1
    for side in ("source_ip", "destination_ip"):
        keys[side][:, 10:13] = (0xFF, 0xFF, 10)
        keys[side][:, 15] = draw(0, ADDRESSES, count)
    classes = np.zeros(count, dtype=FLOW_CLASS)
    classes["ip_version"] = 1
    for name, low, high in (
        ("event_type", 4, 6), ("sub_type", 0, 12), ("verdict", 1, 3), ("direction", 0, 3),
        ("is_reply", 0, 3), ("l4", 1, 4), ("flags", 0, 256), ("tcp_flags", 0, 32),
        ("proxy_port", 0, 9),
    ):  # fmt: skip
        classes[name] = draw(low, high, count)
    return FlowBatch(
        tables,
        time=time,
        sequence=time.astype(np.uint64),
        flow_class=tables.classes.lookup(classes)[0],
        conversation=tables.conversations.lookup(keys, time, directory),
        source_port=draw(0, 5, count).astype(np.uint16),
        destination_port=draw(0, 5, count).astype(np.uint16),
        detail=np.zeros(count, dtype=np.uint32),
    )


def series_of(batch: FlowBatch) -> Iterator[Series]:
    conversations = batch.tables.conversations
    verdicts = batch.tables.classes.rows["verdict"][batch.flow_class]
    for row, verdict in zip(batch.conversation.tolist(), verdicts.tolist(), strict=True):
        sides = conversations.source_entity[row], conversations.destination_entity[row]
        entities = [conversations.entities[int(side)] for side in sides]
        source, destination = (name_of(e.namespace, e.pod_name) for e in entities)
        yield source, destination, flow_pb2.Verdict.Name(verdict)


def name_of(namespace: str, pod: str) -> str:
    return f"{namespace}/{pod}" if pod else ""


def sweep_tables(tables: FlowTables, choose: random.Random) -> None:
    """As the history does, which keeps about half of them."""
    draw = np.random.default_rng(choose.getrandbits(32)).random
    conversations = tables.conversations
    in_use = np.zeros(conversations.end, dtype=np.bool_)
    conversations.mark((draw(conversations.end) < 0.5).nonzero()[0].astype(np.uint32), in_use)
    conversations.reclaim(in_use)
    tables.classes.reclaim(draw(tables.classes.end) < 0.5)


def read_flows(metrics: HubbleMetrics) -> Counter[Series]:
    metrics.fold()
    found: Counter[Series] = Counter()
    for family in read_classic(b"".join(render(metrics.families, Format.CLASSIC)).decode()):
        if family.name == FLOWS.removesuffix("_total"):
            for sample in family.samples:
                source, destination, verdict = (sample.labels[label] for label in SHOWN)
                found[source, destination, verdict] += int(sample.value)
    return found


@pytest.mark.parametrize("budget", [20, 20_000])
@pytest.mark.parametrize("seed", range(4))
def test_every_flow_counts_once_under_the_names_of_its_time(
    seed: int, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that what takes hours on a node happens all the time.
    for limit, value in {
        "_MOST_CLASSES": 100, "_MOST_PAIRS": 64, "_MOST_CONTEXTS": 50, "_FRESH_PAIRS": 8,
        "_FRESH_CLASSES": 3,
    }.items():  # fmt: skip
        monkeypatch.setattr(hubble, limit, value)
    choose = random.Random(seed)
    tables, directory = new_tables(), Directory()
    metrics = HubbleMetrics(OPTION, series=budget)
    tables.classes.before_free.append(metrics.forget)
    expected: Counter[Series] = Counter()
    scrape: Iterator[bytes] = iter(())
    now = expired = 0
    for _ in range(100):
        for _ in range(choose.randrange(3)):
            pod = AddressRecord(1000, *choose.choice(PODS)) if choose.random() < 0.8 else None
            address = f"10.0.0.{choose.randrange(ADDRESSES)}/32"
            directory.set_address(address, pod, since=now - choose.randrange(3))
        batch = some_flows(tables, directory, now, choose)
        now += len(batch)
        metrics.count(batch)
        expected.update(series_of(batch))
        if choose.random() < 0.3:
            sweep_tables(tables, choose)
        if choose.random() < 0.2:
            b"".join(scrape)
            metrics.fold()
            scrape = render(metrics.families, Format.CLASSIC)
            next(scrape)
        if choose.random() < 0.1:
            metrics.configure(OPTION + choose.choice(["", " drop icmp:sourceContext=pod"]))
        if choose.random() < 0.1:
            gone = choose.sample(PODS, 2)
            for _ in metrics.remove_pods(gone):
                pass
            names = {name_of(*pod) for pod in gone}
            for series in [series for series in expected if not names.isdisjoint(series)]:
                expired += expected.pop(series)
    found = read_flows(metrics)
    (family,) = (family for family in metrics.families if family.name == FLOWS)
    assert now == found.total() + family.expired
    if budget > len(family):
        assert expected == found
        assert expired == family.expired
    else:
        folded = sum(n for series, n in found.items() if series[:2] == ("other", "other"))
        assert family.folded == folded > now // 2
