"""L7 flows of access-log records.

These records carry no packet: they name both endpoints themselves, so a flow's two entity
rows are made of the record and stand in the conversation's key. One record at a time, as
each is decoded; but its key and class are packed bytes, so that from here on L7 flows are
rows of the same columns as all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parsers.access_log import AccessLogDecoder
from parsers.access_log_meaning import AccessLogKind, AccessLogSide
from parsers.entities import Entities, Entity
from parsers.errors import ProtocolError
from parsers.flow_batch import (
    ABSENT_DESTINATION,
    ABSENT_SOURCE,
    CONVERSATION,
    FLAG_L7,
    FLOW_CLASS,
    ORIGIN_CILIUM,
    REPLY_FALSE,
    REPLY_TRUE,
)
from parsers.flow_columns import FIXED, FlowColumns
from parsers.headers import ACCESS_LOG, Release
from parsers.redaction import DEFAULT_REDACTION, Redaction

L7 = 2  # flow.FlowType
_KEY = Struct("<16s16s12xIIIIBBH")
_CLASS = Struct("<12B2BHBBBxIII")
_CONVERSATIONS = 1 << 14
assert _KEY.size == CONVERSATION.itemsize and _CLASS.size == FLOW_CLASS.itemsize  # noqa: S101, PT018


class AccessLogFlows:
    """Makes flow columns of access-log records; remembers requests and entities."""

    __slots__ = (
        "_classes", "_conversations", "_decoder", "_entities", "_generation",
        "_rows",
    )  # fmt: skip

    def __init__(
        self,
        entities: Entities,
        release: Release,
        redaction: Redaction = DEFAULT_REDACTION,
    ) -> None:
        self._decoder = AccessLogDecoder(release, redaction=redaction)
        self._entities = entities
        self._rows: dict[AccessLogSide, int] = {}
        self._conversations: dict[
            tuple[AccessLogSide, AccessLogSide, int], tuple[bytes, dict[str, str]]
        ] = {}
        self._classes: dict[AccessLogKind, bytes] = {}
        self._generation = -1

    def label_queries(self, *, wanted: bool) -> None:
        """See ``MonitorPipeline``."""
        self._decoder.label_queries(wanted=wanted)

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return self._decoder.statistics() | {
            "entities": len(self._rows), "conversations": len(self._conversations),
        }  # fmt: skip

    def flows(
        self, rows: NDArray[np.int64], records: Iterable[bytes]
    ) -> tuple[FlowColumns, dict[int, ProtocolError]]:
        """Flows of the records at ``rows``, and the error of each row that gives none."""
        generation = self._entities.generation
        if generation != self._generation or len(self._conversations) > _CONVERSATIONS:
            self._rows.clear()
            self._conversations.clear()
            self._generation = generation
        decode, class_of = self._decoder.decode, self._classes.get
        conversation_of = self._conversations.get
        keys, classes, ports = [], [], []
        extra: dict[int, dict[str, Any]] = {}
        errors: dict[int, ProtocolError] = {}
        kept: list[int] = []
        for data, row in zip(records, rows.tolist(), strict=True):
            try:
                kind, source, destination, source_port, destination_port, l7 = decode(data)
            except ProtocolError as error:
                errors[row] = error
                continue
            key, texts = conversation_of(
                (source, destination, kind.ip_version)
            ) or self._conversation(source, destination, kind.ip_version)
            keys.append(key)
            classes.append(class_of(kind) or self._class(kind))
            ports.append(source_port)
            ports.append(destination_port)
            fields = extra[len(kept)] = {"l7": l7}
            if texts:
                fields |= texts
            kept.append(row)
        count = len(kept)
        port_pairs = np.array(ports, dtype=np.uint16).reshape(count, 2)
        return FlowColumns(
            np.array(kept, dtype=np.int64),
            np.frombuffer(bytearray().join(keys), dtype=CONVERSATION),
            np.frombuffer(bytearray().join(classes), dtype=FLOW_CLASS),
            port_pairs[:, 0],
            port_pairs[:, 1],
            np.zeros(count, dtype=np.uint32),
            np.zeros(count, dtype=np.uint16),
            np.full(count, FIXED, dtype=np.uint8),
            extra,
        ), errors

    def _conversation(
        self, source: AccessLogSide, destination: AccessLogSide, version: int
    ) -> tuple[bytes, dict[str, str]]:
        """Key of two sides that were not seen together before, and what it cannot say."""
        key = _KEY.pack(
            source.address,
            destination.address,
            source.identity,
            destination.identity,
            self._rows.get(source) or self._entity(source),
            self._rows.get(destination) or self._entity(destination),
            0,
            version,
            (0 if source.address else ABSENT_SOURCE)
            | (0 if destination.address else ABSENT_DESTINATION),
        )
        texts = {
            "source_address": source.address_text,
            "destination_address": destination.address_text,
        }
        found = key, {name: text for name, text in texts.items() if text}
        self._conversations[source, destination, version] = found
        return found

    def _entity(self, side: AccessLogSide) -> int:
        """The entity row of a side that was not seen before, without its pod."""
        row = self._entities.intern(
            Entity(
                endpoint_id=side.endpoint_id,
                identity=side.identity,
                labels=side.labels,
                cluster_name=side.cluster_name,
            )
        )
        self._rows[side] = row
        return row

    def _class(self, kind: AccessLogKind) -> bytes:
        """The ``FLOW_CLASS`` bytes of a kind; there are a few hundred kinds."""
        reply = REPLY_TRUE if kind.is_reply else REPLY_FALSE
        packed = self._classes[kind] = _CLASS.pack(
            ACCESS_LOG, 0, kind.verdict, kind.direction, reply, L7, kind.ip_version, kind.l4,
            0, 0, 0, FLAG_L7,
            0, 0, 0, kind.type, kind.l7_record, ORIGIN_CILIUM,
            0, 0, 0,
        )  # fmt: skip
        return packed
