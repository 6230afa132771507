"""Parts that may fail, and an agent that does not.

Each part (a source, a listener) runs under ``keep``: when it fails, its complaint is said
once, it is shown as degraded, and it is tried again with backoff, for ever. Other parts
do not notice. A fault of ours is logged as an error, with its traceback. What a
configuration makes impossible is not a part's failure; that is found out before anything
starts.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeAlias

import trio

from bridge.backoff import Backoff
from bridge.event_log import EventLog
from parsers.errors import ProtocolError, UsageError

STARTING = "starting"
"""The complaint of a part that has not failed yet."""

_STEADY = 30.0  # a part that ran this long has earned quick first tries again

Part: TypeAlias = Callable[[Callable[[], None]], Awaitable[object]]
"""Runs until cancelled; calls its argument once it serves."""


class Supervisor:
    """Keeps parts running. ``complaints`` has the reason of each that does not serve now."""

    __slots__ = ("_log", "complaints")

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.complaints: dict[str, str] = {}

    async def keep(self, name: str, part: Part, backoff: Backoff | None = None) -> NoReturn:
        """Run ``part`` again and again until cancelled."""
        backoff = backoff or Backoff()
        self.complaints[name] = STARTING

        def ready() -> None:
            if self.complaints.pop(name, STARTING) != STARTING:
                self._log.info("part.recovered", part=name)

        while True:
            began = trio.current_time()
            fault = ""
            try:
                await part(ready)
                reason = "ended by itself"
            except BaseExceptionGroup as group:
                stopping = group.split(Exception)[1]
                if stopping is not None:  # cancelled: what failed on the way out is of no matter
                    raise stopping from None
                reason, fault = _judged(group)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the others go on
                reason, fault = _judged(error)
            if trio.current_time() - began >= _STEADY:
                backoff.reset()
            if self.complaints.get(name) != reason:
                if fault:
                    self._log.error("part.degraded", part=name, reason=reason, traceback=fault)
                else:
                    self._log.warning("part.degraded", part=name, reason=reason)
                self.complaints[name] = reason
            await trio.sleep(backoff.next_delay())


def _judged(error: BaseException) -> tuple[str, str]:
    """The complaint, and the traceback if it is a fault of ours."""
    if isinstance(_first_of(error), UsageError | ProtocolError | OSError):
        return complaint(error), ""
    return complaint(error), "".join(traceback.format_exception(error))


def complaint(error: BaseException) -> str:
    """One sentence: ours as they are, others with their type, groups by their first."""
    error = _first_of(error)
    if isinstance(error, UsageError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
