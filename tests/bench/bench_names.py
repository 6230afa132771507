"""What names cost: ``python -m tests.bench.bench_names [--json]``.

The table from addresses to owners at 100,000 pods; making names of a list of 10,000 and of
100,000 pods, from its JSON on, as a real API server wrote it; what changes of names cost the
naming of flows; and steps of the loop by pages of 10,000 pods of 50 KB and of 5,000 nodes.
"""

from __future__ import annotations

import gc
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from bridge.kubernetes.names import Names
from bridge.kubernetes.objects import Node, Object, Pod
from bridge.kubernetes.resources import core_resources
from bridge.kubernetes.sink import SINCE_EVER
from bridge.kubernetes.watch import ObjectWatch
from bridge.process_tuning import tune_process
from parsers.address_table import ADDRESS, AddressTable
from parsers.addresses import MAPPED
from parsers.conversations import Conversations
from parsers.directory import AddressRecord, Directory
from parsers.entities import Entities
from parsers.flow_batch import CONVERSATION
from tests.bench.record_pods import NODES, name_of
from tests.cluster.pods import address_of

RECORDED = Path(__file__).parents[1] / "data" / "kubernetes" / "pods.json.xz"
PODS = 100_000
ROUNDS = 20
PIECE = 50  # objects told at once
EVENTS, CONVERSATIONS, CHANGES = 1000, 50_000, 20  # a batch; ten of those a second, 200 changes


def addresses(count: int) -> np.ndarray:
    """10.0.0.0 and those that follow."""
    packed = [MAPPED + bytes([10, n >> 16, n >> 8 & 255, n & 255]) for n in range(count)]
    return np.frombuffer(b"".join(packed), dtype=ADDRESS)


