"""The messages of gRPC's own services, health and reflection, made without their stubs.

They live in a pool of their own: grpcio's packages register the same names from other
files, which one process's common pool does not take.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
HEALTH = "grpc.health.v1"

_HEALTH_FILE = "grpc/health/v1/health.proto"
_SERVING_STATUS = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
}


def grpc_pool() -> DescriptorPool:
    """A pool of the three files."""
    pool = DescriptorPool()
    pool.Add(_health())
    for package in REFLECTION:
        pool.Add(_reflection(package))
    return pool


def message_class(pool: DescriptorPool, name: str) -> Any:
    """The class of a message by its full name."""
    return GetMessageClass(pool.FindMessageTypeByName(name))


def _health() -> FileDescriptorProto:
    file = FileDescriptorProto(name=_HEALTH_FILE, package=HEALTH, syntax="proto3")
    _message(file, "HealthCheckRequest", "1 string service")
    response = _message(
        file, "HealthCheckResponse", "1 enum.HealthCheckResponse.ServingStatus status"
    )
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(_SERVING_STATUS):
        status.value.add(name=name, number=number)
    _message(file, "HealthListRequest")
    listed = _message(file, "HealthListResponse", "1 *HealthListResponse.StatusesEntry statuses")
    entry = listed.nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    _fields(entry, HEALTH, "1 string key", "2 HealthCheckResponse value")
    service = file.service.add(name="Health")
    for method, kind in (("Check", "Check"), ("List", "List"), ("Watch", "Check")):
        service.method.add(
            name=method,
            input_type=f".{HEALTH}.Health{kind}Request",
            output_type=f".{HEALTH}.Health{kind}Response",
            server_streaming=method == "Watch",
        )
    return file


def _reflection(package: str) -> FileDescriptorProto:
    path = f"{package.replace('.', '/')}/reflection.proto"
    file = FileDescriptorProto(name=path, package=package, syntax="proto3")
    _message(
        file, "ServerReflectionRequest", "1 string host",
        "3 string file_by_filename | message_request",
        "4 string file_containing_symbol | message_request",
        "5 ExtensionRequest file_containing_extension | message_request",
        "6 string all_extension_numbers_of_type | message_request",
        "7 string list_services | message_request",
    )  # fmt: skip
    _message(file, "ExtensionRequest", "1 string containing_type", "2 int32 extension_number")
    _message(
        file, "ServerReflectionResponse", "1 string valid_host",
        "2 ServerReflectionRequest original_request",
        "4 FileDescriptorResponse file_descriptor_response | message_response",
        "5 ExtensionNumberResponse all_extension_numbers_response | message_response",
        "6 ListServiceResponse list_services_response | message_response",
        "7 ErrorResponse error_response | message_response",
    )  # fmt: skip
    _message(file, "FileDescriptorResponse", "1 *bytes file_descriptor_proto")
    _message(
        file, "ExtensionNumberResponse", "1 string base_type_name", "2 *int32 extension_number"
    )
    _message(file, "ListServiceResponse", "1 *ServiceResponse service")
    _message(file, "ServiceResponse", "1 string name")
    _message(file, "ErrorResponse", "1 int32 error_code", "2 string error_message")
    file.service.add(name="ServerReflection").method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


def _message(file: FileDescriptorProto, name: str, *fields: str) -> DescriptorProto:
    message = file.message_type.add(name=name)
    _fields(message, file.package, *fields)
    return message


def _fields(message: DescriptorProto, package: str, *fields: str) -> None:
    """Each as "number type name", the type with a star when repeated, "| oneof" behind it."""
    for text in fields:
        number, kind, name, *oneof = text.replace(" |", "").split()
        field = message.field.add(name=name, number=int(number))
        repeated = kind.startswith("*")
        field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        kind = kind.removeprefix("*")
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type = field.TYPE_ENUM if kind.startswith("enum.") else field.TYPE_MESSAGE
            field.type_name = f".{package}.{kind.removeprefix('enum.')}"
        if oneof:
            if oneof[0] not in [declared.name for declared in message.oneof_decl]:
                message.oneof_decl.add(name=oneof[0])
            field.oneof_index = 0
