"""A recording as parsed batches, with the names and the clock of its world.

A recording has no times: the world's clock stamps the records (``base_time`` + i *
``step_ns``), or without one the file's own time, rising by a nanosecond a record. Uuids
begin as the world says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from api.hubble.node import LocalNode
from bridge import __version__
from bridge.os_errors import reason_of
from bridge.recording import cannot_read, read_messages
from parsers.errors import ProtocolError, UsageError
from parsers.framing import PayloadStream
from parsers.headers import Release
from parsers.ledger import Ledger
from parsers.pipeline import MonitorPipeline, ParsedBatch, new_tables
from parsers.record_numbers import Clock
from parsers.world import directory_of, node_name_of

BATCH = 5000
"""Records a batch, at most."""


class Recorded:
    """The recording at ``path``; ``world`` is an identity file's content, {} for none.

    Who takes ``batches`` has to append their flows to a history over ``tables``.
    """

    def __init__(self, path: Path, world: Mapping[str, Any], release: Release = None) -> None:
        directory = directory_of(world)
        self.tables = new_tables()
        self.ledger = Ledger()
        self.node = LocalNode(
            node_name_of(world),
            tuple(sorted((world.get("node") or {}).get("labels") or ())),
            emitter_version=__version__,
            interface_name=directory.link_name,
            **({"uuid_prefix": world["uuid_prefix"]} if world.get("uuid_prefix") else {}),
        )
        self.path = path
        self.cut_off = False
        """Whether a record at the end is not whole and was left out; known at the end."""
        self._clock = _clock_of(world, path)
        self._pipeline = MonitorPipeline(
            self.tables, directory, self.ledger, release=release or _release_of(world)
        )

    def label_queries(self, *, wanted: bool) -> None:
        """See ``MonitorPipeline``."""
        self._pipeline.label_queries(wanted=wanted)

    def batches(self) -> Iterator[ParsedBatch]:
        """In order, but for a record that is cut off at the end. ``UsageError``: no recording."""
        stream = PayloadStream()
        for part in read_messages(self.path):
            self.cut_off |= part.cut_off
            stream.feed(part.definitions)
            stream.feed(part.payloads)
            try:
                while (payloads := stream.take(BATCH)) is not None:
                    yield self._pipeline.parse(payloads, self._clock)
            except ProtocolError as error:
                raise UsageError(f"{self.path} is not a recording: {error}") from None


def _clock_of(world: Mapping[str, Any], path: Path) -> Clock:
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
