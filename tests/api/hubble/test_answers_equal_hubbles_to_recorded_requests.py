"""Hubble's own server was asked these requests over the same events; we answer the same.

Where we mean to do better, the requests and what is better stand in ``BETTER``.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
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
RELEASES = ("v1.19", "v1.20")


@dataclass(frozen=True)
class Corpus:
    """The requests over ``all`` of a release, and what they ask about."""

    flows: list[dict[str, Any]]
    lost: list[dict[str, Any]]
    requests: list[dict[str, Any]]


@cache
def corpus(release: str) -> Corpus:
    packed = (FIXTURES / release / "requests.jsonl.xz").read_bytes()
    requests = [json.loads(line) for line in lzma.decompress(packed).splitlines()]
    return Corpus(
        flows_of(release, "all"),
        [line for line in expected(release, "all") if line["kind"] == "lost"],
        [r for r in requests if r["method"] == "GetFlows"],
    )


RECORDED = [(release, r) for release in RELEASES for r in corpus(release).requests]


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


@cache
def observer_over(release: str, capacity: int) -> Observer:
    recorded = corpus(release)
    tables = new_tables()
    history = History(tables, Ledger(), capacity)
    node = node_of(recorded.flows[0], interfaces_of(recorded.flows))
    observer = Observer(history, node, Ledger())
    flows = batch_of(recorded.flows, tables)
    for start in range(0, 5000, 300):
        inside = (flows.sequence >= start) & (flows.sequence < start + 300)
        lost = [
            LostRecords(
                line["i"], BASE + line["i"] * STEP, line["event"].get("cpu", 0),
                int(line["event"].get("num_events_lost", 0)),
            )
            for line in recorded.lost
            if start <= line["i"] < start + 300
        ]  # fmt: skip
        batch = flows.select(np.flatnonzero(inside))
        observer.publish(ParsedBatch(len(batch) + len(lost), batch, lost_events=lost))
    return observer


async def ask(observer: Observer, request: dict[str, Any]) -> list[observer_pb2.GetFlowsResponse]:
    message = ParseDict(request, observer_pb2.GetFlowsRequest())
    return [
        observer_pb2.GetFlowsResponse.FromString(data)
        async for chunk in observer.get_flows(message)
        for data in chunk
    ]


def index(response: observer_pb2.GetFlowsResponse) -> int:
    return (response.time.ToNanoseconds() - BASE) // STEP


@pytest.mark.parametrize(
    ("release", "recorded"),
    RECORDED,
    ids=[f"{release}-{r['name']}-{r['max_flows']}" for release, r in RECORDED],
)
async def test_a_request_gets_the_flows_that_hubble_sent(
    release: str, recorded: dict[str, Any]
) -> None:
    observer = observer_over(release, recorded["max_flows"])
    if "code" in recorded:
        with pytest.raises(RpcError) as caught:
            await ask(observer, recorded["request"])
        assert caught.value.code.replace("_", "") == recorded["code"].upper()
        sense = recorded["message"].partition(": netip.")[0].partition("\n")[0]
        assert str(caught.value).startswith(sense)
        return
    answers = await ask(observer, recorded["request"])
    better = BETTER.get((recorded["name"], recorded["max_flows"]))
    flows_only = [r for r in answers if r.HasField("flow")]
    if better is not None:
        lost = {line["i"] for line in corpus(release).lost}
        everything: list[int] = next(
            r["result"]
            for r in corpus(release).requests
            if r["name"] == "everything" and r["max_flows"] > 10000
        )
        assert [index(r) for r in flows_only] == better([i for i in everything if i not in lost])
        return
    if None not in recorded["result"]:
        assert [index(r) for r in answers] == recorded["result"]
    if "responses" in recorded:
        shown = [MessageToDict(r, preserving_proto_field_name=True) for r in answers]
        wanted = [r.get("flow") for r in recorded["responses"]]
        assert [r.get("flow") for r in shown] == wanted


@pytest.mark.parametrize("release", RELEASES)
def test_the_table_of_differences_names_only_recorded_requests(release: str) -> None:
    assert set(BETTER) <= {(r["name"], r["max_flows"]) for r in corpus(release).requests}
