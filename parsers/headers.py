"""Headers of the datapath's records: which layout, where the packet starts, which fields.

All little-endian (Cilium runs on amd64 and arm64). Layouts are those of Cilium 1.13 to
1.20, read off its BPF sources (``bpf/lib/common.h``, ``drop.h``, ``trace.h``,
``policy_log.h``, ``dbg.h``, ``trace_sock.h``). A record says its version, but two of them
changed their length without changing it; the agent's release decides, or, where nobody
told us, the perf ring's rounding does: of H header and C captured bytes it makes a record
of ``round8(H + C + 4) - 4``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from parsers.windows import Columns, windows

DROP, DEBUG, CAPTURE, TRACE, POLICY_VERDICT, TRACE_SOCK = 1, 2, 3, 4, 5, 7
ACCESS_LOG, AGENT = 129, 130
"""First byte of a payload: the message types of ``pkg/monitor/api``."""

HEAD = np.dtype(
    {
        "names": [
            "kind", "sub_type", "source", "len_cap", "version",
            "label_a", "label_b", "dst_id", "byte26", "byte27", "word28",
            "orig_ip", "trace_id", "drop_line", "drop_file", "drop_flags", "drop_trace_id",
            "byte28", "word16", "orig_v4",
        ],
        "formats": [
            "u1", "u1", "<u2", "<u2", "u1",
            "<u4", "<u4", "<u2", "u1", "u1", "<u4",
            ("u1", (16,)), "<u8", "<u2", "u1", "u1", "<u8",
            "u1", "<u4", "<u4",
        ],
        "offsets": [
            0, 1, 2, 12, 14,
            16, 20, 24, 26, 27, 28,
            32, 48, 28, 30, 36, 40,
            28, 16, 32,
        ],
        "itemsize": 64,
    }
)  # fmt: skip
"""The first 64 bytes of a record under the names of all layouts (they overlap)."""

DEBUG_LENGTH = 20
CAPTURE_LENGTH = 24

Release: TypeAlias = tuple[int, int] | None

# Header length by version; 0: no such version in Cilium 1.13 to 1.20.
TRACE_LENGTHS = np.array([32, 48, 56, 0], dtype=np.int64)
DROP_LENGTHS = np.array([36, 36, 40, 48, 0], dtype=np.int64)

_LEAST = np.zeros(256, dtype=np.int64)  # of those whose version may be unknown, by kind
_LEAST[[DROP, TRACE]] = 36, 32

_FLAG_IPV6, _FLAG_L3_DEVICE = 1, 2
_TUNNEL = np.array([0, 1, 2, 1], dtype=np.uint8)  # by flags 4 (VXLAN) and 8 (Geneve)


@dataclass(frozen=True, slots=True)
class Layout:
    """Header lengths that depend on the agent's release, not on the record's version."""

    verdict: int  # 32 until 1.18, 40 since 1.19; 0: by the record's length
    sock: int  # 38 until 1.18, 40 since 1.19; 0: by the record's content

    @classmethod
    def of(cls, release: Release) -> Layout:
        """What the release says; None: nobody told us."""
        if release is None:
            return cls(0, 0)
        return cls(40, 40) if release >= (1, 19) else cls(32, 38)


@dataclass(frozen=True, slots=True)
class Datapath:
    """Drop, capture, trace and verdict records: one row each.

    ``head``: ``HEAD`` views. ``length`` (int64): header length, 0 where the record cannot
    be read; ``problem`` (uint8) then says why (``PROBLEMS``). ``available`` (int64): packet
    bytes behind the header, cut at the captured length. ``l3_device``, ``ipv6`` (bool);
    ``tunnel`` (uint8): 0, 1 VXLAN, 2 Geneve. ``guessed``: how many records have a version
    that is newer than we know, and a packet where their lengths say.
    """

    head: Columns
    length: NDArray[np.int64]
    problem: NDArray[np.uint8]
    available: NDArray[np.int64]
    l3_device: NDArray[np.bool_]
    ipv6: NDArray[np.bool_]
    tunnel: NDArray[np.uint8]
    guessed: int


OK, TOO_SHORT, UNKNOWN_VERSION = range(3)
PROBLEMS = ("", "record is shorter than its header", "record has an unknown version")


def read_datapath(
    buffer: NDArray[np.uint8],
    offset: NDArray[np.int64],
    total: NDArray[np.int64],
    layout: Layout,
) -> Datapath:
    """Headers of the drop, capture, trace and policy verdict records at ``offset``.

    ``total`` (int64): length of each record. ``buffer`` must reach 64 bytes beyond the last
    offset.
    """
    head = windows(buffer, offset, HEAD.itemsize).view(HEAD)
    kind, version = head["kind"], head["version"]
    captured = head["len_cap"].astype(np.int64)
    length = TRACE_LENGTHS[np.minimum(version, 3)]
    flags = head["byte27"].copy()
    rows = (kind != TRACE).nonzero()[0]
    if len(rows):
        others = kind[rows]
        drops = rows[others == DROP]
        verdicts = rows[others == POLICY_VERDICT]
        length[rows] = CAPTURE_LENGTH
        flags[rows] = 0
        length[drops] = DROP_LENGTHS[np.minimum(version[drops], 4)]
        flags[drops] = np.where(version[drops] >= 2, head["drop_flags"][drops], 0)
        length[verdicts] = layout.verdict or np.where(
            # Where the two lengths contradict (a cut record), believe the newest release.
            (total[verdicts] - captured[verdicts]) >> 3 == 4,
            32,
            40,
        )
        # A verdict keeps its bits elsewhere: 2 is IPv6, 7 an L3 device (1.19 on).
        bits = head["byte27"][verdicts]
        flags[verdicts] = (bits >> 2 & 1) * _FLAG_IPV6 + (bits >> 7) * _FLAG_L3_DEVICE
    problem = np.zeros(len(head), dtype=np.uint8)
    problem[length == 0] = UNKNOWN_VERSION
    problem[(total < _LEAST[kind]) | (total < length)] = TOO_SHORT
    guessed = (problem == UNKNOWN_VERSION).nonzero()[0]
    if len(guessed):
        # Records were only ever extended at the end, and in multiples of 8.
        guess = total[guessed] - captured[guessed] & ~7
        newer = guess > np.where(kind[guessed] == DROP, 48, 56)
        newer &= _looks_like_packet(
            buffer, offset[guessed] + guess, newer, flags[guessed] & _FLAG_L3_DEVICE != 0
        )
        guessed = guessed[newer]
        length[guessed] = guess[newer]
        problem[guessed] = OK
    length[problem != OK] = 0
    available = np.minimum(captured, total - length)
    return Datapath(
        head,
        length,
        problem,
        np.where(problem == OK, available, 0),
        flags & _FLAG_L3_DEVICE != 0,
        flags & _FLAG_IPV6 != 0,
        _TUNNEL[flags >> 2 & 3],
        len(guessed),
    )


def _looks_like_packet(
    buffer: NDArray[np.uint8],
    start: NDArray[np.int64],
    inside: NDArray[np.bool_],
    l3_device: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether IPv4, IPv6, ARP or VLAN begins there; only looks where ``inside`` is true."""
    raw = windows(buffer, np.where(inside, start, 0), 16).view(np.uint8).reshape(len(start), 16)
    ether_type = raw[:, 12].astype(np.int64) << 8 | raw[:, 13]
    nibble = raw[:, 14] >> 4
    ethernet = (ether_type == 0x0800) & (nibble == 4) | (ether_type == 0x86DD) & (nibble == 6)
    ethernet |= (ether_type == 0x0806) | (ether_type == 0x8100)
    bare = np.isin(raw[:, 0] >> 4, (4, 6))
    looks: NDArray[np.bool_] = np.where(l3_device, bare, ethernet)
    return looks
