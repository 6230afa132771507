"""How soon interfaces are covered: ``python -m tests.bench.bench_attach``, as root.

In a namespace of its own: one veth at a time, and 100 at once, from the moment at which ``ip``
has made them to the moment at which both programs are attached. The loop's share of finding a
new interface is in it, ``ip`` is not.
"""

from __future__ import annotations

import subprocess
import sys
import time

import trio

from tests.kernel.lab import Lab
from tests.kernel.running import running

_ONE_BY_ONE, _AT_ONCE = 20, 100


async def measure(lab: Lab) -> tuple[list[float], float]:
    """Seconds for each of those that came alone, and for all of those that came together."""
    alone = []
    async with running(lab) as probes:
        for number in range(_ONE_BY_ONE):
            lab.ip("link", "add", f"veth{number}a", "type", "veth", "peer", "name", f"p{number}a")
            began = time.monotonic()
            while len(probes.coverage.covered()) <= number:
                await trio.sleep(0.001)
            alone.append(time.monotonic() - began)
        lines = [f"link add veth{n}b type veth peer name p{n}b" for n in range(_AT_ONCE)]
        command = ["ip", "-n", lab.node, "-batch", "-"]
        began = time.monotonic()
        subprocess.run(command, input="\n".join(lines), text=True, check=True)  # noqa: ASYNC221
        while len(probes.coverage.covered()) < _ONE_BY_ONE + _AT_ONCE:
            await trio.sleep(0.001)
        return alone, time.monotonic() - began


def main() -> None:
    """Write two lines."""
    lab = Lab()
    try:
        alone, together = trio.run(measure, lab)
    finally:
        lab.close()
    best, middle, worst = (1e3 * sorted(alone)[i] for i in (0, len(alone) // 2, -1))
    sys.stdout.write(f"one interface: {best:.0f} ms, median {middle:.0f}, worst {worst:.0f}\n")
    sys.stdout.write(f"{_AT_ONCE} at once: {1e3 * together / _AT_ONCE:.0f} ms each\n")


if __name__ == "__main__":
    main()
