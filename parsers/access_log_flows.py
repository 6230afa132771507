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

from parsers.access_log import AccessLog, AccessLogDecoder, AccessLogSide
from parsers.datapath_flows import FIXED, FlowColumns
from parsers.directory import Directory
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
from parsers.headers import ACCESS_LOG, Release

L7 = 2  # flow.FlowType
_KEY = Struct("<16s16s12xIIIIBBH")
_CLASS = Struct("<12B2BHBBBxIII")
_ENTITIES = 1 << 14
assert _KEY.size == CONVERSATION.itemsize and _CLASS.size == FLOW_CLASS.itemsize  # noqa: S101, PT018


class AccessLogFlows:
    """Makes flow columns of access-log records; remembers requests and entities."""

    __slots__ = ("_decoder", "_directory", "_entities", "_generation", "_rows")

    def __init__(self, entities: Entities, directory: Directory, release: Release) -> None:
        self._decoder = AccessLogDecoder(release)
        self._directory = directory
        self._entities = entities
        self._rows: dict[tuple[Any, ...], int] = {}
        self._generation = -1

    def statistics(self) -> dict[str, int]:
        """Fill of every cache."""
        return self._decoder.statistics() | {"entities": len(self._rows)}

    def flows(
        self, rows: NDArray[np.int64], records: Iterable[bytes], time: NDArray[np.int64]
    ) -> tuple[FlowColumns, dict[int, ProtocolError]]:
        """Flows of the records at ``rows``, and the error of each row that gives none."""
        if self._directory.generation != self._generation or len(self._rows) > _ENTITIES:
            self._rows.clear()
            self._generation = self._directory.generation
        keys, classes, ports = bytearray(), bytearray(), []
        extra: dict[int, dict[str, Any]] = {}
        errors: dict[int, ProtocolError] = {}
        kept = 0
        numbers = rows.tolist()
        for data, number, at in zip(records, numbers, time[rows].tolist(), strict=True):
            try:
                record = self._decoder.decode(data)
            except ProtocolError as error:
                errors[number] = error
                continue
            numbers[kept] = number
            source, destination = record.source, record.destination
            keys += self._key(record, at)
            classes += _class(record)
            ports.append((source.port, destination.port))
            fields = extra[kept] = {"l7": record.l7}
            if source.address_text:
                fields["source_address"] = source.address_text
            if destination.address_text:
                fields["destination_address"] = destination.address_text
            kept += 1
        port = np.array(ports, dtype=np.uint16).reshape(kept, 2)
        return FlowColumns(
            np.array(numbers[:kept], dtype=np.int64),
            np.frombuffer(keys, dtype=CONVERSATION),
            np.frombuffer(classes, dtype=FLOW_CLASS),
            port[:, 0],
            port[:, 1],
            np.zeros(kept, dtype=np.uint32),
            np.zeros(kept, dtype=np.uint16),
            np.full(kept, FIXED, dtype=np.uint8),
            extra,
        ), errors

    def _key(self, record: AccessLog, time: int) -> bytes:
        source, destination = record.source, record.destination
        absent = (0 if source.address else ABSENT_SOURCE) | (
            0 if destination.address else ABSENT_DESTINATION
        )
        return _KEY.pack(
            source.address,
            destination.address,
            source.identity,
            destination.identity,
            self._entity(source, time),
            self._entity(destination, time),
            0,
            record.ip_version,
            absent,
        )

    def _entity(self, side: AccessLogSide, time: int) -> int:
        key = (side.address, side.endpoint_id, side.identity, side.labels)
        row = self._rows.get(key)
        if row is None:
            address = side.address or None
            namespace, pod_name = self._directory.pod_of(address, time)
            endpoint = self._directory.endpoint(address, time) if address is not None else None
            row = self._rows[key] = self._entities.intern(
                Entity(
                    endpoint_id=side.endpoint_id,
                    identity=side.identity,
                    namespace=namespace,
                    pod_name=pod_name,
                    labels=side.labels,
                    workloads=endpoint.workloads if endpoint is not None else (),
                    cluster_name=side.cluster_name,
                )
            )
        return row


def _class(record: AccessLog) -> bytes:
    return _CLASS.pack(
        ACCESS_LOG, 0, record.verdict, record.direction,
        REPLY_TRUE if record.is_reply else REPLY_FALSE, L7, record.ip_version, record.l4,
        0, 0, 0, FLAG_L7,
        0, 0, 0, record.l7.type, record.l7_record, ORIGIN_CILIUM,
        0, 0, 0,
    )  # fmt: skip
