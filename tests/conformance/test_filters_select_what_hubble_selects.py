"""Random requests to Hubble's own server and to ours, over the same events.

Hubble's newest event is not readable until another arrives, so its stream has one more.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from api.history import History
from api.hubble.observer import Observer
from api.hubble.rpc import RpcError
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from bridge.recorded import Recorded
from bridge.recording import MessageSplitter
from parsers.ledger import Ledger
from parsers.pipeline import LostRecords, ParsedBatch, new_tables
from tests.api.hubble.from_json import batch_of, interfaces_of, node_of
from tests.api.hubble.test_requests_of_any_bytes import GET_FLOWS, spoiled
from tests.api.hubble.test_requests_of_any_bytes import parsed as decoded
from tests.conformance.conftest import wait_until
from tests.conformance.random_filters import RandomFilters
from tests.telling import Tell

COUNT = {"all": "3832", "steady": "2500"}
ALONE, NEGATED, TOGETHER, PAIRS, MASKS, CHANGED = 6, 6, 1000, 300, 200, 1000
"""Requests of each field by itself, in a blacklist; of several fields and filters; with two
values that are refused; with field masks; sound ones that were changed.
"""
BASE, STEP = 1767225600 * 10**9, 10**6  # the world's clock
Request = dict[str, Any]


class Answer(NamedTuple):
    """Positions in the stream of what was sent; the status's code and message, or nothing."""

    events: list[int]
    code: str = ""
    message: str = ""


class Sides(NamedTuple):
    """Both servers over one stream."""

    target: str
    observer: Observer
    flows: list[dict[str, Any]]


