"""What names from an API server cost: ``python -m tests.bench.bench_kubernetes [--json]``.

A real etcd and kube-apiserver (``tests/cluster/kube/build .cache/kube``) are filled with pods;
for each number of them an agent is started in a process of its own, as in a pod. Told are the
seconds until it has all names (from its start, with Python's own), memory and processor time
then, and the share of a processor while nothing changes and while 200 objects a second do, for
``--seconds`` each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.churn import Churn
from tests.cluster.control_plane import ControlPlane, binary, free_port
from tests.cluster.pods import fill

NODES = 100
PODS = (0, 1000, 10_000)
EVENTS = 200  # changes a second


def measure(
    plane: ControlPlane, folder: Path, pods: int, seconds: float, scope: str
) -> dict[str, Any]:
    """One agent beside a server with so many pods."""
    found: dict[str, Any] = {"pods": pods, "scope": scope}
    began = time.monotonic()
    with agent(plane, folder, scope) as pages:
        while not pages.has_names():
            time.sleep(0.01)
        found["seconds_to_names"] = round(time.monotonic() - began, 2)
        first = pages.figures()
        found["rss_mib"] = round(first["ciliary_process_resident_memory_bytes"] / 2**20, 1)
        found["cpu_seconds_to_names"] = round(first["ciliary_process_cpu_seconds_total"], 2)
        time.sleep(seconds)
        second = pages.figures()
        found["idle_cpu_percent"] = share(first, second, seconds)
        if pods:
            churn = Churn(plane, pods, NODES)
            began = time.monotonic()
            found["changes_a_second"] = round(churn.run(seconds, EVENTS))
            took = time.monotonic() - began
            third = pages.figures()
            found["changing_cpu_percent"] = share(second, third, took)
            found["rss_mib_after"] = round(
                third["ciliary_process_resident_memory_bytes"] / 2**20, 1
            )
    return found


def share(before: dict[str, float], after: dict[str, float], seconds: float) -> float:
    """Of a processor, in percent."""
    used = after["ciliary_process_cpu_seconds_total"] - before["ciliary_process_cpu_seconds_total"]
    return round(100 * used / seconds, 2)


@dataclass(frozen=True, slots=True)
class Pages:
    """Ports of an agent's pages."""

    metrics: int
    health: int

    def has_names(self) -> bool:
        """Whether /readyz has nothing against names."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}/readyz") as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            said = error.read()
        except OSError:
            return False
        return b"kubernetes" not in said

    def figures(self) -> dict[str, float]:
        """The agent's own metrics that have no labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {s.name: s.value for family in families for s in family.samples if not s.labels}


@contextmanager
def agent(plane: ControlPlane, folder: Path, scope: str) -> Iterator[Pages]:
    """In a process of its own."""
    pages = Pages(free_port(), free_port())
    (folder / "ca.crt").write_bytes(plane.authority.read_bytes())
    (folder / "token").write_text(plane.token)
    config = folder / "config.json"
    listen = {"agent": {"listen": f"127.0.0.1:{pages.metrics}"}, "hubble": {"listen": None}}
    values = {
        "source": "cilium",
        "node": {"name": "n00000"},
        "cilium": {"socket": str(folder / "none.sock")},
        "identity": {"kubernetes": {"service_account": str(folder), "scope": scope}},
        "hubble": {"unix_socket": str(folder / "hubble.sock")},
        "metrics": listen,
        "health": {"listen": f"127.0.0.1:{pages.health}"},
    }
    config.write_text(json.dumps(values))
    where = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(plane.port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "bridge", "agent", "--config", str(config)],
        env={**os.environ, **where},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield pages
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Print the figures, a line for each number of pods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--scope", choices=("all", "node"), default="all")
    parser.add_argument("--pods", type=int, nargs="*", default=PODS)
    said = parser.parse_args()
    for pods in said.pods:
        with tempfile.TemporaryDirectory() as name:
            plane = ControlPlane(binary(), Path(name))
            try:
                plane.start()
                fill(plane, NODES, pods)
                found = measure(plane, Path(name), pods, said.seconds, said.scope)
            finally:
                plane.stop()
        text = "  ".join(f"{key} {value}" for key, value in found.items())
        sys.stdout.write((json.dumps(found) if said.json else text) + "\n")


if __name__ == "__main__":
    main()
