"""What own probes deliver: one drain of their maps and rings, as columns of structs.

The dtypes are those of ``probe_records``, which mirror the structs of ``bpf/record.h``.

One observation point a packet: a packet counts in flows and metrics where this node first
sees it. At an ingress hook that is so unless it came through a veth whose other end is
observed as well (``far_ends``). At an egress hook it is so unless the packet
came in by another covered interface, which the kernel tells by itself
(``skb->ingress_ifindex``, 0 for what the host sends). So the key of a flow in the kernel
has ``received_on`` beside ``ifindex``, and nobody has to know whose address is whose:
traffic between two pods of the node counts at the sender's veth, what comes from outside
at the uplink, what a pod sends outside at its veth (before its source is translated), and
what the host sends where it leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from parsers.kernel_drop_reasons import KernelReasons
from parsers.windows import Columns


def _no_records() -> Columns:
    return np.empty(0, dtype=np.void)


_PARTS_OF_MANY = (("traffic", "last_ns"), ("drops", "time_ns"), ("tcp", "time_ns"))
"""Parts that a storm makes long, and when their records happened."""


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """What the probes delivered in one drain; a part of length 0 may have any dtype.

    ``covered``: indices of the interfaces that are observed now, and of bridges whose ports
    are; ``pods``: of those that lead to a pod; ``far_ends``: of those by which only comes in
    what has left by another one, the other end of a veth.

    ``netns``: inode of the network namespace that these interfaces are in, the node's.
    ``drop_reasons``: names of the kernel's drop reasons; ``reset_reasons``: of those for which
    TCP sends resets, by number.

    ``boot_offset``: ns to add to the kernel's boot-clock times for times since the epoch;
    ``now_ns``: when the records were taken, by the boot clock.
    ``lost``: (probe, reason) -> records lost in the kernel since the last drain; reasons
    are "ring_full", "map_full" and "recursion".
    ``ignored``: likewise, events that the probes left out on purpose: "quiet", "foreign".
    ``seen``: probe -> records the kernel had since the last drain, delivered and lost.
    Probes are called after their parts: "traffic", "drops", "tcp", "dns".
    """

    boot_offset: int
    now_ns: int = 0
    covered: frozenset[int] = frozenset()
    far_ends: frozenset[int] = frozenset()
    pods: frozenset[int] = frozenset()
    netns: int = 0
    drop_reasons: KernelReasons = field(default_factory=lambda: KernelReasons({}))
    reset_reasons: Mapping[int, str] = field(default_factory=dict)
    verdicts: Columns = field(default_factory=_no_records)  # VERDICT_RECORD: about drops
    traffic: Columns = field(default_factory=_no_records)  # FLOW_REPORT: since the last drain
    drops: Columns = field(default_factory=_no_records)  # DROP_RECORD
    tcp: Columns = field(default_factory=_no_records)  # TCP_RECORD: retransmit, reset, state, RTT
    dns: Columns = field(default_factory=_no_records)  # DNS_RECORD
    totals: Columns = field(default_factory=_no_records)  # INTERFACE_TOTALS: counters, no flows
    lost: Mapping[tuple[str, str], int] = field(default_factory=dict)
    ignored: Mapping[tuple[str, str], int] = field(default_factory=dict)
    seen: Mapping[str, int] = field(default_factory=dict)

    def pieces(self, size: int) -> Iterator[ProbeBatch]:
        """Batches of at most ``size`` records of a kind each, traffic in the order of times.

        All that is not of a kind that has more is in the last one. What each has seen is
        what it delivers, so the books agree after each of them.
        """
        none = _no_records()
        context = replace(
            self, traffic=none, drops=none, tcp=none, dns=none, totals=none, lost={}, ignored={},
            seen={}, now_ns=0,  # no query is given up whose answer may be in the last one
        )  # fmt: skip
        rest = self
        for part, time in _PARTS_OF_MANY:
            records: Columns = getattr(self, part)
            if len(records) <= size:
                continue
            records = records[np.argsort(records[time], kind="stable")]
            last = (len(records) - 1) // size * size
            for start in range(0, last, size):
                some: dict[str, Any] = {part: records[start : start + size]}
                yield replace(context, seen={part: size}, **some)
            # below 0 if another probe's records are in this part: what counts is the sum
            seen = {**rest.seen, part: rest.seen.get(part, 0) - last}
            few: dict[str, Any] = {part: records[last:]}
            rest = replace(rest, seen=seen, **few)
        yield rest

    def __len__(self) -> int:
        """Records that may become flows."""
        return len(self.traffic) + len(self.drops) + len(self.tcp) + len(self.dns)
