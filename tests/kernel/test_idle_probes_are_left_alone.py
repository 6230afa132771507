"""While nothing happens probes are read once a second, and what they only count is told then."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import trio

from native_probes.drops import DropProbe, DropSettings
from native_probes.family import Drained, Place
from native_probes.source import SourceSettings
from tests.kernel.lab import Lab
from tests.kernel.running import running
from tests.kernel.senders import send_udp


@dataclass(slots=True)
class Reads:
    times: list[float] = field(default_factory=list)

    def probe(self, place: Place) -> DropProbe:
        """One of drops, but of none that it tells of, which has its reads noted."""
        times = self.times

        class Noted(DropProbe):
            def drain(self, *, now_ns: int) -> Drained:
                times.append(time.monotonic())
                return super().drain(now_ns=now_ns)

        return Noted(place, DropSettings(quiet=("NO_SOCKET", "CONSUMED")))


async def test_they_are_read_once_a_second(lab: Lab) -> None:
    reads = Reads()
    # without the traffic probe, whose hooks see what the kernel sends by itself
    settings = SourceSettings(traffic=None, families={"drops": reads.probe})
    async with running(lab, settings) as probes:
        await trio.sleep(3.2)
        assert 2 <= len(reads.times) <= 6
        quiet = len(probes.batches)
        send_udp(lab.node, ("127.0.0.1", 9), [1] * 5)  # nobody listens
        await probes.until(lambda: len(probes.batches) > quiet)
        ignored = sum(b.ignored.get(("drops", "quiet"), 0) for b in probes.batches)
        assert ignored >= 5


async def test_what_happens_is_read_at_once(lab: Lab) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    async with running(lab) as probes:
        await probes.covers(*(lab.ifindex(each.interface) for each in (pod, other)))
        for _ in range(5):
            await trio.sleep(0.35)
            began, before = time.monotonic(), len(probes.traffic(destination_port=9999))
            send_udp(pod.namespace, (other.ipv4, 9999), [1])  # from another port each time
            await probes.until(lambda: len(probes.traffic(destination_port=9999)) > before)  # noqa: B023
            assert time.monotonic() - began < 0.5