def table() -> dict[str, float]:
    """Memory, and nanoseconds of CPU an address, best of ``ROUNDS``."""
    filled, every = AddressTable(layers=2), addresses(PODS)
    for number, address in enumerate(every.tolist(), start=1):
        filled.set(address, number, 1)
    results: dict[str, float] = {"table_mib_at_100000_pods": filled.nbytes() / (1 << 20)}
    random = np.random.default_rng(1)
    for size in (1000, 5000, 50_000):
        asked = every[random.integers(0, PODS, size)].copy()
        time, times = np.full(size, 10, dtype=np.int64), []
        for _ in range(ROUNDS):
            began = process_time()
            for _ in range(100_000 // size):
                filled.at(filled.rows_of(asked), time)
            times.append((process_time() - began) / (100_000 // size))
        results[f"lookup_ns_an_address_in_{size}"] = min(times) / size * 1e9
    return results


def recorded() -> list[bytes]:
    """Pods as a real API server listed them; see ``record_pods``."""
    items: list[msgspec.Raw] = msgspec.json.decode(
        lzma.decompress(RECORDED.read_bytes()), type=_RecordedList
    ).items
    # The list is in order of names, which end in their numbers.
    return sorted(map(bytes, items), key=lambda raw: msgspec.json.decode(raw, type=Pod).key[1][-6:])


class _RecordedList(msgspec.Struct):
    items: list[msgspec.Raw]


def pods(count: int) -> Iterator[bytes]:
    """The recorded ones again and again, each with a name and an address of its own, in 50
    namespaces and on nodes of 100 each.
    """
    items = recorded()
    for n in range(count):
        i = n % len(items)
        raw = items[i]
        for before, now in (
            (name_of(i), name_of(n)),
            (f'"{address_of(i)}"', f'"{address_of(n)}"'),
            ('"namespace":"default"', f'"namespace":"ns-{n % 50}"'),
            (f'"nodeName":"n{i % NODES:05d}"', f'"nodeName":"node-{n // 100}"'),
        ):
            raw = raw.replace(before.encode(), now.encode())
        yield raw


def listing(count: int) -> dict[str, float]:
    """Of a list: seconds of CPU, its longest steps in ms of CPU, MiB of all that is kept."""
    raw = list(pods(count))
    decode = msgspec.json.Decoder(Pod).decode
    gc.collect()
    before = resident()
    names, steps = Names(Directory(synced=False), node="node-1"), []
    began = process_time()
    for start in range(0, count, PIECE):
        step = process_time()
        some = [decode(each) for each in raw[start : start + PIECE]]
        names.apply(Pod, some, (), SINCE_EVER)
        steps.append(process_time() - step)
    names.synced(everything=True)
    seconds = process_time() - began
    return {
        f"list_{count}_s": seconds,
        f"list_{count}_p999_step_ms": float(np.quantile(steps, 0.999)) * 1e3,
        f"list_{count}_mib": (resident() - before) / (1 << 20),
    }


def large_pods(count: int) -> Iterator[bytes]:
    """Of 50 KB each, most of it variables of the environment."""
    variable = {"name": "A_VARIABLE", "value": "v" * 60}
    for raw in pods(count):
        pod = json.loads(raw)
        pod["spec"]["containers"] = [{"name": "main", "env": [variable] * 500}]
        yield json.dumps(pod).encode()


def nodes(count: int) -> Iterator[bytes]:
    """With a prefix for the pods of each."""
    for n in range(count):
        address = {"type": "InternalIP", "address": f"10.255.{n >> 8}.{n & 255}"}
        node = {
            "metadata": {"name": f"node-{n}", "labels": {f"label-{i}": "x" for i in range(15)}},
            "spec": {"podCIDRs": [f"10.{n >> 8}.{n & 255}.0/24"]},
            "status": {"addresses": [address]},
        }
        yield json.dumps(node).encode()


def pages(name: str, kind: type[Object], raw: list[bytes]) -> dict[str, float]:
    """Of a list in pages, from its bytes on: its steps in ms of CPU."""
    (resource,) = [each for each in core_resources() if each.kind is kind]
    watch, steps, start = ObjectWatch(resource, lambda: 1), [], 0
    names = Names(Directory(synced=False), node="node-1")
    gc.collect()  # of the names made before
    while start < len(raw):
        query = parse_qs(urlsplit(watch.request()).query)
        page = raw[start : start + int(query["limit"][0])]
        start += len(page)
        more = b',"continue":"x"' if start < len(raw) else b""
        body = b'{"metadata":{"resourceVersion":"1"%s},"items":[%s]}' % (more, b",".join(page))
        step = process_time()
        for piece in watch.page(body):
            names.apply(kind, piece.changed, piece.removed, piece.at)
            steps.append(process_time() - step)
            step = process_time()
    return {
        f"{name}_p999_step_ms": float(np.quantile(steps, 0.999)) * 1e3,
        f"{name}_longest_step_ms": max(steps) * 1e3,
    }


def changes() -> dict[str, float]:
    """Nanoseconds of CPU to name an event: nothing changes, and 200 pods a second do."""
    directory, every = Directory(), addresses(PODS)
    row = directory.owners.add(AddressRecord(300, "shop", "web"))
    directory.set_owner(row, every[: PODS // 2].tolist(), 0)
    keys = np.zeros(CONVERSATIONS, dtype=CONVERSATION)
    keys["ip_version"] = 1
    random = np.random.default_rng(1)
    for side in ("source_ip", "destination_ip"):
        some = every[random.integers(0, PODS // 2, CONVERSATIONS)].copy()
        keys[side] = some.view(np.uint8).reshape(-1, 16)
    conversations = Conversations(Entities())
    conversations.lookup(keys, np.full(CONVERSATIONS, 1, dtype=np.int64), directory)
    results = {}
    for name, changed in (("quiet", 0), ("200_changes_a_second", CHANGES)):
        taken, now = 0.0, 10
        for _ in range(200):
            for address in random.choice(every[: PODS // 2], changed).tolist():
                other = directory.owners.add(AddressRecord(301, "shop", f"web-{now}"))
                directory.set_owner(other, (address,), now)
            now += 1
            batch = keys[random.integers(0, CONVERSATIONS, EVENTS)]
            began = process_time()
            conversations.lookup(batch, np.full(EVENTS, now, dtype=np.int64), directory)
            taken += process_time() - began
        results[f"name_an_event_{name}_ns"] = taken / 200 / EVENTS * 1e9
    return results


def resident() -> int:
    """Resident memory, bytes."""
    with open("/proc/self/statm") as text:  # noqa: PTH123
        return int(text.read().split()[1]) * 4096


def main() -> None:
    """Print the figures."""
    tune_process()
    figures = table() | listing(10_000) | listing(PODS) | changes()
    figures |= pages("10000_large_pods", Pod, list(large_pods(10_000)))
    figures |= pages("5000_nodes", Node, list(nodes(5000)))
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        for name, value in figures.items():
            sys.stdout.write(f"{name:40} {value:10.2f}\n")


if __name__ == "__main__":
    main()
