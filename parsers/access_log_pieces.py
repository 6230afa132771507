"""The pieces that a sender's usual records are made of, for the compiled walk over them.

``UsualRecords`` reads a record piece by piece and looks each up in a dictionary; the compiled
walk does the same with pieces that it is told here. Each is found by its exact bytes, and has a
number that stands for its meaning; so a batch of records becomes columns of numbers.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.flow_batch import I64

KIND, SIDE, HTTP, DNS, URL = range(5)
"""Sorts of pieces; URLs are those that the walk does not accept by itself."""

ENTRY = np.dtype(
    [
        ("hash", "u8"), ("sort", "u4"), ("at", "u4"), ("head", "u4"), ("tail", "u4"),
        ("traits", "u4"), ("reserved", "u4"),
    ]
)  # fmt: skip
_MOST_PIECES = 1 << 14  # a slot in two is free
_MOST_BYTES = 1 << 22  # of all pieces; a page is taken when something is written to it
_SLACK = 8  # bytes that copies may write behind their end
_COLUMNS = 11


class Walked(NamedTuple):
    """What the walk found, a column of int64 each; where ``kind`` is 0, nothing.

    ``kind``, ``source``, ``destination``, ``labels``: places in ``KnownPieces.meanings``.
    ``time``: ns since the epoch. ``end``: of each protocol part in ``parts``, where they stand
    one behind the other. ``request``, ``request_end``: of the request id in there; ``trace``:
    where the 32 digits of a request's trace id begin; 0 where there is none.
    """

    kind: I64
    source: I64
    destination: I64
    labels: I64
    source_port: I64
    destination_port: I64
    time: I64
    end: I64
    request: I64
    request_end: I64
    trace: I64
    parts: bytes


class KnownPieces:
    """Pieces of the records of one sender.

    ``meanings``: two of each piece, that of number ``n`` at ``2 * n`` and behind it; a side
    has one for each address family. Another list when pieces were forgotten.
    """

    __slots__ = (
        "_arena", "_begin", "_bytes", "_definitions", "_entries", "_new", "_shape", "_slots",
        "_told", "meanings",
    )  # fmt: skip

    def __init__(self, definitions: bytes, type_length: int, *, skip_query: bool) -> None:
        self._definitions = definitions
        self._arena = np.empty(_MOST_BYTES, dtype=np.uint8)
        self._entries = np.zeros(_MOST_PIECES, dtype=ENTRY)
        self._slots = np.zeros(2 * _MOST_PIECES, dtype=np.uint32)
        # As struct shape of access_log.c; a seed that no sender knows keeps pieces apart.
        seed = int.from_bytes(os.urandom(8), "little", signed=True)
        bits = (2 * _MOST_PIECES).bit_length() - 1
        self._shape = np.array(
            [
                len(definitions), type_length, 0, bits, seed, skip_query,
                1, _MOST_PIECES, 0, _MOST_BYTES,
            ],
            dtype=np.int64,
        )  # fmt: skip
        self.see_node(b"")
        self.meanings: list[Any] = [None, None]
        # What is learned with the next walk: bytes, arguments, meanings.
        self._bytes: list[bytes] = []
        self._told: list[int] = []
        self._new: list[Any] = []

    def see_node(self, node: bytes) -> None:
        """Expect this node in all records."""
        self._begin = np.frombuffer(
            bytearray(self._definitions + node + bytes(_SLACK)), dtype=np.uint8
        )
        self._shape[2] = len(node)

    def forget(self) -> None:
        """All pieces."""
        self._slots[:] = 0
        self._shape[[6, 8]] = 1, 0
        self.meanings = [None, None]
        self._bytes, self._told, self._new = [], [], []

    def learn(
        self,
        sort: int,
        head: bytes,
        meanings: tuple[Any, Any],
        *,
        tail: bytes = b"",
        traits: int = 0,
    ) -> None:
        """Remember a piece from the next walk on. ``tail``: what must follow it."""
        if len(self._bytes) >= _MOST_PIECES:  # nobody walks, or there will be no room
            return
        self._bytes.append(head + tail)
        self._told += len(head), len(tail), sort, traits
        self._new += meanings

    def _learn(self) -> bool:
        """Take over what was learned since the last walk; False when there is no room."""
        count = len(self._bytes)
        told = np.array(self._told, dtype=np.int64).reshape(count, 4)
        pieces = np.frombuffer(b"".join(self._bytes) + bytes(_SLACK), dtype=np.uint8)
        done = compiled.kernels.access_log_learn(  # type: ignore[union-attr]
            self._shape, self._arena, self._entries, self._slots, pieces, count, told
        )
        for place in (told[:done, 0] > 0).nonzero()[0].tolist():
            self.meanings += self._new[2 * place : 2 * place + 2]
        self._bytes, self._told, self._new = [], [], []
        return done == count

    def walk(self, buffer: NDArray[np.uint8], offset: I64, length: I64) -> Walked | None:
        """The records at ``offset`` (each contiguous int64), behind which 192 bytes stand.

        None when there is no room for what was learned.
        """
        if self._bytes and not self._learn():
            return None
        count = len(offset)
        found = np.empty((_COLUMNS, count), dtype=np.int64)
        parts = np.empty(int(length.sum()) + _SLACK, dtype=np.uint8)
        used = compiled.kernels.access_log_walk(  # type: ignore[union-attr]
            buffer, count, offset, length, self._shape, self._begin, self._arena,
            self._entries.view(np.uint8), self._slots, found, parts,
        )  # fmt: skip
        return Walked._make((*found, parts[:used].tobytes()))

    def traits(self, kind: I64) -> NDArray[np.uint32]:
        """Of pieces by their place in ``meanings``."""
        found: NDArray[np.uint32] = self._entries["traits"][kind >> 1]
        return found
