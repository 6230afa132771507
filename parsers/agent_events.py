"""Agent notifications (message type 130): one record to flow.AgentEvent.

A record is a gob stream of a type number and a JSON text. A text that does not fit its type
gives the ``unknown`` notification with the number and the text, as in Hubble. The types
of services are gone from agents since 1.18, but stay in the API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from parsers import go_json
from parsers.go_json import Convert, array, integer, string, unsigned
from parsers.go_text import parse_rfc3339, ranged
from parsers.gob import StreamDecoder
from parsers.gob_schema import Struct, Text, Unsigned


@dataclass(frozen=True, slots=True)
class UnknownNotification:
    """flow.AgentEventUnknown: the number as text, the notification as JSON."""

    type: str
    notification: str


@dataclass(frozen=True, slots=True)
class AgentStart:
    """flow.TimeNotification: ns since the epoch, None when the text was no time."""

    time: int | None


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """flow.PolicyUpdateNotification."""

    labels: tuple[str, ...]
    revision: int
    rule_count: int


@dataclass(frozen=True, slots=True)
class EndpointRegenerate:
    """flow.EndpointRegenNotification."""

    id: int
    labels: tuple[str, ...]
    error: str


@dataclass(frozen=True, slots=True)
class EndpointUpdate:
    """flow.EndpointUpdateNotification."""

    id: int
    labels: tuple[str, ...]
    error: str
    pod_name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class IpcacheUpdate:
    """flow.IPCacheNotification; ``old_identity`` None when there was none."""

    cidr: str
    identity: int
    old_identity: int | None
    host_ip: str
    old_host_ip: str
    encrypt_key: int
    namespace: str
    pod_name: str


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """flow.ServiceUpsertNotificationAddr."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class ServiceUpsert:
    """flow.ServiceUpsertNotification."""

    id: int
    frontend_address: ServiceAddress
    backend_addresses: tuple[ServiceAddress, ...]
    type: str
    traffic_policy: str
    name: str
    namespace: str
    ext_traffic_policy: str
    int_traffic_policy: str


@dataclass(frozen=True, slots=True)
class ServiceDelete:
    """flow.ServiceDeleteNotification."""

    id: int


Notification: TypeAlias = (
    UnknownNotification
    | AgentStart
    | PolicyUpdate
    | EndpointRegenerate
    | EndpointUpdate
    | IpcacheUpdate
    | ServiceUpsert
    | ServiceDelete
)

KINDS: Mapping[type[Notification], str] = MappingProxyType(
    {
        UnknownNotification: "unknown",
        AgentStart: "agent_start",
        PolicyUpdate: "policy_update",
        EndpointRegenerate: "endpoint_regenerate",
        EndpointUpdate: "endpoint_update",
        IpcacheUpdate: "ipcache_update",
        ServiceUpsert: "service_upsert",
        ServiceDelete: "service_delete",
    }
)
"""The field of flow.AgentEvent's ``notification`` that each shape is."""


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """flow.AgentEvent; ``type`` is a flow.AgentEventType, which numbers differently."""

    type: int
    notification: Notification


_LABELS: dict[str, Convert] = {"labels": array(string)}
_POLICY = _LABELS | {"revision": unsigned(64), "rule_count": integer(-(1 << 63), (1 << 63) - 1)}
_REGENERATION = _LABELS | {"id": unsigned(64), "error": string}
_ENDPOINT = _REGENERATION | {"pod-name": string, "namespace": string}
_IPCACHE: dict[str, Convert] = {
    "cidr": string, "id": unsigned(32), "old-id": unsigned(32), "host-ip": go_json.address,
    "old-host-ip": go_json.address, "encrypt-key": unsigned(8), "namespace": string,
    "pod-name": string,
}  # fmt: skip


def _service_address(value: Any) -> ServiceAddress:
    found = go_json.fields(value, {"ip": go_json.address, "port": unsigned(16)})
    return ServiceAddress(found.get("ip") or "<nil>", found.get("port", 0))


_SERVICE: dict[str, Convert] = {
    "id": unsigned(32), "frontend-address": _service_address,
    "backend-addresses": array(_service_address), "type": string, "traffic-policy": string,
    "ext-traffic-policy": string, "int-traffic-policy": string, "name": string,
    "namespace": string, "num-backends-omitted": integer(-(1 << 63), (1 << 63) - 1),
}  # fmt: skip


