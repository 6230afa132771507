"""Our protos are Cilium's: every file compared with what Hubble's own server reflects.

The server here is 1.19.4; what 1.20 added is the closed list ``ADDED_IN_1_20``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from api.v1.peer import peer_pb2
from api.v1.relay import relay_pb2

OURS = {m.DESCRIPTOR.name: m.DESCRIPTOR for m in (flow_pb2, observer_pb2, peer_pb2, relay_pb2)}

Facts = dict[str, Any]

ADDED_IN_1_20: Facts = {
    "SCTP.chunk_type": (
        3,
        "TYPE_ENUM",
        ".flow.SCTPChunkType",
        "LABEL_OPTIONAL",
        "",
        "chunkType",
        False,
    ),
    "SCTPChunkType": [],
    "SCTPChunkType.UNSUPPORTED": (0, False),
    "SCTPChunkType.INIT": (1, False),
    "SCTPChunkType.INIT_ACK": (2, False),
    "SCTPChunkType.SHUTDOWN": (3, False),
    "SCTPChunkType.SHUTDOWN_ACK": (4, False),
    "SCTPChunkType.SHUTDOWN_COMPLETE": (5, False),
    "SCTPChunkType.ABORT": (6, False),
    "DropReason.DROP_FRAG_NOT_FOUND_WORLD": (207, False),
}


def facts(file: descriptor_pb2.FileDescriptorProto) -> Facts:
    """Everything of a file that a peer could notice, by dotted name."""
    found: Facts = {
        "package": file.package,
        "syntax": file.syntax,
        "imports": sorted(file.dependency),
        "public imports": sorted(file.dependency[i] for i in file.public_dependency),
    }
    for message in file.message_type:
        found |= _of_message(message, message.name, file.package)
    for enum in file.enum_type:
        found |= _of_enum(enum, enum.name)
    for service in file.service:
        for method in service.method:
            found[f"{service.name}.{method.name}"] = (
                method.input_type,
                method.output_type,
                method.client_streaming,
                method.server_streaming,
            )
    return found


def _of_message(message: descriptor_pb2.DescriptorProto, name: str, package: str) -> Facts:
    reserved = [(r.start, r.end) for r in message.reserved_range]
    found: Facts = {
        name: (sorted(reserved), sorted(message.reserved_name), message.options.deprecated)
    }
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
        found[f"{name}.{field.name}"] = (
            field.number,
            descriptor_pb2.FieldDescriptorProto.Type.Name(field.type),
            field.type_name,
            descriptor_pb2.FieldDescriptorProto.Label.Name(field.label),
            oneof,
            # Descriptors compiled into Python leave the name out where it is the usual one.
            field.json_name or _pooled(f"{package}.{name}.{field.name}").json_name,
            field.options.deprecated,
        )
    for nested in message.nested_type:
        found |= _of_message(nested, f"{name}.{nested.name}", package)
    for enum in message.enum_type:
        found |= _of_enum(enum, f"{name}.{enum.name}")
    return found


def _pooled(name: str) -> FieldDescriptor:
    field: FieldDescriptor = descriptor_pool.Default().FindFieldByName(name)
    return field


def _of_enum(enum: descriptor_pb2.EnumDescriptorProto, name: str) -> Facts:
    found: Facts = {name: [(r.start, r.end) for r in enum.reserved_range]}
    for value in enum.value:
        found[f"{name}.{value.name}"] = (value.number, value.options.deprecated)
    return found


@pytest.fixture(scope="module")
def reflected(hubble_server: str) -> Iterator[Any]:
    """The server's descriptors by reflection: ``FindFileByName``."""
    client = pytest.importorskip(
        "grpc_reflection.v1alpha.proto_reflection_descriptor_database"
    )  # of the package grpcio-reflection
    with grpc.insecure_channel(hubble_server) as channel:
        yield client.ProtoReflectionDescriptorDatabase(channel)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_proto_file_equals_ciliums_but_for_what_1_20_added(name: str, reflected: Any) -> None:
    ours = descriptor_pb2.FileDescriptorProto()
    OURS[name].CopyToProto(ours)
    added = ADDED_IN_1_20 if name == "flow/flow.proto" else {}
    assert facts(reflected.FindFileByName(name)) | added == facts(ours)


def test_the_list_of_additions_holds_nothing_that_1_19_had(
    reflected: Any,
) -> None:
    old = facts(reflected.FindFileByName("flow/flow.proto"))
    assert [name for name in ADDED_IN_1_20 if name in old] == []
