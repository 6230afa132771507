"""Every command of the README does what it says.

``./dev demo`` and ``./dev ciliary`` are run as the interpreter of the tests, since ``./dev``
would make an environment of its own; ``./dev test`` and the like are looked up in ``dev``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bridge.config import parse_config
from tests.programs import absent

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
YAML = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
CILIARY = f"{sys.executable} -m bridge"


def block_with(word: str) -> str:
    (block,) = (str(block) for block in BLOCKS if word in block)
    return block


def shell(script: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, str]]:
    """The README's ports, and those that the demo has here."""
    (command,) = block_with("./dev demo").splitlines()
    with subprocess.Popen(
        [*command.replace("./dev", CILIARY).split(), "--duration", "60"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ports = {port: port for port in ("4244", "9965", "10093", "10094")}
        for line in process.stdout:
            if moved := re.match(r"port (\d+) .* is taken here: (\d+) instead", line):
                ports[moved[1]] = moved[2]
            if "FORWARDED" in line:
                break
        yield ports
        process.terminate()
        process.stdout.close()


def path_of(program: str) -> str:
    """Of a program that is not ours; skips the test without it."""
    built = ROOT / ".cache" / "oracle" / program
    found = os.environ.get(f"CILIARY_{program.upper()}") or shutil.which(program)
    found = found or (str(built) if built.exists() else None)
    return found or absent(
        f"there is no {program} here; install it, or build the one of the oracle"
    )


@pytest.mark.parametrize("command", block_with("hubble status").splitlines())
def test_what_the_demo_is_asked_is_answered(demo: dict[str, str], command: str) -> None:
    program, rest = command.split(" ", 1)
    found = path_of(program)
    for port, here in demo.items():
        rest = rest.replace(f":{port}", f":{here}")
    assert shell(f"{found} {rest}", ROOT).strip()


def test_demo_check_passes() -> None:
    (command,) = set(re.findall(r"`\./dev (demo --check)`", README))
    assert "FAILED" not in shell(f"{CILIARY} {command} --duration 1.5", ROOT)


def test_dev_knows_every_word_the_readme_gives_it() -> None:
    words = set(re.findall(r"\./dev (\w+)", README))
    assert {"agent", "demo", "test", "lint", "bench", "ciliary"} == words
    script = (ROOT / "dev").read_text()
    known = {word for line in re.findall(r"^([\w| ]+)\)$", script, re.MULTILINE)
             for word in line.split(" | ")}  # fmt: skip
    assert words <= known


def test_the_agent_runs_on_the_configuration_that_is_shown(tmp_path: Path) -> None:
    block = block_with("config show").replace("./dev ciliary", CILIARY)
    *before, agent = block.splitlines()
    shell("\n".join(before), tmp_path)
    moved = {
        "CILIARY_HUBBLE__UNIX_SOCKET": str(tmp_path / "hubble.sock"),
        "CILIARY_METRICS__HUBBLE__LISTEN": "127.0.0.1:0",
        "CILIARY_METRICS__AGENT__LISTEN": "127.0.0.1:0",
        "CILIARY_HEALTH__LISTEN": "127.0.0.1:0",
        "CILIARY_SOURCE": "cilium",  # no probes on the machine of whoever runs the tests
    }
    # One that does not end when it is asked to is killed, which is a failure.
    shell(f"timeout --preserve-status --kill-after 15 -s TERM 8 {agent}", tmp_path, **moved)


def test_recordings_are_made_replayed_and_decoded(tmp_path: Path) -> None:
    block = block_with("record").replace("./dev ciliary", CILIARY)
    (tmp_path / "bridge").symlink_to(ROOT / "bridge")
    assert 3 == len(shell(block, tmp_path).splitlines())


def test_a_recording_is_served(tmp_path: Path) -> None:
    block = block_with("ciliary serve").replace("./dev ciliary", CILIARY)
    (tmp_path / "bridge").symlink_to(ROOT / "bridge")
    flows = shell(block.replace("\nhubble ", f"\n{path_of('hubble')} "), tmp_path)
    assert 3 == flows.count("DROPPED")


def test_the_packaged_recording_is_decoded_with_its_names() -> None:
    flows = shell(block_with("decode bridge").replace("./dev ciliary", CILIARY), ROOT)
    assert 3 == len(flows.splitlines())
    assert "pod_name" in flows


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_page_that_is_linked_exists(link: str) -> None:
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("block", YAML)
def test_configuration_that_is_shown_is_right(block: str) -> None:
    parse_config(yaml.safe_load(block), {})
