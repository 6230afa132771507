"""Runs one custom probe and prints a line for each of its flows' ends, until its input ends.

Started in a mount namespace of its own, as tracepoints want a tracefs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from ipaddress import IPv6Address
from pathlib import Path

from native_probes.custom import CustomProbe, CustomSettings
from native_probes.engine import LibbpfEngine
from native_probes.family import Place

EXAMPLE = Path(__file__).parents[2] / "docs" / "reference" / "probes" / "opened.c"
RECORD = (
    ("time_ns", "u64"), ("source", "ipv4"), ("destination", "ipv4"), ("source_port", "u16"),
    ("destination_port", "u16"), ("protocol", "u8"), ("pad1", "u8"), ("pad2", "u16"),
)  # fmt: skip


def main() -> None:
    for kind, folder in (("tracefs", "/sys/kernel/tracing"), ("debugfs", "/sys/kernel/debug")):
        subprocess.run(["mount", "-t", kind, kind, folder], check=False, capture_output=True)
    settings = CustomSettings("opened", EXAMPLE, "opened_events", RECORD, "opened_lost")  # type: ignore[arg-type]
    probe = CustomProbe(Place(LibbpfEngine()), settings)
    sys.stdout.write("attached\n")
    sys.stdout.flush()
    sys.stdin.read()
    drained = probe.last_drain()
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    ends = [
        (
            str(IPv6Address(bytes(row["source"])).ipv4_mapped),
            str(IPv6Address(bytes(row["destination"])).ipv4_mapped),
            int(row["source_port"]),
            int(row["destination_port"]),
            int(row["protocol"]),
            int(row["family"]),
            0 <= now - int(row["last_ns"]) < 60e9,
        )
        for row in drained.records["traffic"]
    ]
    sys.stdout.write(json.dumps(ends) + "\n")
    probe.close()


if __name__ == "__main__":
    main()
