"""Detaching takes some 10 ms a program, in which rings would overflow if nobody read them."""

from __future__ import annotations

import threading
import time

from native_probes.drops import DropProbe, DropSettings
from native_probes.source import SourceSettings
from tests.kernel.lab import Lab
from tests.kernel.running import running
from tests.kernel.senders import send_udp

PODS = 60  # 120 programs
RING = 8192  # of 51 drops


async def test_what_is_dropped_meanwhile_is_told(lab: Lab) -> None:
    for number in range(PODS):
        lab.ip("link", "add", f"veth{number}", "type", "veth", "peer", "name", f"far{number}")
    ended = threading.Event()

    def keep_sending() -> None:
        while not ended.is_set():
            send_udp(lab.node, ("127.0.0.1", 9), [1] * 5)  # nobody listens
            time.sleep(0.05)

    settings = SourceSettings(
        families={"drops": lambda place: DropProbe(place, DropSettings(ring_bytes=RING))}
    )
    sender = threading.Thread(target=keep_sending)
    try:
        async with running(lab, settings) as probes:
            await probes.until(lambda: len(probes.coverage.covered()) == PODS)
            sender.start()
            await probes.until(lambda: any(len(batch.drops) for batch in probes.batches))
            before, began = len(probes.batches), time.monotonic()
        assert time.monotonic() - began > 0.3, "detaching took no time"
    finally:
        ended.set()
        sender.join()
    assert sum(len(batch.drops) for batch in probes.batches[before:]) > RING // 152
    assert ("drops", "ring_full") not in probes.lost()
