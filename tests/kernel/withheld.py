"""Events that this kernel did not let tracing programs see.

The kernel of the machines that build this (6.18, made for virtual machines) runs no program on a
tracepoint while a thread of process 1 is current, not even in a softirq that interrupted it.
It tells nobody: ``recursion_misses`` stays 0, and ``run_cnt`` as well. Trace events are recorded
nevertheless: of 30,603 of ``tcp_retransmit_skb`` in one run, the 43 that were missed
were the 43 in such a thread, and of 10,904 in another all of the 150. It hits one timer tick in
150 there.

So where a test failed, this record says whether process 1 had such events meanwhile; only then
the test has another try.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_EVENTS = {
    "tcp": "",
    "sock/inet_sock_set_state": "",
    "skb/kfree_skb": "protocol==0x800||protocol==0x86dd",
}
"""What our programs hang on, and of what packets."""

_PREFIX = "ciliary-"
_numbers = itertools.count()


class NoTraceEventsError(Exception):
    """Why there are none."""


class Record:
    """Trace events in the threads of a process, in a buffer of our own.

    Wants root. Raises ``NoTraceEventsError``.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        self._instances = _open_instances()
        self._name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        _remove_stale(self._instances)
        os.mkdir(self._name, dir_fd=self._instances)
        self._folder = Path(f"/proc/self/fd/{self._instances}") / self._name
        self.start()
        for event, packets in _EVENTS.items():
            folder = self._folder / "events" / event
            with suppress(FileNotFoundError):  # not in this kernel
                if packets:
                    (folder / "filter").write_text(packets)
                (folder / "enable").write_text("1")

    def start(self) -> None:
        """Forget what was, and follow the threads that there are now."""
        threads = [thread.name for thread in Path(f"/proc/{self._process}/task").iterdir()]
        (self._folder / "set_event_pid").write_text(" ".join(threads))
        (self._folder / "trace").write_text("")

    def count(self) -> int:
        """Events since the start."""
        lines = (self._folder / "trace").read_text().splitlines()
        return sum(not line.startswith("#") for line in lines)

    def close(self) -> None:
        """Leave nothing behind."""
        os.rmdir(self._name, dir_fd=self._instances)
        os.close(self._instances)


def _open_instances() -> int:
    """An fd of the folder of buffers, in a mount that goes with its last fd."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        done = subprocess.run(
            ["mount", "-t", "tracefs", "nodev", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise NoTraceEventsError(done.stderr.strip())
        try:
            return os.open(f"{folder}/instances", os.O_RDONLY | os.O_DIRECTORY)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def _remove_stale(instances: int) -> None:
    """Buffers of processes that were killed."""
    for name in os.listdir(instances):
        process = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and not Path("/proc", process).exists():
            os.rmdir(name, dir_fd=instances)
