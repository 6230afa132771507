"""Hubble's own server was asked these requests over the same events; we answer the same.

Where we mean to do better, the requests and what is better stand in ``BETTER``.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from api.history import History
from api.hubble.observer import Observer
from api.hubble.rpc import RpcError
from api.v1.observer import observer_pb2
from parsers.ledger import Ledger
from parsers.pipeline import LostRecords, ParsedBatch
from tests.api.hubble.from_json import batch_of, flows_of, interfaces_of, new_tables, node_of
from tests.fixtures import FIXTURES, expected

BASE = 1767225600 * 10**9  # the world's clock: payload i at BASE + i * STEP
STEP = 10**6
FLOWS = flows_of("v1.20", "all")
LOST = [line for line in expected("v1.20", "all") if line["kind"] == "lost"]
REQUESTS = [
    json.loads(line)
    for line in lzma.decompress(
        (FIXTURES / "v1.20" / "requests.jsonl.xz").read_bytes()
    ).splitlines()
]
OURS = [r for r in REQUESTS if r["method"] == "GetFlows" and "cel" not in r["name"]]
EVERYTHING: list[int] = next(
    r["result"] for r in OURS if r["name"] == "everything" and r["max_flows"] > 10000
)

# Hubble counts agent and debug events towards the number, has them in the ring in the place
# of flows, and looks for the last flows whether or not they are before "until".
BETTER: dict[tuple[str, int], Callable[[list[int]], list[int]]] = {
    ("last-20", 65535): lambda flows: flows[-20:],
    ("empty-filter", 65535): lambda flows: flows[-5:],
    ("until-number", 65535): lambda flows: [i for i in flows if i <= 50][-10:],
    ("everything", 255): lambda flows: flows[-255:],
    ("first-5", 255): lambda flows: flows[-255:][:5],
    ("last-1000", 255): lambda flows: flows[-255:],
    ("since-start", 255): lambda flows: flows[-255:],
}


def observer_over(capacity: int) -> Observer:
    tables = new_tables()
    history = History(tables, Ledger(), capacity)
    observer = Observer(history, node_of(FLOWS[0], interfaces_of(FLOWS)), Ledger())
    flows = batch_of(FLOWS, tables)
    for start in range(0, 5000, 300):
        inside = (flows.sequence >= start) & (flows.sequence < start + 300)
        lost = [
            LostRecords(
                line["i"], BASE + line["i"] * STEP, line["event"].get("cpu", 0),
                int(line["event"].get("num_events_lost", 0)),
            )
            for line in LOST
            if start <= line["i"] < start + 300
        ]  # fmt: skip
        batch = flows.select(np.flatnonzero(inside))
        observer.publish(ParsedBatch(len(batch) + len(lost), batch, lost_events=lost))
    return observer


@pytest.fixture(scope="module")
def observers() -> dict[int, Observer]:
    return {size: observer_over(size) for size in (65535, 255)}


async def ask(observer: Observer, request: dict[str, Any]) -> list[observer_pb2.GetFlowsResponse]:
    message = ParseDict(request, observer_pb2.GetFlowsRequest())
    return [
        observer_pb2.GetFlowsResponse.FromString(data)
        async for chunk in observer.get_flows(message)
        for data in chunk
    ]


def index(response: observer_pb2.GetFlowsResponse) -> int:
    return (response.time.ToNanoseconds() - BASE) // STEP


@pytest.mark.parametrize("recorded", OURS, ids=lambda r: f"{r['name']}-{r['max_flows']}")
async def test_a_request_gets_the_flows_that_hubble_sent(
    recorded: dict[str, Any], observers: dict[int, Observer]
) -> None:
    observer = observers[recorded["max_flows"]]
    if "code" in recorded:
        with pytest.raises(RpcError) as caught:
            await ask(observer, recorded["request"])
        assert caught.value.code.replace("_", "") == recorded["code"].upper()
        sense = recorded["message"].partition(": netip.")[0].partition(" closing ): ")[0]
        assert str(caught.value).startswith(sense)
        return
    answers = await ask(observer, recorded["request"])
    better = BETTER.get((recorded["name"], recorded["max_flows"]))
    flows_only = [r for r in answers if r.HasField("flow")]
    if better is not None:
        lost = {line["i"] for line in LOST}
        assert [index(r) for r in flows_only] == better([i for i in EVERYTHING if i not in lost])
        return
    if None not in recorded["result"]:
        assert [index(r) for r in answers] == recorded["result"]
    if "responses" in recorded:
        shown = [MessageToDict(r, preserving_proto_field_name=True) for r in answers]
        wanted = [r.get("flow") for r in recorded["responses"]]
        assert [r.get("flow") for r in shown] == wanted


def test_the_table_of_differences_names_only_recorded_requests() -> None:
    assert set(BETTER) <= {(r["name"], r["max_flows"]) for r in OURS}
