"""Metrics configured by a file that may change: Hubble's dynamic metrics.

Looked at every ten seconds, as Hubble does; a new content counts from then on, and handlers
that stay as they were keep their totals. A file that is wrong or missing degrades this part,
and what was configured last goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import trio
import yaml

from api.metrics.options import HandlerSpec, read_handlers
from bridge.config import read_yaml
from bridge.os_errors import reason_of
from parsers.errors import UsageError

INTERVAL = 10.0


async def follow_metrics_file(
    path: Path,
    apply: Callable[[tuple[HandlerSpec, ...]], None],
    ready: Callable[[], None],
    interval: float = INTERVAL,
) -> NoReturn:
    """Call ``apply`` with what the file says, at once and when it changes; ``UsageError``."""
    last: bytes | None = None
    while True:
        try:
            content = await trio.Path(path).read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {reason_of(error)} (metrics.hubble.dynamic)"
            ) from None
        if content != last:
            apply(_specs(path, content))
            last = content
            ready()
        await trio.sleep(interval)


def _specs(path: Path, content: bytes) -> tuple[HandlerSpec, ...]:
    try:
        return read_handlers(read_yaml(content.decode()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no YAML: {reason} (metrics.hubble.dynamic)") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error} (metrics.hubble.dynamic)") from None
