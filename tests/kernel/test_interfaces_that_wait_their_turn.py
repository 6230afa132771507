"""The kernel attaches one program at a time; what happens to an interface that waits for that."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from native_probes.links import one_link
from native_probes.syscalls import TCX_INGRESS, attached
from native_probes.tc import Attachment, TcHooks
from tests.kernel.lab import Lab
from tests.kernel.running import running
from tests.kernel.senders import send_udp


@dataclass
class GatedHooks(TcHooks):
    """Attaches only while its gate is open."""

    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__init__()
        self.gate.set()

    def attach(self, ifindex: int, point: int, program: int) -> Attachment:
        assert self.gate.wait(60)
        return super().attach(ifindex, point, program)


@pytest.fixture
def hooks() -> GatedHooks:
    return GatedHooks()


async def test_what_it_counts_meanwhile_is_booked(lab: Lab, hooks: GatedHooks) -> None:
    early = lab.add_pod()
    async with running(lab, hooks=hooks) as probes:
        await probes.covers(lab.ifindex(early.interface))
        hooks.gate.clear()
        first, second = (lab.ifindex(lab.add_pod().interface) for _ in range(2))
        # the kernel tells of it several times: it is there, it is a port, it is up
        await probes.until(lambda: second in probes.source._interfaces._links)
        await probes.until(lambda: probes.source._interfaces._links[second].master)
        send_udp(lab.pods[-1].namespace, (early.ipv4, 9999), [100] * 7)
        hooks.gate.set()
        await probes.covers(first, second)

        def is_explained() -> bool:
            counted = sum(one_link(ifindex).packets for ifindex in (first, second))
            told = sum(
                int(row["skbs"])
                for batch in probes.batches
                for row in batch.totals
                if row["ifindex"] in (first, second)
            )
            return counted == told + probes.lost().get(("traffic", "not_covered"), 0)

        await probes.until(is_explained)
    assert probes.lost()["traffic", "not_covered"] >= 7


async def test_one_that_gets_the_number_of_another_is_covered(lab: Lab, hooks: GatedHooks) -> None:
    async with running(lab, hooks=hooks) as probes:
        lab.ip("link", "add", "vetha", "index", "500", "type", "veth", "peer", "name", "a")
        await probes.covers(500)
        hooks.gate.clear()
        lab.ip("link", "add", "vethb", "type", "veth", "peer", "name", "b")
        await probes.until(lambda: probes.coverage.statistics().waiting == 1)
        lab.ip("link", "del", "vetha")
        lab.ip("link", "add", "vethc", "index", "500", "type", "veth", "peer", "name", "c")
        await probes.until(lambda: probes.source.interface_name(500) == "vethc")
        hooks.gate.set()
        await probes.until(lambda: attached(500, TCX_INGRESS))