def _agent_start(found: dict[str, Any]) -> AgentStart:
    return AgentStart(parse_rfc3339(found.get("time", "").encode()))


def _policy_update(found: dict[str, Any]) -> PolicyUpdate:
    return PolicyUpdate(
        found.get("labels", ()), found.get("revision", 0), found.get("rule_count", 0)
    )


def _endpoint_regenerate(found: dict[str, Any]) -> EndpointRegenerate:
    return EndpointRegenerate(found.get("id", 0), found.get("labels", ()), found.get("error", ""))


def _endpoint_update(found: dict[str, Any]) -> EndpointUpdate:
    return EndpointUpdate(
        id=found.get("id", 0),
        labels=found.get("labels", ()),
        error=found.get("error", ""),
        pod_name=found.get("pod-name", ""),
        namespace=found.get("namespace", ""),
    )


def _ipcache_update(found: dict[str, Any]) -> IpcacheUpdate:
    return IpcacheUpdate(
        cidr=found.get("cidr", ""),
        identity=found.get("id", 0),
        old_identity=found.get("old-id"),
        host_ip=found.get("host-ip", ""),
        old_host_ip=found.get("old-host-ip", ""),
        encrypt_key=found.get("encrypt-key", 0),
        namespace=found.get("namespace", ""),
        pod_name=found.get("pod-name", ""),
    )


def _service_upsert(found: dict[str, Any]) -> ServiceUpsert:
    external = found.get("ext-traffic-policy", "")
    return ServiceUpsert(
        id=found.get("id", 0),
        frontend_address=found.get("frontend-address", ServiceAddress("<nil>", 0)),
        backend_addresses=found.get("backend-addresses", ()),
        type=found.get("type", ""),
        traffic_policy=found.get("traffic-policy", external),  # its old name
        name=found.get("name", ""),
        namespace=found.get("namespace", ""),
        ext_traffic_policy=external,
        int_traffic_policy=found.get("int-traffic-policy", ""),
    )


def _service_delete(found: dict[str, Any]) -> ServiceDelete:
    return ServiceDelete(found.get("id", 0))


_Shape: TypeAlias = tuple[int, Mapping[str, Convert], Callable[[dict[str, Any]], Notification]]
SHAPES: Mapping[int, _Shape] = MappingProxyType(
    {
        2: (2, {"time": string}, _agent_start),
        3: (5, _REGENERATION, _endpoint_regenerate),
        4: (6, _REGENERATION, _endpoint_regenerate),
        5: (3, _POLICY, _policy_update),
        6: (4, _POLICY, _policy_update),
        7: (7, _ENDPOINT, _endpoint_update),
        8: (8, _ENDPOINT, _endpoint_update),
        9: (9, _IPCACHE, _ipcache_update),
        10: (10, _IPCACHE, _ipcache_update),
        11: (11, _SERVICE, _service_upsert),
        12: (12, {"id": unsigned(32)}, _service_delete),
    }
)
"""By the type on the wire: flow.AgentEventType, JSON members, what is made of them."""

_SERVICE_TYPES = (11, 12)


class AgentEventDecoder:
    """Decodes agent notifications. ``release``: the agent's (major, minor) where known."""

    def __init__(self, release: tuple[int, int] | None = None) -> None:
        self._services = release is None or release < (1, 18)
        self._stream = StreamDecoder(Struct({"Type": Unsigned(32), "Text": Text()}))

    def decode(self, data: bytes | memoryview) -> AgentEvent:
        """One record, its message type byte included. ProtocolError of class ``gob``."""
        wire_type, encoded, _ = self._stream.decode(bytes(data), 1)
        text = ranged(encoded)
        try:
            parsed = go_json.parse(text)
        except ValueError:
            return AgentEvent(0, UnknownNotification(str(wire_type), go_json.quoted(encoded)))
        shape = SHAPES.get(wire_type)
        if shape and (self._services or wire_type not in _SERVICE_TYPES):
            type_, members, make = shape
            try:
                return AgentEvent(type_, make(go_json.fields(parsed, members)))
            except go_json.MismatchError:
                pass
        return AgentEvent(0, UnknownNotification(str(wire_type), go_json.compact(text)))
