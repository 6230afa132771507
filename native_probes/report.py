"""What a probe can do here, as a person wants to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from parsers.errors import UsageError

State = Literal["works", "degraded", "no"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe on this machine.

    ``why`` is how it is degraded or why it does not work; ``remedy`` what to do about it;
    ``minimum_kernel`` the oldest Linux with which the remedy can help. Empty where there
    is nothing to say.
    """

    probe: str
    state: State
    why: str = ""
    remedy: str = ""
    minimum_kernel: str = ""


class ProbeUnavailableError(UsageError):
    """Something of a probe does not work here; the text is a sentence with the remedy."""

    def __init__(self, why: str, remedy: str, minimum_kernel: str = "") -> None:
        self.why = why
        self.remedy = remedy
        self.minimum_kernel = minimum_kernel
        super().__init__(f"{why}; {remedy}" if remedy else why)

    def finding(self, probe: str, state: State = "no") -> Finding:
        """As the report of ``probe``."""
        return Finding(probe, state, self.why, self.remedy, self.minimum_kernel)


class Log(Protocol):
    """Where it is said what happened; one event a line."""

    def info(self, event: str, **fields: Any) -> None:
        """A change of state that is as it should be."""

    def warning(self, event: str, **fields: Any) -> None:
        """Something is degraded."""
