"""Times as the API server writes them."""

from __future__ import annotations

from datetime import UTC, datetime

SECOND = 10**9


def text_of(time: int) -> str:
    """A time (ns) in whole seconds."""
    return datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
