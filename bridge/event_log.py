"""The log: one event a line, an event's name first, then its fields.

Strategy: an event's name is a fixed ``area.what`` word, so that logs can be searched and
counted; everything that varies is a field. A name is written at most ``burst`` times a
minute; what was held back is told as ``suppressed`` on the next line of that name, so a
peer that misbehaves a thousand times costs twenty lines and a number.

Values are escaped (JSON), so that bytes of a peer cannot move a terminal's cursor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

LEVELS = ("debug", "info", "warning", "error")
_MINUTE = 60.0


@dataclass(slots=True)
class _Budget:
    since: float
    written: int = 0
    suppressed: int = 0


def _to_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


class EventLog:
    """Writes events at or above ``level`` as text or JSON lines."""

    __slots__ = ("_budgets", "_burst", "_clock", "_format", "_threshold", "_write")

    def __init__(
        self,
        *,
        level: str = "info",
        line_format: Literal["text", "json"] = "text",
        write: Callable[[str], None] = _to_stderr,
        clock: Callable[[], float] = time.time,
        burst: int = 20,
    ) -> None:
        self.set_level(level)
        self._format = line_format
        self._write = write
        self._clock = clock
        self._burst = burst
        self._budgets: dict[str, _Budget] = {}

    def set_level(self, level: str) -> None:
        """One of ``LEVELS``."""
        self._threshold = LEVELS.index(level)

    def debug(self, event: str, **fields: Any) -> None:
        """What only a developer wants."""
        self._log(0, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """A change of state that is as it should be."""
        self._log(1, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is degraded and will be tried again."""
        self._log(2, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something needs a person."""
        self._log(3, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if level < self._threshold:
            return
        now = self._clock()
        budget = self._budgets.setdefault(event, _Budget(now))
        if now - budget.since >= _MINUTE:
            budget.since, budget.written = now, 0
        if budget.written >= self._burst:
            budget.suppressed += 1
            return
        budget.written += 1
        if budget.suppressed:
            fields = {**fields, "suppressed": budget.suppressed}
            budget.suppressed = 0
        self._write(self._line(now, LEVELS[level], event, fields))

    def _line(self, now: float, level: str, event: str, fields: dict[str, Any]) -> str:
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        when = when.replace("+00:00", "Z")
        if self._format == "json":
            return json.dumps({"time": when, "level": level, "event": event, **fields}, default=str)
        said = " ".join(f"{k}={json.dumps(v, default=str)}" for k, v in fields.items())
        return f"{when} {level:<7} {event} {said}".rstrip()
