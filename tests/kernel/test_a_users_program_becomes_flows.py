from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.lab import Lab, inside

ROOT = Path(__file__).resolve().parents[2]


def test_the_documented_example_tells_of_a_connection(lab: Lab) -> None:
    tree = os.environ.get("BCC_KERNEL_SOURCE", f"/lib/modules/{os.uname().release}/build")
    if not Path(tree).exists() or not Path("/usr/lib/python3/dist-packages/bcc").exists():
        assert os.environ.get("CI") != "true"
        pytest.skip("the bcc engine wants python3-bpfcc and kernel headers")
    pod, other = lab.add_pod(), lab.add_pod()
    with inside(other.namespace):
        server = socket.create_server(("", 8080))
    command = ["unshare", "-m", sys.executable, "-m", "tests.kernel.custom_program"]
    with (
        server,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program,
    ):
        assert program.stdout is not None
        assert "attached\n" == program.stdout.readline()
        with inside(pod.namespace):
            client = socket.create_connection((other.ipv4, 8080), 20)
        with client:
            port = client.getsockname()[1]
            said, _ = program.communicate(timeout=60)
    assert [pod.ipv4, other.ipv4, port, 8080, 6, 4, True] in json.loads(said)
