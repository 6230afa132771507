"""Asking a Hubble server: the calls that our own commands make, blocking, for a thread."""

from __future__ import annotations

from typing import Any, Self

import grpc

from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.errors import UsageError

_OBSERVER = "/observer.Observer/"


class HubbleClient:
    """A server at ``host:port`` or ``unix:///path``; ``UsageError`` when it does not answer."""

    def __init__(self, target: str, timeout: float = 5.0) -> None:
        self._target = target
        self._timeout = timeout
        self._channel = grpc.insecure_channel(target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def server_status(self) -> observer_pb2.ServerStatusResponse:
        """What ``hubble status`` asks."""
        call = self._channel.unary_unary(
            _OBSERVER + "ServerStatus",
            request_serializer=observer_pb2.ServerStatusRequest.SerializeToString,
            response_deserializer=observer_pb2.ServerStatusResponse.FromString,
        )
        try:
            answer: observer_pb2.ServerStatusResponse = call(
                observer_pb2.ServerStatusRequest(), timeout=self._timeout, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise self._refused(error) from None
        return answer

    def last_flows(self, count: int) -> list[flow_pb2.Flow]:
        """What ``hubble observe --last`` asks."""
        call = self._channel.unary_stream(
            _OBSERVER + "GetFlows",
            request_serializer=observer_pb2.GetFlowsRequest.SerializeToString,
            response_deserializer=observer_pb2.GetFlowsResponse.FromString,
        )
        request = observer_pb2.GetFlowsRequest(number=count)
        try:
            answers = list(call(request, timeout=self._timeout, wait_for_ready=True))
        except grpc.RpcError as error:
            raise self._refused(error) from None
        return [answer.flow for answer in answers if answer.HasField("flow")]

    def _refused(self, error: grpc.RpcError) -> UsageError:
        call: Any = error  # grpc raises errors that are calls as well; its types do not say so
        return UsageError(f"{self._target} answered {call.code().name}: {call.details()}")
