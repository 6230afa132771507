from __future__ import annotations

import gc
import subprocess
from collections import Counter
from pathlib import Path

from tests.kernel.lab import Lab
from tests.kernel.running import Running, running
from tests.kernel.senders import send_udp

_INTERFACES = 200


def descriptors() -> Counter[str]:
    """Open file descriptors of this process by what they are."""
    found: Counter[str] = Counter()
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[str(path.readlink()).split(":[")[0]] += 1
        except OSError:
            continue  # that of the listing itself
    return found


def batch(lab: Lab, lines: list[str]) -> None:
    subprocess.run(
        ["ip", "-n", lab.node, "-batch", "-"],
        input="\n".join(lines),
        text=True,
        check=True,
        timeout=120,
    )


def rooms(probes: Running) -> int:
    """Interfaces that have room in the kernel's table of them, times points."""
    traffic = probes.source._families.traffic
    assert traffic is not None
    return len(traffic._interfaces.read()[0])


async def test_two_hundred_interfaces_leave_nothing_and_disturb_nobody(lab: Lab) -> None:
    pod, other = lab.add_pod(), lab.add_pod()
    async with running(lab) as probes:
        await probes.covers(lab.ifindex(pod.interface), lab.ifindex(other.interface))
        await probes.until(lambda: rooms(probes) == 4)
        gc.collect()
        before = descriptors()
        for _ in range(2):
            batch(lab, [f"link add veth{n}x type veth peer name p{n}" for n in range(_INTERFACES)])
            batch(lab, [f"link set veth{n}x up" for n in range(_INTERFACES)])
            batch(lab, [f"link del veth{n}x" for n in range(_INTERFACES)])
        send_udp(pod.namespace, (other.ipv4, 9999), [10] * 50)
        await probes.until(lambda: probes.coverage.statistics().waiting == 0)
        await probes.until(lambda: len(probes.coverage.covered()) == 2)
        await probes.until(lambda: rooms(probes) == 4)
        gc.collect()
        assert before == descriptors()
        assert probes.coverage.last_error == ""
    assert 50 == probes.traffic(destination_port=9999, first=True)["skbs"].sum()


async def test_all_of_a_hundred_interfaces_are_covered(lab: Lab) -> None:
    async with running(lab) as probes:
        batch(lab, [f"link add veth{n}x type veth peer name p{n}" for n in range(100)])
        await probes.until(lambda: len(probes.coverage.covered()) == 100)
        assert probes.coverage.statistics().failed == 0
