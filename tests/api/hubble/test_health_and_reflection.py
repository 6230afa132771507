"""gRPC's own services as their own clients see them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from api.hubble.grpc_engine import open_engine
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from api.v1.peer import peer_pb2
from tests.api.hubble.serving import serving
from tests.api.hubble.test_engines import in_thread, services
from tests.api.hubble.test_followers_miss_nothing import Agent

SERVICES = {
    "observer.Observer",
    "peer.Peer",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture
async def channel() -> AsyncIterator[grpc.Channel]:
    async with serving(open_engine, services(Agent()), "127.0.0.1:0") as engine:
        with grpc.insecure_channel(engine.addresses[0]) as opened:
            yield opened


def health(channel: grpc.Channel, method: str) -> Any:
    """A call of the health service: its messages are a string and an enumeration numbered 1,
    on the wire the same as these.
    """
    opened = channel.unary_stream if method == "Watch" else channel.unary_unary
    return opened(
        f"/grpc.health.v1.Health/{method}", StringValue.SerializeToString, Int32Value.FromString
    )


@pytest.mark.parametrize("name", ["", "hubble.server.Observer"])
async def test_the_server_and_its_observer_are_serving(name: str, channel: grpc.Channel) -> None:
    check = health(channel, "Check")
    assert (await in_thread(check, StringValue(value=name))).value == 1
    watch = health(channel, "Watch")(StringValue(value=name))
    assert (await in_thread(next, watch)).value == 1
    watch.cancel()


async def test_an_unknown_service_is_not_found_and_may_be_waited_for(
    channel: grpc.Channel,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(health(channel, "Check"), StringValue(value="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = health(channel, "Watch")(StringValue(value="nobody"))
    assert (await in_thread(next, watch)).value == 3
    watch.cancel()


async def test_all_services_with_a_health_are_listed(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/grpc.health.v1.Health/List", bytes, bytes)
    listed: bytes = await in_thread(call, b"")
    name = b"hubble.server.Observer"
    entries = {b"\x0a\x06\x0a\x00\x12\x02\x08\x01",
               b"\x0a\x1c\x0a\x16" + name + b"\x12\x02\x08\x01"}  # fmt: skip
    assert {listed[:8], listed[8:]} == entries or {listed[:30], listed[30:]} == entries


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services(version: str, channel: grpc.Channel) -> None:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(host="here", list_services="")
    answers = await in_thread(list, call(iter([request, request])))
    assert len(answers) == 2
    for answer in answers:
        assert {s.name for s in answer.list_services_response.service} == SERVICES
        assert (answer.valid_host, answer.original_request) == ("here", request)


async def test_reflection_gives_every_method_and_message(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    for ours in (flow_pb2, observer_pb2, peer_pb2):
        found = await in_thread(database.FindFileByName, ours.DESCRIPTOR.name)
        assert found.SerializeToString(deterministic=True) == ours.DESCRIPTOR.serialized_pb
    for symbol, file in (
        ("observer.Observer.GetFlows", "observer/observer.proto"),
        ("flow.Flow", "flow/flow.proto"),
        ("grpc.health.v1.Health", "grpc/health/v1/health.proto"),
        ("google.protobuf.Timestamp", "google/protobuf/timestamp.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
    ):
        found = await in_thread(database.FindFileContainingSymbol, symbol)
        assert found.name == file


async def test_reflection_of_what_is_not_there_is_an_error_in_the_answer(
    channel: grpc.Channel,
) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    of = reflection_pb2.ServerReflectionRequest
    extension = reflection_pb2.ExtensionRequest(containing_type="flow.Flow", extension_number=7)
    requests = [
        of(file_by_filename="no.proto"),
        of(file_containing_symbol="flow.Nothing.at_all"),
        of(file_containing_extension=extension),
        of(all_extension_numbers_of_type="flow.Flow"),
        of(),
    ]
    with trio.fail_after(20):
        answers = await in_thread(list, stub.ServerReflectionInfo(iter(requests)))
    assert [a.error_response.error_code for a in answers] == [5, 5, 5, 0, 3]
    assert answers[0].error_response.error_message == "not found: no.proto"
    assert answers[3].all_extension_numbers_response.base_type_name == "flow.Flow"
