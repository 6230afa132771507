"""L7 flows of access-log records.

These records carry no packet: they name both endpoints themselves, so a flow's two entity
rows are made of the record and stand in the conversation's key. What a side or a kind of
record gives is found once and remembered, so that a batch becomes the same columns as all
other flows by look-ups.
"""

from __future__ import annotations

from itertools import compress
from struct import Struct

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
from parsers.framing import PayloadBatch
from parsers.headers import ACCESS_LOG, Release
from parsers.intern import lengthened
from parsers.l7_content import AccessLogL7
from parsers.redaction import DEFAULT_REDACTION, Redaction

L7 = 2  # flow.FlowType
_CLASS = Struct("<12B2BHBBBxIII")
assert _CLASS.size == FLOW_CLASS.itemsize  # noqa: S101

_SIDE = np.dtype(
    [
        ("ip", "u1", (16,)), ("identity", "u4"), ("entity", "u4"),
        ("is_absent", "u1"), ("has_text", "u1"),
    ]
)  # fmt: skip
"""What a conversation's key says of one side; whether its address is only a text."""
_MOST_SIDES = 1 << 14


class AccessLogFlows:
    """Makes flow columns of access-log records; remembers requests and entities."""

    __slots__ = (
        "_classes", "_decoder", "_entities", "_generation", "_number_of", "_sides",
    )  # fmt: skip

    def __init__(
        self,
        entities: Entities,
        release: Release,
        redaction: Redaction = DEFAULT_REDACTION,
    ) -> None:
        self._decoder = AccessLogDecoder(release, redaction=redaction)
        self._entities = entities
        self._number_of: dict[AccessLogSide, int] = {}  # from 1 on
        self._sides = np.zeros(64, dtype=_SIDE)  # by number
        self._classes: dict[AccessLogKind, bytes] = {}
        self._generation = -1

    def label_queries(self, *, wanted: bool) -> None:
        """See ``MonitorPipeline``."""
        self._decoder.label_queries(wanted=wanted)

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return self._decoder.statistics() | {"entities": len(self._number_of)}

    def flows(
        self, rows: NDArray[np.int64], payloads: PayloadBatch
    ) -> tuple[FlowColumns, dict[int, ProtocolError]]:
        """Flows of the records at ``rows``, and the error of each row that gives none."""
        generation = self._entities.generation
        if generation != self._generation or len(self._number_of) > _MOST_SIDES:
            self._number_of.clear()
            self._generation = generation
        logs, errors = self._decoder.decode_all(
            payloads.buffer, payloads.offset[rows], payloads.length[rows]
        )
        class_of = self._classes.get
        classes = bytearray().join([class_of(kind) or self._class(kind) for kind in logs.kind])
        count = len(logs.place)
        flow_class = np.frombuffer(classes, dtype=FLOW_CLASS)
        key = np.zeros(count, dtype=CONVERSATION)
        key["ip_version"] = flow_class["ip_version"]
        numbers = self._numbers(logs.source), self._numbers(logs.destination)
        source, destination = (self._sides[number] for number in numbers)
        key["source_ip"], key["destination_ip"] = source["ip"], destination["ip"]
        for field in ("identity", "entity"):
            key["source_" + field], key["destination_" + field] = source[field], destination[field]
        key["absent"] = (
            source["is_absent"] * ABSENT_SOURCE | destination["is_absent"] * ABSENT_DESTINATION
        )
        flows = FlowColumns(
            rows[logs.place],
            key,
            flow_class,
            logs.source_port,
            logs.destination_port,
            np.zeros(count, dtype=np.uint32),
            np.zeros(count, dtype=np.uint16),
            np.full(count, FIXED, dtype=np.uint8),
        )
        has_text = (source["has_text"] | destination["has_text"]) != 0
        alone = np.arange(count)
        records: list[AccessLogL7] = logs.l7
        if has_text.any():
            for place in has_text.nonzero()[0].tolist():
                texts = {
                    "source_address": logs.source[place].address_text,
                    "destination_address": logs.destination[place].address_text,
                }
                flows.extra[place] = {
                    "l7": records[place], **{name: text for name, text in texts.items() if text}
                }  # fmt: skip
            alone = (~has_text).nonzero()[0]
            records = list(compress(records, (~has_text).tolist()))
        flows.records.append((alone, records))
        return flows, {int(rows[place]): error for place, error in errors.items()}

    def _numbers(self, sides: list[AccessLogSide]) -> NDArray[np.int64]:
        """Where ``_sides`` has each."""
        number_of = self._number_of.get
        return np.array([number_of(side) or self._side(side) for side in sides], dtype=np.int64)

    def _side(self, side: AccessLogSide) -> int:
        """The number of a side that was not seen before; its entity has no pod."""
        entity = self._entities.intern(
            Entity(
                endpoint_id=side.endpoint_id,
                identity=side.identity,
                labels=side.labels,
                cluster_name=side.cluster_name,
            )
        )
        number = self._number_of[side] = len(self._number_of) + 1
        if number >= len(self._sides):
            self._sides = lengthened(self._sides, 2 * number)
        self._sides[number] = (
            np.frombuffer(side.address.ljust(16, b"\0"), dtype=np.uint8),
            side.identity, entity, not side.address, bool(side.address_text),
        )  # fmt: skip
        return number

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
