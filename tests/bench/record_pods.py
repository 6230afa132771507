"""Records pods as a real API server lists them: ``python -m tests.bench.record_pods FILE``.

They are as deployments make them: with an owner, a generated name, labels, a container with
variables of its environment, a service account, and a status with conditions. ``bench_names``
takes a hundred thousand pods from the list, each with a name and an address of its own.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
from pathlib import Path

from tests.cluster.control_plane import Client, ControlPlane, binary
from tests.cluster.pods import PODS, Json, address_of, each

COUNT = 500  # a page
NODES = 5


def name_of(i: int) -> str:
    """Of the i-th pod; as long for each."""
    return f"app-{i % 50:02d}-5d4f8c7b9-{i:06d}"


def pod(i: int) -> Json:
    """As its ReplicaSet makes it."""
    app = f"app-{i % 50:02d}"
    owner = {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-5d4f8c7b9",
        "uid": f"5f1c9e5a-0000-4000-8000-{i % 50:012d}", "controller": True,
    }  # fmt: skip
    container = {
        "name": "main",
        "image": f"registry.example/{app}:1.2.3",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": f"SETTING_{n}", "value": "on"} for n in range(8)],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name_of(i), "generateName": f"{app}-5d4f8c7b9-", "ownerReferences": [owner],
            "labels": {"app": app, "pod-template-hash": "5d4f8c7b9", "tier": "web"},
            "annotations": {"prometheus.io/scrape": "true"},
        },
        "spec": {"nodeName": f"n{i % NODES:05d}", "containers": [container]},
    }  # fmt: skip


def status(i: int) -> Json:
    """As its kubelet says it."""
    address = address_of(i)
    since = "2026-11-25T00:00:00Z"
    conditions = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "hostIP": "192.168.0.1", "startTime": since,
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": since}
                for kind in conditions
            ],
            "containerStatuses": [
                {
                    "name": "main", "ready": True, "restartCount": 0, "image": "main",
                    "imageID": "sha256:0", "state": {"running": {"startedAt": since}},
                }
            ],
        }
    }  # fmt: skip


def make(client: Client, i: int) -> None:
    """The i-th pod."""
    client.do("POST", PODS, pod(i))
    client.do("PATCH", f"{PODS}/{name_of(i)}/status", status(i))


def main(file: Path) -> None:
    """Write the server's answer, compressed."""
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(binary(), Path(folder))
        try:
            plane.start()
            each(plane, COUNT, make)
            with plane.client() as client:
                answer = client.ask("GET", f"{PODS}?limit={COUNT}")[1]
        finally:
            plane.stop()
    file.write_bytes(lzma.compress(answer, preset=9))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
