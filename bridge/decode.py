"""A recording as JSON lines, one a record: what ``ciliary decode`` prints.

    {"i": 0, "kind": "flow", "event": {...}}      kind: flow, agent, debug, lost
    {"i": 1, "kind": "error", "class": "decode", "error": "..."}

``event`` is the Flow API's message as protojson with proto field names. A recording has
no times: the world's clock stamps the records (``base_time`` + i * ``step_ns``), or without
one the file's own time, rising by a nanosecond a record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from api.history import History
from api.hubble.events import agent_event_message, debug_event_message, lost_event_message
from api.hubble.messages import FlowMessages, to_json
from api.hubble.node import LocalNode
from bridge import __version__
from bridge.os_errors import reason_of
from bridge.recording import cannot_read, read_messages
from parsers.errors import ProtocolError, UsageError
from parsers.framing import PayloadStream
from parsers.headers import Release
from parsers.ledger import Ledger
from parsers.pipeline import Clock, MonitorPipeline, ParsedBatch, new_tables
from parsers.world import directory_of, node_name_of

_BATCH = 5000


def decoded_lines(path: Path, world: Mapping[str, Any], release: Release = None) -> Iterator[str]:
    """The lines in order. ``UsageError``: it is no recording, or breaks off inside."""
    directory = directory_of(world)
    tables, ledger = new_tables(), Ledger()
    pipeline = MonitorPipeline(tables, directory, ledger, release=release or _release_of(world))
    node = LocalNode(
        node_name_of(world),
        tuple(sorted((world.get("node") or {}).get("labels") or ())),
        emitter_version=__version__,
        interface_name=directory.link_name,
        **({"uuid_prefix": world["uuid_prefix"]} if world.get("uuid_prefix") else {}),
    )
    messages = FlowMessages(tables, node)
    # A history of one batch frees the rows of the tables that nothing refers to any more.
    history = History(tables, ledger, capacity=_BATCH, drop_capacity=0)
    clock = clock_of(world, path)
    stream = PayloadStream()
    for part in read_messages(path):
        stream.feed(part.definitions)
        stream.feed(part.payloads)
        try:
            while (payloads := stream.take(_BATCH)) is not None:
                parsed = pipeline.parse(payloads, clock)
                history.append(parsed.flows)
                yield from _lines(parsed, messages)
        except ProtocolError as error:
            raise UsageError(f"{path} is not a recording: {error}") from None


def _lines(parsed: ParsedBatch, messages: FlowMessages) -> list[str]:
    found: dict[int, str] = {}
    for row, sequence in enumerate(parsed.flows.sequence.tolist()):
        found[sequence] = _event(sequence, "flow", messages.flow(parsed.flows, row))
    for agent in parsed.agent_events:
        found[agent.sequence] = _event(agent.sequence, "agent", agent_event_message(agent.event))
    for debug in parsed.debug_events:
        found[debug.sequence] = _event(debug.sequence, "debug", debug_event_message(debug))
    for lost in parsed.lost_events:
        found[lost.sequence] = _event(lost.sequence, "lost", lost_event_message(lost))
    for error in parsed.errors:
        found[error.sequence] = json.dumps(
            {
                "i": error.sequence,
                "kind": "error",
                "class": error.error_class,
                "error": error.text,
            },
            separators=(",", ":"),
        )
    return [found[sequence] for sequence in sorted(found)]


def _event(sequence: int, kind: str, message: Any) -> str:
    return f'{{"i":{sequence},"kind":"{kind}","event":{to_json(message)}}}'


def clock_of(world: Mapping[str, Any], path: Path) -> Clock:
    """The times of a recording's records."""
    try:
        base, step = path.stat().st_mtime_ns, 1
    except OSError as error:
        raise cannot_read(path, reason_of(error)) from None
    if world.get("base_time"):
        begin = datetime.fromisoformat(world["base_time"])
        base, step = int(begin.timestamp()) * 10**9 + begin.microsecond * 1000, world["step_ns"]
    return lambda sequence: base + sequence.astype(np.int64) * step


def _release_of(world: Mapping[str, Any]) -> Release:
    major, _, minor = str(world.get("release") or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
