"""Events that this kernel did not let tracing programs see.

The kernel of the machines that build this (6.18, made for virtual machines) runs no program on a
tracepoint while a thread of process 1 is current, not even in a softirq that interrupted it.
It tells nobody: ``recursion_misses`` stays 0, and ``run_cnt`` as well. Trace events are recorded
nevertheless: of 30,603 of ``tcp_retransmit_skb`` in one run, the 43 that were missed
were the 43 in such a thread, and of 10,904 in another all of the 150. It hits one timer tick in
150 there.

So where a test failed, this record says whether the kernel withheld something meanwhile; only then
it has another try.
"""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_EVENTS = ("tcp", "sock/inet_sock_set_state", "skb/kfree_skb")  # what our programs hang on


class Record:
    """Trace events in the threads of a process, in a buffer of our own. Wants root.

    ``obstacle`` is why there is none; then nothing is counted.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        self._mounted = tempfile.mkdtemp(prefix="ciliary-tracefs-")
        self._folder = Path(self._mounted) / "instances" / Path(self._mounted).name
        done = subprocess.run(
            ["mount", "-t", "tracefs", "nodev", self._mounted],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.obstacle = done.stderr.strip()
        if self.obstacle:
            return
        self._folder.mkdir()
        self.start()
        for event in _EVENTS:
            with suppress(FileNotFoundError):  # not in this kernel
                (self._folder / "events" / event / "enable").write_text("1")

    def start(self) -> None:
        """Forget what was, and follow the threads that there are now."""
        if not self.obstacle:
            threads = [thread.name for thread in Path(f"/proc/{self._process}/task").iterdir()]
            (self._folder / "set_event_pid").write_text(" ".join(threads))
            (self._folder / "trace").write_text("")

    def count(self) -> int:
        """Events since the start."""
        if self.obstacle:
            return 0
        lines = (self._folder / "trace").read_text().splitlines()
        return sum(not line.startswith("#") for line in lines)

    def close(self) -> None:
        """Leave nothing behind."""
        if not self.obstacle:
            self._folder.rmdir()
            subprocess.run(["umount", self._mounted], check=True)
        Path(self._mounted).rmdir()
