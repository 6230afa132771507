"""The program and the configuration of docs/reference/probes/custom.md, as they stand there."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
import yaml

from bridge.config import parse_config
from bridge.probes import source_settings
from parsers.custom_records import CustomRecords
from tests.kernel.lab import Lab, inside
from tests.kernel.running import running
from tests.programs import absent

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "probes" / "custom.md"
PACKAGE = Path("/usr/lib/python3/dist-packages/bcc")
PORT = 81


def block(language: str) -> str:
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(found)


@pytest.fixture
def a_compiler() -> None:
    """Skips without bcc and kernel headers; any will do for what reads no kernel structs."""
    tree = Path(os.environ.get("BCC_KERNEL_SOURCE", f"/lib/modules/{os.uname().release}/build"))
    missing = [str(path) for path in (PACKAGE, tree) if not path.exists()]
    if missing:
        absent(f"bcc wants {', '.join(missing)}: apt-get install python3-bpfcc linux-headers-...")


async def test_the_example_tells_who_connects(lab: Lab, tmp_path: Path, a_compiler: None) -> None:
    pod = lab.add_pod()
    program = tmp_path / "connects.c"
    program.write_text(block("c"))
    values = yaml.safe_load(block("yaml"))
    (custom,) = values["native_probes"]["custom"]
    custom["file"] = str(program)
    config = parse_config(values, {})
    async with running(lab, source_settings(config.native_probes)) as probes:
        with inside(pod.namespace):
            tcp = socket.socket()
        with tcp, pytest.raises(ConnectionRefusedError):
            tcp.connect(("10.77.0.1", PORT))

        def told() -> list[CustomRecords]:
            return [
                part
                for batch in probes.batches
                for part in batch.custom
                if (part.rows["pid"] == os.getpid()).any()
            ]

        await probes.until(told)
        (records,) = told()
        (row,) = records.rows[records.rows["pid"] == os.getpid()]
        assert row["destination_ip"].tobytes() == socket.inet_aton("10.77.0.1")
        assert row["destination_port"] == PORT
        assert row["command"].startswith(b"py")
        states = {finding.probe: finding.state for finding in probes.source.findings()}
        assert states["connects"] == "works"
