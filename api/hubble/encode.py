"""Batches as serialized ``GetFlowsResponse`` messages, composed from cached fragments.

A serialized message is the concatenation of its parts, and most parts repeat from flow to
flow. The plain path (``api.hubble.messages``) makes them, one partial ``Flow`` each:

==============  ===================================================  ==================
fragment        fields                                               cached by
==============  ===================================================  ==================
conversation    ``ethernet``, ``IP``, names                          conversation row
endpoint        ``source`` or ``destination``                        entity row
class           node, class, head of ``l4``                          class row
detail          file, policies, services, tunnel, ...                detail row, direction
==============  ===================================================  ==================

What only one flow has is written for the whole batch as a matrix of bytes, one row a flow:
ports, time and uuid (where the flow ends), then the envelope's node name and time. Its
numbers are varints of fixed width (padded with continuation bits, which every parser must
accept), so that all rows are equally long. No sub-message is split over two fragments.

Of an L7 flow the detail is made anew. VRRP and IGMP flows take the plain path, as their
``l4`` stands partly in the detail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from api.hubble.extension import extension_counts, extension_head, number
from api.hubble.mask import FieldMask
from api.hubble.messages import FlowMessages, put_endpoint
from api.hubble.node import LocalNode
from api.v1.flow import flow_pb2
from api.v1.observer import observer_pb2
from parsers.details import Detail
from parsers.flow_batch import (
    FLAG_ENCRYPTED,
    FLAG_L7,
    FLOW_CLASS,
    L4_IGMP,
    L4_SCTP,
    L4_TCP,
    L4_UDP,
    L4_VRRP,
    ORIGIN_CILIUM,
    U32,
    U64,
    FlowBatch,
    FlowTables,
)

Bytes: TypeAlias = NDArray[np.uint8]

CACHED = 1 << 16
"""Fragments kept of each kind; a full cache starts anew (at 100-400 bytes each, 6-25 MB)."""

_EMPTY = Detail()
_FLAG_BITS = 10  # below a detail in the key of an extension: its reason, counted, of Cilium
_FLOW = 1 << 3 | 2  # tags of GetFlowsResponse: field number and wire type
_NODE_NAME = 1000 << 3 | 2
_TIME = 1001 << 3 | 2
_FLOW_TIME = 1 << 3 | 2  # tags of Flow
_FLOW_L4 = 6 << 3 | 2
_FLOW_UUID = 34 << 3 | 2


class FlowEncoder:
    """Encodes batches over ``tables`` for readers with one field mask.

    Sequence numbers are below 2**48 (12 hex digits of the uuid).
    """

    __slots__ = (
        "_classes", "_conversations", "_destinations", "_details", "_generation", "_heads", "_mask",
        "_messages", "_node", "_plain_only", "_sources", "_tables",
    )  # fmt: skip

    def __init__(self, tables: FlowTables, node: LocalNode, mask: FieldMask | None = None) -> None:
        self._tables = tables
        self._node = node
        self._mask = mask or FieldMask()
        self._messages = FlowMessages(tables, node)
        parts = ("l4", "time", "extensions")
        self._plain_only = None in {self._mask.whole(part) for part in parts}
        self._classes = _Fragments(self._class)
        self._conversations = _Fragments(self._conversation)
        self._sources = _Fragments(self._source)
        self._destinations = _Fragments(self._destination)
        self._details = _Fragments(self._detail)
        self._heads = _Fragments(self._head)
        self._generation = (0, 0, 0)

    def forget(self) -> None:
        """Drop what is cached, as when interfaces got other names. Reclaimed rows need no call."""
        for fragments in (
            self._classes, self._conversations, self._sources, self._destinations, self._details,
            self._heads,
        ):  # fmt: skip
            fragments.clear()

    def encode(self, batch: FlowBatch) -> list[bytes]:
        """One serialized ``GetFlowsResponse`` for each flow, in order."""
        tables = self._tables
        generation = (
            tables.classes.generation, tables.conversations.generation, tables.details.generation,
        )  # fmt: skip
        if generation != self._generation:
            self._generation = generation
            self.forget()
        plain = self._takes_plain_path(batch)
        if not plain.any():
            return self._compose(batch)
        fast = iter(self._compose(batch.select(~plain)))
        return [
            self._plain(batch, i) if is_plain else next(fast)
            for i, is_plain in enumerate(plain.tolist())
        ]

    def _takes_plain_path(self, batch: FlowBatch) -> NDArray[np.bool_]:
        if self._plain_only or (len(batch) and batch.time.min() < 0):
            return np.ones(len(batch), dtype=np.bool_)
        l4 = batch.attribute("l4")
        odd: NDArray[np.bool_] = (l4 == L4_VRRP) | (l4 == L4_IGMP)
        return odd

    def _plain(self, batch: FlowBatch, index: int) -> bytes:
        flow = self._messages.flow(batch, index)
        response = observer_pb2.GetFlowsResponse(node_name=flow.node_name, time=flow.time)
        response.flow.CopyFrom(self._mask.apply(flow))
        return response.SerializeToString()

    def _compose(self, batch: FlowBatch) -> list[bytes]:
        conversations = self._tables.conversations
        flags = batch.attribute("flags")
        encrypted = flags & FLAG_ENCRYPTED != 0
        conversation = self._conversations.take(
            (batch.conversation.astype(np.int64) << 1 | encrypted).tolist()
        )
        # An L7 record is as good as unique: nothing to cache.
        is_l7 = flags & FLAG_L7 != 0
        rows = np.where(is_l7, 0, batch.detail).astype(np.int64)
        detail = self._details.take((rows << 2 | batch.attribute("direction")).tolist())
        for i in np.flatnonzero(is_l7).tolist():
            detail[i] = self._l7_detail(int(batch.flow_class[i]), int(batch.detail[i]))
        for i in np.flatnonzero(batch.detail).tolist():
            extra = self._tables.details[int(batch.detail[i])]
            # Some hold a part of ``IP``.
            if extra.source_xlated or extra.source_address or extra.destination_address:
                key = int(batch.conversation[i]) << 1 | int(encrypted[i])
                conversation[i] = self._conversation(key, extra)
        own, envelope = self._own_parts(batch)
        if batch.packets is not None and batch.bytes is not None:
            extensions = self._extensions(batch, batch.packets, batch.bytes)
            own = [part + extension for part, extension in zip(own, extensions, strict=True)]
        head, join = _Prefixes(), b"".join
        return [
            join((head[len(c) + len(s) + len(d) + len(e) + len(k) + len(o)], c, s, d, e, k, o, t))
            for c, s, d, e, k, o, t in zip(
                conversation,
                self._sources.take(conversations.source_entity[batch.conversation].tolist()),
                self._destinations.take(
                    conversations.destination_entity[batch.conversation].tolist()
                ),
                detail,
                self._classes.take(batch.flow_class.tolist()),
                own,
                envelope,
                strict=True,
            )
        ]

    def _extensions(self, batch: FlowBatch, packets: U32, octets: U64) -> list[bytes]:
        """What own probes tell beyond the API, of each flow; nothing of Cilium's."""
        if not self._mask.whole("extensions"):
            return [b""] * len(batch)
        counted = packets != 0
        flags = batch.attribute("own_reason").astype(np.int64) << 2 | counted << 1
        flags |= batch.attribute("origin") == ORIGIN_CILIUM
        # An L7 record is as good as unique: nothing to cache.
        is_l7 = batch.attribute("flags") & FLAG_L7 != 0
        rows = np.where(is_l7, 0, batch.detail).astype(np.int64)
        heads = self._heads.take((rows << _FLAG_BITS | flags).tolist())
        for i in np.flatnonzero(is_l7).tolist():
            heads[i] = self._head(int(batch.detail[i]) << _FLAG_BITS | int(flags[i]))
        return [
            head + counts if has else head
            for head, counts, has in zip(
                heads, extension_counts(packets, octets), counted.tolist(), strict=True
            )
        ]

    def _own_parts(self, batch: FlowBatch) -> tuple[list[bytes], list[bytes]]:
        """The end of each flow and what follows it in the response."""
        n = len(batch)
        seconds, nanos = np.divmod(batch.time, 1_000_000_000)
        time = [
            _constant(n, b"\x08"),
            _varint(seconds, 5),
            _constant(n, b"\x10"),
            _varint(nanos, 5),
        ]
        size = 12  # of a Timestamp written so
        own: list[Bytes] = []
        if self._mask.whole("time"):
            own += [_constant(n, bytes((_FLOW_TIME, size))), *time]
        if self._mask.whole("uuid"):
            prefix = self._node.uuid_prefix.encode()
            tag = _tag(_FLOW_UUID) + bytes((len(prefix) + 12,))
            own += [_constant(n, tag + prefix), _hex_digits(batch.sequence)]
        flow_end = _rows(own, n)
        if self._mask.whole("l4"):
            ports = _rows(
                [
                    _constant(n, b"\x08"), _varint(batch.source_port, 3),
                    _constant(n, b"\x10"), _varint(batch.destination_port, 3),
                ],
                n,
            )  # fmt: skip
            has_ports = np.isin(batch.attribute("l4"), (L4_TCP, L4_UDP, L4_SCTP)).tolist()
            flow_end = [
                p + e if has else e for p, e, has in zip(ports, flow_end, has_ports, strict=True)
            ]
        name = self._node.name.encode()
        node_name = _tag(_NODE_NAME) + number(len(name)) + name
        return flow_end, _rows([_constant(n, node_name + _tag(_TIME) + bytes((size,))), *time], n)

    def _class(self, row: int) -> bytes:
        """Node and class; ends inside the message of a protocol with ports."""
        flow_class = self._tables.classes.rows[row]
        flow = flow_pb2.Flow()
        self._messages.put_node(flow)
        self._messages.put_class(flow, flow_class)
        l4 = int(flow_class["l4"])
        if l4 not in {L4_TCP, L4_UDP, L4_SCTP}:
            self._messages.put_l4(flow, flow_class, 0, 0, _EMPTY)
            return self._masked(flow)
        fragment = self._masked(flow)
        if self._mask.whole("l4"):
            self._messages.put_l4(flow, flow_class, 0, 0, _EMPTY)
            protocol = getattr(flow.l4, flow.l4.WhichOneof("protocol") or "")
            inner = protocol.SerializeToString()
            size = len(inner) + 8  # the ports follow, see _own_parts
            fragment += bytes((_FLOW_L4, size + 2, l4 << 3 | 2, size)) + inner
        return fragment

    def _conversation(self, key: int, detail: Detail = _EMPTY) -> bytes:
        row, encrypted = key >> 1, key & 1
        flow_class = np.zeros((), dtype=FLOW_CLASS)
        flow_class["flags"] = FLAG_ENCRYPTED if encrypted else 0
        flow = flow_pb2.Flow()
        self._messages.put_conversation(flow, row, flow_class, detail)
        flow.ClearField("source")
        flow.ClearField("destination")
        # First, so that a parser that does not merge keeps what follows.
        return self._mask.present.SerializeToString() + self._masked(flow)

    def _source(self, row: int) -> bytes:
        return self._endpoint(lambda flow: flow.source, row)

    def _destination(self, row: int) -> bytes:
        return self._endpoint(lambda flow: flow.destination, row)

    def _endpoint(self, side: Callable[[flow_pb2.Flow], flow_pb2.Endpoint], row: int) -> bytes:
        flow = flow_pb2.Flow()
        if row:
            put_endpoint(side(flow), self._tables.conversations.entities[row])
        return self._masked(flow)

    def _detail(self, key: int) -> bytes:
        row, direction = key >> 2, key & 3
        flow_class = np.zeros((), dtype=FLOW_CLASS)
        flow_class["direction"] = direction
        flow = flow_pb2.Flow()
        self._messages.put_detail(flow, flow_class, self._tables.details[row])
        return self._masked(flow)

    def _head(self, key: int) -> bytes:
        """The extension up to its counts."""
        if key & 1:
            return b""
        reason = self._tables.reasons[key >> 2 & 0xFF]
        detail = self._tables.details[key >> _FLAG_BITS]
        return extension_head(detail, reason, counted=bool(key & 2))

    def _l7_detail(self, class_row: int, row: int) -> bytes:
        flow = flow_pb2.Flow()
        flow_class = self._tables.classes.rows[class_row]
        self._messages.put_detail(flow, flow_class, self._tables.details[row])
        return self._masked(flow)

    def _masked(self, flow: flow_pb2.Flow) -> bytes:
        return self._mask.strip(flow).SerializeToString()


