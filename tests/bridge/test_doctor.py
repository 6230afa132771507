"""What ``ciliary doctor`` says where something is missing, and that the agent lives on."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner

from bridge.cli.detach import detach
from bridge.cli.doctor import _with_pins, doctor
from bridge.event_log import EventLog
from bridge.supervision import Supervisor
from native_probes import libbpf, links
from native_probes.pins import PinFolder
from native_probes.report import Finding
from native_probes.source import ProbeSource, SourceSettings
from parsers import compiled
from tests.bridge.agent_socket import agent_socket
from tests.programs import absent


@pytest.fixture
def without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which the library cannot be opened."""

    def refuse(name: str | None, *_: object, **__: object) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("native_probes.libbpf.ctypes.CDLL", refuse)
    libbpf._library.cache_clear()


def ask(command: click.Command, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    return result.exit_code, result.output


def configuration(directory: Path, **values: object) -> str:
    file = directory / "agent.json"
    file.write_text(json.dumps(values))
    return str(file)


def test_a_missing_library_is_one_sentence_with_its_remedy(
    tmp_path: Path, without_libbpf: None
) -> None:
    file = configuration(tmp_path, source="probes")
    code, told = ask(doctor, "--config", file, "--json")
    findings = json.loads(told)["findings"]
    assert code == 1
    assert {finding["state"] for finding in findings} == {"no"}
    assert all(finding["why"] and finding["remedy"] for finding in findings)
    (traffic,) = (finding for finding in findings if finding["probe"] == "traffic")
    assert "libbpf" in traffic["why"]
    assert "libbpf1" in traffic["remedy"]
    assert "Traceback" not in ask(doctor, "--config", file)[1]


async def test_cilium_is_judged_by_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    file = configuration(tmp_path, source="cilium", cilium={"socket": str(path)})
    code, told = ask(doctor, "--config", file)
    assert code == 1
    assert told.startswith("cilium    no        there is no socket")
    assert "remedy: " in told
    async with agent_socket(path):
        code, told = ask(doctor, "--config", file)
        assert (code, told.splitlines()[0]) == (0, "cilium    works")


@pytest.mark.parametrize(("wanted", "state"), [("", "works"), ("no", "degraded")])
def test_compiled_loops_are_no_source(
    wanted: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, missing = compiled.load(wanted)
    if kernels is None and not wanted:
        absent(missing)
    monkeypatch.setattr(compiled, "kernels", kernels)
    monkeypatch.setattr(compiled, "missing", missing)
    file = configuration(tmp_path, source="cilium", cilium={"socket": str(tmp_path / "none")})
    code, told = ask(doctor, "--config", file, "--json")
    assert (1, state) == (code, json.loads(told)["compiled"]["state"])
    assert ("CILIARY_COMPILED" in told) == (state == "degraded")


async def test_an_agent_without_a_probe_that_works_says_so_and_goes_on(
    without_libbpf: None,
) -> None:
    said: list[str] = []
    log = EventLog(write=said.append)
    supervisor = Supervisor(log)

    async def part(ready: Callable[[], None]) -> None:
        await ProbeSource(SourceSettings(), lambda _: None, log).run(ready)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "probes", part)
        with trio.fail_after(30):
            while "libbpf" not in supervisor.complaints.get("probes", ""):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert not [line for line in said if "Traceback" in line or " error " in line]


def test_pins_in_another_file_system_are_found_and_its_files_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "map_of_the_world"
    theirs.touch()
    result = CliRunner().invoke(detach, ["--pins", str(tmp_path)])
    assert "not in a BPF file system" in str(result.exception)
    assert theirs.exists()
    found = _with_pins(Finding("traffic", "works"), PinFolder(tmp_path / "pins"))
    assert ("traffic", "no") == (found.probe, found.state)
    assert "not in a BPF file system" in found.why


def test_detaching_without_rights_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[links.Link]:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr("native_probes.leftovers.all_links", refuse)
    result = CliRunner().invoke(detach)
    assert result.exit_code != 0
    assert "CAP_NET_ADMIN" in str(result.exception)