@pytest.fixture(scope="module", params=COUNT)
def sides(
    request: pytest.FixtureRequest, oracle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sides]:
    mix = request.param
    directory = tmp_path_factory.mktemp(mix)
    stream, flows, world = (directory / name for name in ("stream", "flows.jsonl", "world.json"))
    command: list[str | Path] = [
        oracle, "gen", "--seed", "7", "--mix", mix, "--count", COUNT[mix],
        "--stream", stream, "--flows", flows, "--world", world,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    known = json.loads(world.read_bytes())
    # What ``gen`` says of cut records knows the bytes behind the cut; a reader does not.
    subprocess.run(
        [oracle, "flows", "--stream", stream, "--world", world, "--flows", flows],
        check=True,
        capture_output=True,
        timeout=60,
    )
    lines = [json.loads(line) for line in flows.read_text().splitlines()]
    # Ours has it by way of the whole pipeline, but for the cut and odd records of ``all``,
    # which are parsed differently on purpose.
    observer = observer_of(lines) if mix == "all" else observer_over(stream, known, lines)
    data = stream.read_bytes()
    messages = MessageSplitter().feed(data)
    readable = next(line["i"] for line in lines if line["kind"] == "flow")
    begin = messages.ends[readable - 1] if readable else 0
    stream.write_bytes(data + messages.payloads[begin : messages.ends[readable]])
    socket = directory / "hubble.sock"
    command = [
        oracle, "hubble", "--stream", stream, "--world", world, "--socket", socket,
        "--max-flows", "65535",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(socket.exists)
            events = [line["event"] for line in lines if line["kind"] == "flow"]
            yield Sides(f"unix://{socket}", observer, events)
        finally:
            process.terminate()


def observer_over(stream: Path, world: dict[str, Any], lines: list[dict[str, Any]]) -> Observer:
    """Ours, by way of the whole pipeline."""
    recorded = Recorded(stream, world)
    emitter = next(line["event"]["emitter"] for line in lines if line["kind"] == "flow")
    node = replace(recorded.node, emitter_name=emitter["name"], emitter_version=emitter["version"])
    observer = Observer(History(recorded.tables, recorded.ledger, 65535), node, recorded.ledger)
    for parsed_batch in recorded.batches():
        observer.publish(parsed_batch)
    return observer


def observer_of(lines: list[dict[str, Any]]) -> Observer:
    """Ours, over the flows and lost events that Hubble's parser made."""
    flows = [line["event"] for line in lines if line["kind"] == "flow"]
    tables, ledger = new_tables(), Ledger()
    node = node_of(flows[0], interfaces_of(flows))
    observer = Observer(History(tables, ledger, 65535), node, ledger)
    lost = [
        LostRecords(
            line["i"], BASE + line["i"] * STEP, line["event"].get("cpu", 0),
            int(line["event"].get("num_events_lost", 0)),
        )
        for line in lines
        if line["kind"] == "lost"
    ]  # fmt: skip
    batch = batch_of(flows, tables)
    observer.publish(ParsedBatch(len(lines), batch, lost_events=lost))
    return observer


def requests(dice: random.Random, flows: list[dict[str, Any]]) -> list[Request]:
    """Every field alone, negated, and in combination."""
    filters = RandomFilters(dice, flows)
    made: list[Request] = [{"whitelist": [{}]}, {"blacklist": [{}]}, {}]
    for field in filters.fields:
        made += [{"whitelist": [filters.one(field)]} for _ in range(ALONE)]
        for _ in range(NEGATED):
            begin = dice.randrange(3000)
            span = {"since": _time(begin), "until": _time(begin + 600)}
            made.append({"blacklist": [filters.one(field)], **span})
    for _ in range(TOGETHER):
        request: Request = {"whitelist": [filters.some() for _ in range(dice.choice([1, 1, 2, 3]))]}
        if dice.random() < 0.4:
            request["blacklist"] = [filters.some() for _ in range(dice.choice([1, 2]))]
        if dice.random() < 0.4:
            # Hubble counts agent and debug events that match as well; none has a verdict.
            request["whitelist"] = [one | filters.one(("verdict",)) for one in request["whitelist"]]
            request |= dice.choice([{"number": 7}, {"number": 7, "first": True}])
        request |= dice.choice([{}, {}, {"since": _time(1000)}, {"until": _time(2000)}])
        if "until" in request:
            request.pop("number", None)  # Hubble goes back before it looks at the time
        made.append(request)
    refusals = list(filters.refused())
    for _ in range(PAIRS):  # which one is told?
        made.append({"whitelist": [dice.choice(refusals) | dice.choice(refusals)]})
    for refused in refusals:
        made += [{"whitelist": [refused]}, {"whitelist": [{}], "blacklist": [{}, refused]}]
    for request in made:
        request["field_mask"] = "time"
    return made


def _time(index: int) -> str:
    return f"2026-01-01T00:00:{index // 1000:02d}.{index % 1000:03d}Z"


def parsed(request: Request) -> observer_pb2.GetFlowsRequest:
    return ParseDict(request, observer_pb2.GetFlowsRequest())


def index(response: observer_pb2.GetFlowsResponse) -> int:
    return (response.time.ToNanoseconds() - BASE) // STEP


def hubbles(target: str, asked: list[Request]) -> list[Answer]:
    with grpc.insecure_channel(target) as channel:
        method = get_flows(channel)

        def ask(request: Request) -> Answer:
            try:
                return Answer([index(r) for r in method(parsed(request), timeout=60)])
            except grpc.RpcError as error:
                return Answer([], error.code().name, error.details() or "")

        with ThreadPoolExecutor(4) as threads:
            return list(threads.map(ask, asked))


async def ours(observer: Observer, request: Request) -> Answer:
    return await answer(observer, parsed(request))


async def answer(observer: Observer, request: observer_pb2.GetFlowsRequest) -> Answer:
    try:
        return Answer(
            [
                index(observer_pb2.GetFlowsResponse.FromString(data))
                async for chunk in observer.get_flows(request)
                for data in chunk
            ]
        )
    except RpcError as error:
        return Answer([], error.code, str(error))


def is_told_apart(request: observer_pb2.GetFlowsRequest | None) -> bool:
    """What differs on purpose, or is of 1.20, which the program does not know."""
    if request is None:
        return False
    filters = (*request.whitelist, *request.blacklist)
    return (
        request.follow  # does not end
        or bool(request.number and request.HasField("until"))
        or any("kafka" in one.protocol for one in filters)
        or "chunk_type" in str(filters)
        or (bool(request.field_mask.paths) and "time" not in request.field_mask.paths)
        or request.HasField("experimental")  # where old clients have their mask
        # Kubernetes' reader takes a zero byte for the end of a word, or of the text.
        or any(
            "\0" in text
            for one in filters
            for text in (*one.source_label, *one.destination_label, *one.node_labels)
        )
    )


# Of ``steady`` alone: agent and debug events count towards numbers. Always the same changes: of
# any there might be, some tell the libraries behind the two servers apart.
@pytest.mark.parametrize("sides", ["steady"], indirect=True)
async def test_changed_requests_get_the_status_that_hubble_gives(sides: Sides) -> None:
    dice = random.Random(7)
    asked: list[bytes] = []
    while len(asked) < CHANGED:
        data = spoiled(dice)
        if not is_told_apart(decoded(data)):
            asked.append(data)
    wrong = []
    for data, expected in zip(asked, statuses(sides.target, asked), strict=True):
        request = decoded(data)
        got = Answer([], "INTERNAL") if request is None else await answer(sides.observer, request)
        if (got.code, got.events) != (expected.code, expected.events):
            wrong.append((request, expected, got))
    wrong.sort(key=lambda one: len(str(one[0])))
    assert wrong[:3] == [], f"{len(wrong)} of {CHANGED} requests"


def statuses(target: str, asked: list[bytes]) -> list[Answer]:
    with grpc.insecure_channel(target) as channel:
        method: Any = channel.unary_stream(
            GET_FLOWS, response_deserializer=observer_pb2.GetFlowsResponse.FromString
        )

        def ask(data: bytes) -> Answer:
            try:
                return Answer([index(r) for r in method(data, timeout=60)])
            except grpc.RpcError as error:
                return Answer([], error.code().name, error.details() or "")

        return [ask(data) for data in asked]


def sense(message: str) -> str:
    """Errors as far as Hubble itself speaks, and not Go's libraries."""
    message = message.partition("\n")[0]
    return re.split(
        r"(?<=in filter:)|(?<=unable to parse requirement:)|(?<=CEL expression: ERROR:)", message
    )[0]


def paths(descriptor: Any, depth: int = 0) -> Iterator[str]:
    """All paths of a mask but those into one alternative of several: of a flow that has
    another, Hubble shows what an earlier flow had there.
    """
    for field in descriptor.fields:
        yield field.name
        inside = field.type == field.TYPE_MESSAGE and not field.is_repeated
        if inside and depth < 3 and field.containing_oneof is None:
            yield from (f"{field.name}.{path}" for path in paths(field.message_type, depth + 1))


async def test_random_field_masks_show_what_hubble_shows(sides: Sides, tell: Tell) -> None:
    seed = random.SystemRandom().getrandbits(32)
    tell(f"field masks, seed {seed}")
    dice = random.Random(seed)
    known = list(paths(flow_pb2.Flow().DESCRIPTOR))
    spoiled = ["nope", "", "source.nope", "Source", "labels", "source.labels.x", "source.", "ip"]
    asked = []
    for number in range(MASKS):
        mask = dice.sample(known, dice.choice([1, 2, 3, 5, 10]))
        mask += [dice.choice(spoiled)] if number % 10 == 0 else []
        begin = dice.randrange(3500)
        span = {"since": _time(begin), "until": _time(begin + 30)}
        asked.append(ParseDict(span, observer_pb2.GetFlowsRequest()))
        asked[-1].field_mask.paths.extend(mask)
    wrong = []
    for request, expected in zip(asked, shown_by_hubble(sides.target, asked), strict=True):
        try:
            got: list[Any] = [
                as_hubble(observer_pb2.GetFlowsResponse.FromString(data))
                async for chunk in sides.observer.get_flows(request)
                for data in chunk
            ]
        except RpcError as error:
            got = [f"{error.code} {str(error).partition(':')[0]}"]
        differ = [(a, b) for a, b in zip(got, expected, strict=False) if a != b]
        if len(got) != len(expected) or differ:
            wrong.append((request.field_mask.paths, len(got), len(expected), differ[:1]))
    wrong.sort(key=lambda one: len(one[0]))
    assert wrong[:3] == [], f"{len(wrong)} of {MASKS} masks, seed {seed}"


def shown_by_hubble(target: str, asked: list[observer_pb2.GetFlowsRequest]) -> list[list[Any]]:
    """Each answer, or its code and message."""
    with grpc.insecure_channel(target) as channel:
        method = get_flows(channel)

        def ask(request: observer_pb2.GetFlowsRequest) -> list[Any]:
            try:
                return list(method(request, timeout=60))
            except grpc.RpcError as error:
                return [f"{error.code().name} {error.details()}"]

        return [ask(request) for request in asked]


def as_hubble(response: observer_pb2.GetFlowsResponse) -> observer_pb2.GetFlowsResponse:
    """Without what came with 1.20, which the program does not know.

    And with an envelope made of the masked flow: a relay sorts by its time, so ours is whole.
    """
    if response.HasField("flow"):
        flow = response.flow
        assert response.time.seconds
        assert response.node_name == "oracle/node-a"
        response.ClearField("time")
        if flow.HasField("time"):
            response.time.CopyFrom(flow.time)
        response.node_name = flow.node_name
        if flow.l4.HasField("SCTP"):
            flow.l4.SCTP.ClearField("chunk_type")
    return response


def get_flows(channel: grpc.Channel) -> Any:
    return channel.unary_stream(
        "/observer.Observer/GetFlows",
        request_serializer=observer_pb2.GetFlowsRequest.SerializeToString,
        response_deserializer=observer_pb2.GetFlowsResponse.FromString,
    )


async def test_a_bool_that_may_be_absent_is_a_condition_unlike_hubbles(sides: Sides) -> None:
    bare, whole = (
        {"whitelist": [{"experimental": {"cel_expression": [text]}}], "field_mask": "time"}
        for text in ("_flow.is_reply", "_flow.is_reply == true")
    )
    (refused, expected) = hubbles(sides.target, [bare, whole])
    assert (refused.code, "wrapper(bool)" in refused.message) == ("UNKNOWN", True)
    assert (await ours(sides.observer, bare)).events == expected.events


async def test_random_requests_get_what_hubble_sends(sides: Sides, tell: Tell) -> None:
    seed = random.SystemRandom().getrandbits(32)
    asked = requests(random.Random(seed), sides.flows)
    tell(f"{len(asked)} random requests, seed {seed}")
    wrong = []
    sent = 0
    for request, expected in zip(asked, hubbles(sides.target, asked), strict=True):
        got = await ours(sides.observer, request)
        sent += len(got.events)
        same = (got.code, got.events) == (expected.code, expected.events)
        if not same or sense(got.message) != sense(expected.message):
            wrong.append((request, expected, got))
    wrong.sort(key=lambda one: len(str(one[0])))
    assert wrong[:3] == [], f"{len(wrong)} of {len(asked)} requests, seed {seed}"
    assert sent > len(asked), "the requests select something"
