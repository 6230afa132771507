"""However many distinct flows went by, the tables hold what the history needs, and no more.

Every record of a storm is another class, conversation, entity and, some of them, another name
and drop site, so each row number is used again many times. What the flows still kept have to
say is known by their number alone.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import cache
from ipaddress import IPv4Address
from typing import NamedTuple
from unittest.mock import patch

from api.history import History, reclaim
from api.hubble.encode import FlowEncoder
from api.hubble.filters import FlowSelection
from api.hubble.flow_view import FlowView
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.metrics.exposition import Format, render
from api.metrics.hubble import HubbleMetrics
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from bridge.flow_path import FlowPath
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, new_tables
from tests import storm

RECORDS, CAPACITY, BATCH = 200_000, 10_000, 500
STEPS = {"MARKED": 2500, "SWEPT": 4000, "SWEPT_OBJECTS": 4000}  # some 25 batches a cycle
LOOK_EVERY = 3  # batches, so that looks fall into every part of a cycle


class Storm(NamedTuple):
    """What was left when it was over."""

    history: History
    metrics: HubbleMetrics
    ledger: Ledger
    wrong: list[str]
    wrong_masks: int
    sizes: list[dict[str, int]]


@cache
def storm_over() -> Storm:
    with ExitStack() as smaller:
        for name, value in STEPS.items():
            smaller.enter_context(patch.object(reclaim, name, value))
        return _storm()


def _storm() -> Storm:
    tables, ledger, node = new_tables(), Ledger(), LocalNode("node")
    pipeline = MonitorPipeline(tables, storm.directory(RECORDS), ledger, release=storm.RELEASE)
    history, metrics = History(tables, ledger, CAPACITY), HubbleMetrics(series=1 << 20)
    observer = Observer(history, node, ledger)
    path = FlowPath(pipeline, metrics, observer.publish, watch=lambda _events, _seconds: None)
    encoder = FlowEncoder(tables, node)
    one = flow_pb2.FlowFilter(
        verdict=[flow_pb2.DROPPED], destination_pod=["/pod-1"], source_fqdn=["*1*.example"]
    )
    other = flow_pb2.FlowFilter(source_ip=["10.1.0.0/16"])
    selection = FlowSelection(tables, node, [one, other], [])
    wrong: list[str] = []
    wrong_masks = 0
    sizes = []
    for number, start in enumerate(range(0, RECORDS, BATCH)):
        path.deliver(storm.payloads(start, start + BATCH))
        conversations = tables.conversations
        sizes.append(
            {
                "classes": len(tables.classes),
                "conversations": len(conversations),
                "details": len(tables.details),
                "entities": len(conversations.entities),
                "names": len(conversations.name_pairs),
            }
        )
        if number % LOOK_EVERY == 0:
            for _, piece in history.flows.pieces(history.flows.oldest, history.flows.end, 1 << 20):
                # The same rows each time, so that the encoder has old answers for them.
                looked_at = (piece.conversation % 128 == 0) | (piece.flow_class % 128 == 0)
                for response in encoder.encode(piece.select(looked_at)):
                    flow = observer_pb2.GetFlowsResponse.FromString(response).flow
                    n = int(flow.uuid[-12:], 16)
                    if said(flow) != true_of(n):
                        wrong.append(f"{said(flow)} instead of {true_of(n)}")
                expected = [i for i, n in enumerate(piece.sequence.tolist()) if matches(n)]
                wrong_masks += selection.matches(FlowView(piece)).tolist() != expected
    return Storm(history, metrics, ledger, wrong, wrong_masks, sizes)


def said(flow: flow_pb2.Flow) -> tuple[object, ...]:
    l4: tuple[object, ...] = (flow.l4.TCP.source_port, flow.l4.TCP.destination_port)
    if flow.l4.HasField("ICMPv4"):
        l4 = ("icmp", flow.l4.ICMPv4.type, flow.l4.ICMPv4.code)
    return (
        flow.IP.source,
        flow.IP.destination,
        flow.source.identity,
        flow.destination.pod_name,
        tuple(flow.source_names),
        l4,
        (flow.file.name, flow.file.line) if flow.HasField("file") else flow.interface.index,
    )


def true_of(n: int) -> tuple[object, ...]:
    return (
        str(IPv4Address(storm.source_ip(n))),
        f"172.16.{storm.pod(n) >> 8}.{storm.pod(n) & 255}",
        storm.identity(n),
        f"pod-{storm.pod(n)}",
        storm.name_of(n),
        ("icmp", *storm.icmp(n)) if storm.is_icmp(n) else storm.ports(n),
        ("bpf_host.c", storm.line(n)) if storm.is_drop(n) else storm.interface(n),
    )


def matches(n: int) -> bool:
    """From 10.1.x.y, or a drop, to a pod called pod-1..., from a host with a 1 in its name."""
    return n >> 16 == 1 or (
        storm.is_drop(n)
        and str(storm.pod(n)).startswith("1")
        and any("1" in name for name in storm.name_of(n))
    )


def test_flows_of_the_history_are_told_as_they_were() -> None:
    found = storm_over()
    assert not found.wrong
    assert len(found.history.flows) == CAPACITY


def test_filters_go_by_what_a_row_is_now() -> None:
    assert not storm_over().wrong_masks


def test_tables_stay_in_proportion_to_the_history() -> None:
    found = storm_over()
    kept = CAPACITY + found.history.statistics().drop_capacity
    warm = found.sizes[len(found.sizes) // 4 :]
    for table in ("classes", "conversations", "entities", "names"):
        # What is in use, what may be added before a cycle, and what comes during one or two.
        bound = kept + max(kept // 4, 1 << 14) + 60 * BATCH
        assert max(sizes[table] for sizes in warm) < bound
        assert max(sizes[table] for sizes in warm) < RECORDS // 3
    assert max(sizes["details"] for sizes in warm) <= storm.SITES + 1
    assert found.history.statistics().reclaims > 3


def test_no_count_moves_to_another_class() -> None:
    metrics = storm_over().metrics
    metrics.fold()
    lines = b"".join(render(metrics.families, Format.CLASSIC)).decode().splitlines()
    counted = {
        key: int(number)
        for key, number in (line.rsplit(" ", 1) for line in lines)
        if key.startswith(("hubble_drop_total{", "hubble_icmp_total{"))
    }
    expected: Counter[str] = Counter()
    for n in range(RECORDS):
        if storm.is_drop(n):
            protocol = "ICMPv4" if storm.is_icmp(n) else "TCP"
            expected[f'hubble_drop_total{{protocol="{protocol}",reason="POLICY_DENIED"}}'] += 1
        kind, code = storm.icmp(n)
        if storm.is_icmp(n) and kind == 8:
            text = f"EchoRequest(Code: {code})" if code else "EchoRequest"
            expected[f'hubble_icmp_total{{family="IPv4",type="{text}"}}'] += 1
    assert len(expected) > 100
    assert {key: counted[key] for key in expected} == expected


def test_the_ledger_balances_after_a_storm() -> None:
    found = storm_over()
    assert found.ledger.imbalance() == {}
    assert found.ledger.stages["parser"].incoming == RECORDS
    assert found.history.flows.end == RECORDS
