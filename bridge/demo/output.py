"""Standard output, whose reader may leave and whose disk may be full."""

from __future__ import annotations

import os
import sys

from bridge.os_errors import reason_of
from parsers.errors import UsageError


class Output:
    """Whole lines, flushed; ``closed`` once the reader has seen enough (``head``, for one)."""

    def __init__(self) -> None:
        self.closed = False

    def line(self, text: str) -> None:
        """Write a line, however wide; ``UsageError`` when it cannot be written."""
        try:
            print(text, flush=True)  # noqa: T201 -- rich would wrap and colour it
        except BrokenPipeError:
            self.closed = True
            _write_nowhere()
        except OSError as error:
            _write_nowhere()
            raise UsageError(f"cannot write to standard output: {reason_of(error)}") from None


def _write_nowhere() -> None:
    """What is still buffered shall not fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
