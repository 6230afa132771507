"""A recording as JSON lines, one a record: what ``ciliary decode`` prints.

    {"i": 0, "kind": "flow", "event": {...}}      kind: flow, agent, debug, lost
    {"i": 1, "kind": "error", "class": "decode", "error": "..."}

``event`` is the Flow API's message as protojson with proto field names. Times are those of
``bridge.recorded``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from api.history import History
from api.hubble.events import agent_event_message, debug_event_message, lost_event_message
from api.hubble.messages import FlowMessages, to_json
from bridge.recorded import BATCH, Recorded
from parsers.headers import Release
from parsers.pipeline import ParsedBatch


def decoded_lines(
    path: Path,
    world: Mapping[str, Any],
    release: Release = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """The lines in order; ``tell`` gets a sentence on what was left out.

    ``UsageError``: it is no recording.
    """
    recorded = Recorded(path, world, release)
    messages = FlowMessages(recorded.tables, recorded.node)
    # A history of one batch frees the rows of the tables that nothing refers to any more.
    history = History(recorded.tables, recorded.ledger, capacity=BATCH, drop_capacity=0)
    for parsed in recorded.batches():
        history.append(parsed.flows)
        yield from _lines(parsed, messages)
    if recorded.cut_off:
        tell(f"{path} is cut off: a record at its end is not whole and was left out")


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
