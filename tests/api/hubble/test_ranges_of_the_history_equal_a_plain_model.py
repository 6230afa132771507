"""``first``, ``last``, ``since``, ``until``, ``number`` and ``follow``, alone and together.

The model is a list of flows and what the API says of each field; the histories are small rings
of many lengths, filled in batches of many sizes, with lost events in between.
"""

from __future__ import annotations

import random
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from api.history import History
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.flow_batch import FlowBatch, FlowTables
from parsers.ledger import Ledger
from parsers.pipeline import LostRecords, ParsedBatch
from tests.api.hubble.from_json import batch_of, flows_of, new_tables

FLOWS = flows_of("v1.20", "steady")
STEP = 1000
Item = tuple[str, int]
"""("flow", its number) or ("lost", the number of the flow that came next)."""


@cache
def tables_and_flows() -> tuple[FlowTables, FlowBatch]:
    tables = new_tables()
    batch = batch_of(FLOWS, tables)
    numbers = np.arange(len(batch))
    rest = list(batch.columns())[2:]
    return tables, FlowBatch(tables, numbers * STEP, numbers.astype(np.uint64), *rest)


DROPPED = [flow.get("verdict") == "DROPPED" for flow in FLOWS]


@dataclass
class Case:
    """A history, a request, and what comes after the request."""

    capacity: int
    history: int
    later: int
    request: dict[str, Any]
    lost: set[int] = field(default_factory=set)  # numbers of flows that a loss comes before

    def expected(self) -> list[Item]:
        """What the API's fields mean, word by word."""
        asked = self.request
        follow, number = asked.get("follow", False), asked.get("number", 0)
        since, until = asked.get("since", 0), asked.get("until", 10**12)
        in_range = [
            n
            for n in range(max(0, self.history - self.capacity), self.history)
            if (DROPPED[n] or "whitelist" not in asked) and since <= n * STEP <= until
        ]
        if "since" in asked:
            wanted = in_range if follow or not number else in_range[:number]
        elif asked.get("first"):
            wanted = in_range[:number] if number else in_range
        elif follow:
            wanted = in_range[-number:] if number else []
        else:
            wanted = in_range[-number:]  # all for 0
        if follow:
            wanted += [
                n
                for n in range(self.history, self.history + self.later)
                if (DROPPED[n] or "whitelist" not in asked) and since <= n * STEP <= until
            ]
        return [("flow", n) for n in wanted]


def case_of(seed: int) -> Case:
    dice = random.Random(seed)
    history = dice.choice([0, 1, 3, 40, 700, 1500])
    case = Case(
        capacity=dice.choice([1, 7, 100, 1000, 2000]),
        history=history,
        later=dice.choice([0, 1, 300]),
        request={},
        lost={dice.randrange(history + 1) for _ in range(3)},
    )
    moments = [0, 1, history // 2, history - 1, history, history + 100, 5000]
    for name, value in (
        ("number", dice.choice([1, 2, 10, 600, 2**64 - 1])),
        ("since", max(0, dice.choice(moments) * STEP + dice.choice([-1, 0, 1]))),
        ("until", max(0, dice.choice(moments) * STEP + dice.choice([-1, 0, 1]))),
        ("whitelist", [flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED])]),
        (dice.choice(["first", "follow"]), True),
    ):
        if dice.random() < 0.45:
            case.request[name] = value
    return case


def message(request: dict[str, Any]) -> observer_pb2.GetFlowsRequest:
    plain = {k: v for k, v in request.items() if k not in ("since", "until")}
    made = observer_pb2.GetFlowsRequest(**plain)
    for name in ("since", "until"):
        if name in request:
            getattr(made, name).FromNanoseconds(request[name])
    return made


async def run(case: Case) -> tuple[list[Item], bool]:
    """What the call sends, and whether it ended by itself."""
    tables, flows = tables_and_flows()
    ledger = Ledger()
    # Drops are kept no longer than others, so that the model needs no second ring.
    history = History(tables, ledger, case.capacity, drop_capacity=0)
    observer = Observer(history, LocalNode("node"), ledger)
    received: list[Item] = []
    ended = False

    def publish(start: int, stop: int, size: int) -> None:
        for begin in range(start, stop, size):
            end = min(begin + size, stop)
            lost = [LostRecords(n, n * STEP, 0, 1) for n in sorted(case.lost) if begin <= n < end]
            batch = flows.select(np.arange(begin, end))
            observer.publish(ParsedBatch(len(batch), batch, lost_events=lost))

    async def read() -> None:
        nonlocal ended
        async with aclosing(observer.get_flows(message(case.request))) as chunks:
            async for chunk in chunks:
                for data in chunk:
                    response = observer_pb2.GetFlowsResponse.FromString(data)
                    number = response.time.ToNanoseconds() // STEP
                    kind = "lost" if response.HasField("lost_events") else "flow"
                    received.append((kind, number))
        ended = True

    publish(0, case.history, 37)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for begin in range(case.history, case.history + case.later, 50):
            publish(begin, min(begin + 50, case.history + case.later), 50)
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return received, ended


@pytest.mark.parametrize("seed", range(250))
async def test_a_request_gets_what_its_fields_say(seed: int) -> None:
    case = case_of(seed)
    received, ended = await run(case)
    flows = [item for item in received if item[0] == "flow"]
    if case.request.get("follow") and case.capacity < 50:
        # The ring is shorter than a batch: what is overwritten is reported, not sent.
        assert set(flows) <= set(case.expected())
        assert flows == sorted(flows)
        return
    assert flows == case.expected(), case
    last = (case.history + case.later - 1) * STEP
    if not case.request.get("follow") or (case.later and case.request.get("until", last) < last):
        assert ended
    elif "until" not in case.request:
        assert not ended


@pytest.mark.parametrize("seed", range(250))
async def test_losses_come_once_each_in_their_place(seed: int) -> None:
    case = case_of(seed)
    received, _ = await run(case)
    lost = [number for kind, number in received if kind == "lost" and number in case.lost]
    assert len(lost) == len(set(lost))
    merged = [(number, kind == "flow") for kind, number in received if number < case.history]
    assert merged == sorted(merged), "a loss comes before the flow that came next"
    if case.request == {} or set(case.request) == {"since"}:
        oldest = max(0, case.history - case.capacity)
        begin = max(oldest, -(-case.request.get("since", 0) // STEP))
        assert set(lost) == {n for n in case.lost if begin <= n < case.history}


async def test_an_empty_history_answers_at_once() -> None:
    assert await run(Case(10, 0, 0, {})) == ([], True)
    assert await run(Case(10, 0, 0, {"number": 5, "first": True})) == ([], True)
