"""The operating system's errors in our sentences."""

from __future__ import annotations


def reason_of(error: OSError) -> str:
    """Its words, in lower case."""
    return error.strerror.lower() if error.strerror else str(error)
