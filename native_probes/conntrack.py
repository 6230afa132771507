"""The real ends of connections whose addresses this node translates (DNAT, SNAT).

A packet to a service's address has that address where it enters the node and the server's where
it leaves; its answer comes from the server's. So that both are one conversation, the kernel's
connection tracking is asked for each new pair of ends, many at a time over netlink, and reports
get the client's own address and the server's own; what was in their place stands beside them
(``front``, ``masked``).

Answers are kept by the ends that were seen. After the first packet of a connection it is asked
again, for both ways, as ports come again with other connections; and what the kernel did not
know is asked for once more, as a packet is reported before the node has dealt with it. Drops,
TCP events and DNS messages get the answers of their connection; they are read before the traffic
probe's first packets and looked at behind those, so that these have asked.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from native_probes.rtnetlink import attributes, messages
from parsers.intern import InternTable, lengthened
from parsers.probe_records import CAUSE_FIRST, CAUSE_SWEEP, TRANSLATION
from parsers.windows import Columns

ENDS = np.dtype(
    [
        ("source", "V16"),
        ("destination", "V16"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("protocol", "u1"),
        ("pad", "u1", 3),
    ]
)
"""What the kernel finds a connection by."""

_ANSWER = np.dtype(
    [
        ("source", "V16"),
        ("destination", "V16"),
        ("front", "V16"),
        ("masked", "V16"),
        ("source_port", "<u2"),
        ("destination_port", "<u2"),
        ("front_port", "<u2"),
        ("masked_port", "<u2"),
        ("from_client", "u1"),
        ("translated", "u1"),
        ("traffic_tries", "u1"),
        ("event_tries", "u1"),
    ]
)
_TRIES_OF = ("traffic_tries", "event_tries")

_NETLINK_NETFILTER = 12
_GET, _NEW, _ERROR = 0x101, 0x100, 2  # ctnetlink's messages are 1 << 8 and up
_ORIGINAL, _REPLY, _NESTED = 1, 2, 0x8000
_ASKED_AT_ONCE = 64
_ASKED_A_DRAIN = 2048, 256  # of traffic, and of a kind of events
_HOPELESS, _ASKED_IN_VAIN = 256, 16
_REMEMBERED = 1 << 16
_TRIES = 2
_MAPPED = bytes(10) + b"\xff\xff"
_WITH_PORTS = np.zeros(256, dtype=np.bool_)
_TCP, _SYN, _ACK = 6, 2, 16
_WITH_PORTS[[_TCP, 17, 132]] = True

Sides: TypeAlias = tuple[str, str, str, str]
"""Which columns of a record have both addresses and both ports."""

_SIDES = ("source", "destination", "source_port", "destination_port")
_BACK = ("destination", "source", "destination_port", "source_port")
EVENT_SIDES: Mapping[str, Sides] = MappingProxyType(
    {
        "drops": ("source_ip", "destination_ip", "source_port", "destination_port"),
        "tcp": ("local_ip", "remote_ip", "local_port", "remote_port"),
        "dns": ("source_ip", "destination_ip", "source_port", "destination_port"),
    }
)
"""Of the parts of ``ProbeBatch`` that are events."""

End: TypeAlias = tuple[bytes, int]
"""An address of 16 bytes, and a port."""

Key: TypeAlias = tuple[bytes, bytes, int, int, int]
"""``ENDS`` without its padding."""

Connection: TypeAlias = tuple[End, End, End, End]
"""Client, front, server and masked client."""


class Translations:
    """Asks in the network namespace of the thread that made it. Raises ``OSError``."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        self._socket.settimeout(1.0)
        self._misses: Counter[str] = Counter()  # by part, since the kernel last knew one
        self._forget()

    def _forget(self) -> None:
        self._ends = InternTable(ENDS)
        self._answers = np.zeros(0, dtype=_ANSWER)

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()

    def apply(self, reports: Columns) -> None:
        """Put the real ends into FLOW_REPORT rows, in place."""
        asked = (reports["kind"] == 0) & (reports["tunnel"] == 0)
        rows, answers = self._answers_to("traffic", reports, _SIDES, asked, begun=_begun(reports))
        _put(reports, _SIDES, rows, answers)

    def joined(self, part: str, records: Columns) -> Columns:
        """Records of a part of ``ProbeBatch`` (``EVENT_SIDES``) with the real ends.

        They get the columns of TRANSLATION if any of them is translated.
        """
        sides = EVENT_SIDES[part]
        rows, answers = self._answers_to(part, records, sides, None)
        if not len(rows):
            return records
        wide = np.zeros(len(records), [*records.dtype.descr, *TRANSLATION.descr])
        for name in records.dtype.names or ():
            wide[name] = records[name]
        _put(wide, sides, rows, answers)
        return wide

    def _answers_to(
        self,
        part: str,
        records: Columns,
        sides: Sides,
        asked: NDArray[np.bool_] | None,
        *,
        begun: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.intp], Columns]:
        """Rows that are translated, and to what (_ANSWER).

        ``asked``: the only rows it can be about; ``begun``: those of new connections.
        """
        names = records.dtype.names or ()
        protocol = records["protocol"] if "protocol" in names else np.full(len(records), _TCP)
        with_ports = _WITH_PORTS[protocol] & (records[sides[3]] != 0)
        rows = np.flatnonzero(with_ports if asked is None else with_ports & asked)
        if not len(rows):
            return rows, self._answers[:0]
        if len(self._ends) > _REMEMBERED:
            self._forget()
        ends = np.zeros(len(rows), dtype=ENDS)
        for name, of_record in zip(_SIDES, sides, strict=True):
            column = records[of_record][rows]
            ends[name] = column if column.ndim == 1 else column.view("V16").ravel()
        ends["protocol"] = protocol[rows]
        numbers, _ = self._ends.lookup(ends)
        if self._ends.capacity > len(self._answers):
            self._answers = lengthened(self._answers, self._ends.capacity)
        if begun is not None:
            back = ends[begun[rows]]
            for name, other in zip(_SIDES, _BACK, strict=True):
                back[name] = ends[other][begun[rows]]
            both = np.union1d(numbers[begun[rows]], self._ends.find(back))
            for name in ("translated", *_TRIES_OF):
                self._answers[name][both] = 0
        self._ask(np.unique(numbers), part)
        answers = self._answers[numbers]
        translated = answers["translated"] != 0
        return rows[translated], answers[translated]

    def _ask(self, numbers: NDArray[np.uint32], part: str) -> None:
        """Fill the answers of those that are open.

        What was dropped may never be known to the kernel: for that, others do not ask less.
        """
        tries = _TRIES_OF[part in EVENT_SIDES]
        # Where nothing is tracked, a few questions are enough to notice when that changes.
        hopeless = self._misses[part] >= _HOPELESS
        most = _ASKED_IN_VAIN if hopeless else _ASKED_A_DRAIN[part in EVENT_SIDES]
        open_ = numbers[self._answers[tries][numbers] < _TRIES][:most]
        for start in range(0, len(open_), _ASKED_AT_ONCE):
            some = open_[start : start + _ASKED_AT_ONCE]
            keys: list[Key] = [tuple(key[:5]) for key in self._ends.rows[some].tolist()]
            found = self._look_up(keys)
            # A packet that left has the ends of the answer, the other way round.
            back = [i for i, entry in enumerate(found) if entry is None]
            again = self._look_up([_reversed(keys[i]) for i in back])
            for i, entry in zip(back, again, strict=True):
                found[i] = entry
            for number, key, entry in zip(some.tolist(), keys, found, strict=True):
                answer = self._answers[number]
                answer["translated"] = 0
                answer[tries] += 1
                self._misses[part] = 0 if entry is not None else self._misses[part] + 1
                if entry is not None:
                    answer["traffic_tries"] = answer["event_tries"] = _TRIES
                    _fill(answer, (key[0], key[2]), *entry)

    def _look_up(self, keys: list[Key]) -> list[Connection | None]:
        """Of each; None if there is no connection."""
        found: list[Connection | None] = [None] * len(keys)
        if not keys:
            return found
        self._socket.send(b"".join(_question(i, *key) for i, key in enumerate(keys)))
        answered = 0
        while answered < len(keys):
            data = self._socket.recv(1 << 16)
            (sequence,) = struct.unpack_from("=I", data, 8)
            for kind, body in messages(data):
                answered += 1
                if kind == _NEW and sequence < len(keys):
                    found[sequence] = _connection(body[4:])
        return found