class _Fragments(dict[int, bytes]):
    """A bounded cache of fragments by key; what is missing is made."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[int], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: int) -> bytes:
        if len(self) >= CACHED:
            self.clear()
        fragment = self[key] = self._make(key)
        return fragment

    def take(self, keys: Iterable[int]) -> list[bytes]:
        """The fragments of ``keys``, in order."""
        return list(map(self.__getitem__, keys))


class _Prefixes(dict[int, bytes]):
    """Tag and length of ``GetFlowsResponse.flow`` by length."""

    def __missing__(self, length: int) -> bytes:
        prefix = self[length] = _tag(_FLOW) + number(length)
        return prefix


_tag = number


def _varint(values: NDArray[np.generic], width: int) -> Bytes:
    """(n, width) of varints, each padded to ``width`` bytes."""
    shifts = np.arange(0, 7 * width, 7, dtype=np.uint64)
    groups = (values.astype(np.uint64)[:, None] >> shifts) & np.uint64(0x7F)
    groups[:, :-1] |= np.uint64(0x80)
    return groups.astype(np.uint8)


def _hex_digits(values: NDArray[np.uint64]) -> Bytes:
    """(n, 12) of lower-case hex digits."""
    shifts = np.arange(44, -4, -4, dtype=np.uint64)
    digits = ((values[:, None] >> shifts) & np.uint64(0xF)).astype(np.uint8)
    return np.frombuffer(b"0123456789abcdef", dtype=np.uint8)[digits]


def _constant(n: int, text: bytes) -> Bytes:
    return np.broadcast_to(np.frombuffer(text, dtype=np.uint8), (n, len(text)))


def _rows(parts: list[Bytes], n: int) -> list[bytes]:
    """The rows of matrices laid side by side."""
    if not parts or not n:
        return [b""] * n
    matrix = np.ascontiguousarray(np.concatenate(parts, axis=1))
    rows: list[bytes] = matrix.view(f"V{matrix.shape[1]}").ravel().tolist()
    return rows
