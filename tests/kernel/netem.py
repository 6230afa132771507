"""Losses by the kernel's network emulator, whose own counter says how many there were."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.lab import run


@contextmanager
def losing(namespace: str, percent: int) -> Iterator[Callable[[], int]]:
    """Of what leaves by a pod's eth0; gives how many the kernel has counted as lost."""
    qdisc = ("tc", "-n", namespace, "qdisc")
    lossy = ("add", "dev", "eth0", "root", "netem", "loss", f"{percent}%")
    made = subprocess.run([*qdisc, *lossy], capture_output=True, text=True, check=False)
    if "unknown" in made.stderr:
        pytest.skip("this kernel has no sch_netem")
    assert made.returncode == 0, made.stderr

    def lost() -> int:
        (shown,) = json.loads(
            run("tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", "eth0")
        )
        return int(shown["drops"])

    yield lost
    run(*qdisc, "del", "dev", "eth0", "root")
