"""The operating system's errors in our sentences."""

from __future__ import annotations

import os


def reason_of(error: OSError) -> str:
    """Its words, in lower case."""
    return os.strerror(error.errno).lower() if error.errno else str(error)
