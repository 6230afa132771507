"""Invariant: any ``GetFlowsRequest`` is answered, or refused in a sentence.

Answers are flows as their clients can read them, selected from a recorded stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from functools import cache

import trio
from google.protobuf.message import DecodeError

from api.history import History
from api.hubble.node import LocalNode
from api.hubble.observer import Observer
from api.hubble.rpc import RpcError
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.ledger import Ledger
from tests.fixtures import payloads, world
from tests.parsers.recorded import Parser, batch_of

FLOWS = 300
TEXTS = ("default/", "10.0.0.0/8", "a=b, c in (d)", "_flow.verdict == 2", "[0-9]+", "GET", "*.x")


def seeds() -> Iterator[bytes]:
    """Requests with each field of the filter, and with each kind of limit."""
    for field in flow_pb2.FlowFilter.DESCRIPTOR.fields:
        one = flow_pb2.FlowFilter()
        repeated = getattr(one, field.name)
        for text in TEXTS:
            if field.type == field.TYPE_STRING and field.is_repeated:
                repeated.append(text)
            elif field.type == field.TYPE_MESSAGE and field.name == "experimental":
                one.experimental.cel_expression.append(text)
        if field.type in (field.TYPE_ENUM, field.TYPE_INT32, field.TYPE_UINT32):
            repeated.append(1)
        yield observer_pb2.GetFlowsRequest(whitelist=[one], number=3).SerializeToString()
        yield observer_pb2.GetFlowsRequest(blacklist=[one], first=True).SerializeToString()
    request = observer_pb2.GetFlowsRequest(number=2**63, follow=False)
    request.since.seconds, request.until.seconds = 1, 2**40
    request.field_mask.paths.extend(["l4.TCP", "source.labels", "time"])
    yield request.SerializeToString()


@cache
def _observer() -> Observer:
    parser = Parser(world("v1.19"), (1, 19))
    history = History(parser.tables, parser.ledger, FLOWS)
    node = LocalNode("fuzz", emitter_version="0", uuid_prefix="0" * 24)
    observer = Observer(history, node, Ledger(), clock=lambda: 0)
    observer.publish(parser.parse(batch_of(payloads("v1.19", "all")[:FLOWS])))
    return observer


def check(data: bytes) -> None:
    """Ask, as the engine does, until the answer ends."""
    try:
        request = observer_pb2.GetFlowsRequest.FromString(data)
    except DecodeError:
        return
    request.follow = False
    trio.run(_ask, request)


async def _ask(request: observer_pb2.GetFlowsRequest) -> None:
    try:
        async with aclosing(_observer().get_flows(request)) as answers:
            async for chunk in answers:
                for message in chunk:
                    observer_pb2.GetFlowsResponse.FromString(message)
    except RpcError as error:
        if not str(error):
            raise
