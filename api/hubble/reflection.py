"""Server reflection, v1 and v1alpha: what there is to call, for grpcurl and the like.

Answers come from pools of descriptors; a file comes with everything it imports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from api.hubble.grpc_protos import REFLECTION, message_class
from api.hubble.rpc import Dialogue

_NOT_FOUND, _INVALID_ARGUMENT = 5, 3  # gRPC's numbers


def reflection_methods(
    services: Iterable[str], pools: Sequence[DescriptorPool], own: DescriptorPool
) -> Mapping[str, Dialogue]:
    """For ``services`` by full name, described in ``pools``; ``own`` is that of ``grpc_pool``."""
    names = sorted({*services, *(f"{package}.ServerReflection" for package in REFLECTION)})
    described = _Descriptions(names, (*pools, own))

    def dialogue(package: str) -> Dialogue:
        response = message_class(own, f"{package}.ServerReflectionResponse")

        def answer(request: Any) -> bytes:
            answered = response(valid_host=request.host, original_request=request)
            described.put_answer(request, answered)
            return bytes(answered.SerializeToString())

        return Dialogue(message_class(own, f"{package}.ServerReflectionRequest"), answer)

    return {
        f"/{package}.ServerReflection/ServerReflectionInfo": dialogue(package)
        for package in REFLECTION
    }


class _Descriptions:
    def __init__(self, services: Sequence[str], pools: Sequence[DescriptorPool]) -> None:
        self._services = services
        self._pools = pools

    def put_answer(self, request: Any, answer: Any) -> None:
        """Fill in the part of ``answer`` that ``request`` asks for."""
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    answer.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                self._put_file(self._file_of_name(request.file_by_filename), answer)
            elif kind == "file_containing_symbol":
                self._put_file(self._file_of_symbol(request.file_containing_symbol), answer)
            elif kind == "all_extension_numbers_of_type":
                self._file_of_symbol(request.all_extension_numbers_of_type)
                numbers = answer.all_extension_numbers_response  # proto3: there are none
                numbers.base_type_name = request.all_extension_numbers_of_type
            elif kind == "file_containing_extension":
                raise KeyError(request.file_containing_extension.containing_type)
            else:
                answer.error_response.error_code = _INVALID_ARGUMENT
                answer.error_response.error_message = "the request asks for nothing"
        except KeyError as error:
            answer.error_response.error_code = _NOT_FOUND
            answer.error_response.error_message = f"not found: {error.args[0]}"

    def _put_file(self, file: FileDescriptor, answer: Any) -> None:
        found: dict[str, bytes] = {}
        waiting = [file]
        while waiting:
            file = waiting.pop()
            if file.name not in found:
                found[file.name] = file.serialized_pb
                waiting.extend(file.dependencies)
        answer.file_descriptor_response.file_descriptor_proto.extend(found.values())

    def _file_of_name(self, name: str) -> FileDescriptor:
        for pool in self._pools:
            try:
                return pool.FindFileByName(name)
            except KeyError:
                continue
        raise KeyError(name)

    def _file_of_symbol(self, symbol: str) -> FileDescriptor:
        for name in (symbol, symbol.rpartition(".")[0]):  # methods are known by their service
            for pool in self._pools:
                try:
                    return pool.FindFileContainingSymbol(name)
                except KeyError:
                    continue
        raise KeyError(symbol)
