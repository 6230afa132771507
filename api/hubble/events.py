"""Agent, debug and lost events as messages of the Flow API."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from api.hubble.messages import put_endpoint
from api.v1.flow import flow_pb2
from parsers.agent_events import KINDS, AgentEvent, AgentStart, IpcacheUpdate, ServiceAddress
from parsers.pipeline import DebugRecord, LostRecords


def agent_event_message(event: AgentEvent) -> flow_pb2.AgentEvent:
    """flow.AgentEvent; the notifications have the API's own field names."""
    message = flow_pb2.AgentEvent(type=event.type)  # type: ignore[arg-type]
    notification = event.notification
    target = getattr(message, KINDS[type(notification)])
    target.SetInParent()
    if isinstance(notification, AgentStart):
        if notification.time is not None:
            target.time.FromNanoseconds(notification.time)
        return message
    for field in fields(notification):
        _put(target, field.name, getattr(notification, field.name))
    if isinstance(notification, IpcacheUpdate) and notification.old_identity is not None:
        target.old_identity.value = notification.old_identity
    return message


def _put(target: Any, name: str, value: Any) -> None:
    if value is None or name == "old_identity":
        return
    if isinstance(value, tuple):
        if value and isinstance(value[0], ServiceAddress):
            for address in value:
                getattr(target, name).add(ip=address.ip, port=address.port)
        else:
            getattr(target, name).extend(value)
    elif isinstance(value, ServiceAddress):
        address = getattr(target, name)
        address.SetInParent()
        address.ip, address.port = value.ip, value.port
    else:
        setattr(target, name, value)


def debug_event_message(record: DebugRecord) -> flow_pb2.DebugEvent:
    """flow.DebugEvent."""
    event = record.event
    message = flow_pb2.DebugEvent(type=event.type, message=event.message)  # type: ignore[arg-type]
    if record.source is not None:
        put_endpoint(message.source, record.source)
    message.hash.value = event.hash
    message.arg1.value, message.arg2.value, message.arg3.value = event.arg1, event.arg2, event.arg3
    message.cpu.value = event.cpu
    return message


def lost_event_message(lost: LostRecords) -> flow_pb2.LostEvent:
    """flow.LostEvent of the kernel's perf ring."""
    message = flow_pb2.LostEvent(source=flow_pb2.PERF_EVENT_RING_BUFFER, num_events_lost=lost.count)
    if lost.cpu is not None:
        message.cpu.value = (lost.cpu + (1 << 31)) % (1 << 32) - (1 << 31)
    return message
