"""What a decoded agent or debug event says, in the shape of its JSON."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from api.v1.flow import flow_pb2
from parsers.agent_events import KINDS, AgentEvent
from parsers.debug_events import DebugEvent

_ENUMS = flow_pb2.DESCRIPTOR.enum_types_by_name
AGENT_TYPES = {v.number: v.name for v in _ENUMS["AgentEventType"].values}
DEBUG_TYPES = {v.number: v.name for v in _ENUMS["DebugEventType"].values}
LONG = ("PolicyUpdate", "EndpointRegenerate", "EndpointUpdate")  # 64-bit numbers are strings


def agent_json(event: AgentEvent) -> dict[str, Any]:
    shown = _shown(event.notification)
    if isinstance(shown.get("time"), int):
        shown["time"] = _time_text(shown["time"])
    kind = {KINDS[type(event.notification)]: shown}
    return ({"type": AGENT_TYPES[event.type]} if event.type else {}) | kind


def debug_json(event: DebugEvent) -> dict[str, Any]:
    """Without the names of the endpoint, which the record does not know."""
    numbers = {n: getattr(event, n) for n in ("hash", "arg1", "arg2", "arg3", "message", "cpu")}
    return (
        ({"type": DEBUG_TYPES.get(event.type, event.type)} if event.type else {})
        | ({"source": {"ID": event.source}} if event.source else {})
        | numbers
    )


def _shown(value: Any, *, long: bool = False) -> Any:
    if isinstance(value, tuple):
        return [_shown(item, long=long) for item in value]
    if is_dataclass(value):
        long = type(value).__name__ in LONG
        members = {f.name: getattr(value, f.name) for f in fields(value)}
        return {
            name: _shown(member, long=long)
            for name, member in members.items()
            if member or (name == "old_identity" and member is not None)
        }
    return str(value) if long and isinstance(value, int) else value


def _time_text(nanoseconds: int) -> str:
    """As protojson prints a Timestamp: no fraction, or 3, 6 or 9 digits of it."""
    seconds, fraction = divmod(nanoseconds, 10**9)
    digits = f"{fraction:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{digits}Z" if digits else f"{text}Z"