def _begun(reports: Columns) -> NDArray[np.bool_]:
    """Which begin a connection: the first packet of a flow, or a SYN where one was before."""
    syn = (reports["tcp_flags"] & (_SYN | _ACK) == _SYN) & (reports["cause"] != CAUSE_SWEEP)
    begun: NDArray[np.bool_] = syn | (reports["cause"] == CAUSE_FIRST)
    return begun


def _put(records: Columns, sides: Sides, rows: NDArray[np.intp], answers: Columns) -> None:
    for name, of_record in zip(_SIDES, sides, strict=True):
        column, real = records[of_record], np.ascontiguousarray(answers[name])
        column[rows] = real if column.ndim == 1 else real.view(np.uint8).reshape(-1, 16)
    for name in ("front", "front_port", "masked", "masked_port", "from_client"):
        records[name][rows] = answers[name]


def _reversed(key: Key) -> Key:
    source, destination, source_port, destination_port, protocol = key
    return destination, source, destination_port, source_port, protocol


def _question(
    sequence: int, source: bytes, destination: bytes, source_port: int, destination_port: int,
    protocol: int,
) -> bytes:  # fmt: skip
    v4 = source.startswith(_MAPPED) and destination.startswith(_MAPPED)
    family, first, skip = (socket.AF_INET, 1, 12) if v4 else (socket.AF_INET6, 3, 0)
    addresses = _attribute(first, source[skip:]) + _attribute(first + 1, destination[skip:])
    ports = _attribute(2, struct.pack(">H", source_port))
    ports += _attribute(3, struct.pack(">H", destination_port))
    ends = _attribute(1 | _NESTED, addresses)
    ends += _attribute(2 | _NESTED, _attribute(1, bytes([protocol])) + ports)
    body = struct.pack("=BBH", family, 0, 0) + _attribute(_ORIGINAL | _NESTED, ends)
    return struct.pack("=IHHII", 16 + len(body), _GET, 1, sequence, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def _connection(body: bytes) -> Connection:
    found = attributes(body)
    client, front = _ends(found[_ORIGINAL])
    server, masked = _ends(found[_REPLY])
    return client, front, server, masked


def _ends(value: bytes) -> tuple[End, End]:
    """Source and destination of a tuple."""
    found = attributes(value)
    addresses, of = attributes(found[1]), attributes(found[2])
    ports = (int.from_bytes(of.get(2, b""), "big"), int.from_bytes(of.get(3, b""), "big"))
    if 1 in addresses:
        return (_MAPPED + addresses[1], ports[0]), (_MAPPED + addresses[2], ports[1])
    return (addresses[3], ports[0]), (addresses[4], ports[1])


def _fill(answer: Columns, source: End, client: End, front: End, server: End, masked: End) -> None:
    """``source``: what the packets came from as they were seen."""
    from_client = source in {client, masked}
    ends = (client, server) if from_client else (server, client)
    answer["translated"] = front != server or masked != client
    answer["from_client"] = from_client
    for side, (address, port) in zip(("source", "destination"), ends, strict=True):
        answer[side], answer[f"{side}_port"] = address, port
    for name, end, real in (("front", front, server), ("masked", masked, client)):
        address, port = end if end != real else (bytes(16), 0)
        answer[name], answer[f"{name}_port"] = address, port
