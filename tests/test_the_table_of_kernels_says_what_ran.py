"""Against JUnit files as pytest writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import kernel_table

TESTS = {
    "test_drops_are_told.py": "def test_a(): pass\ndef test_b(): pass\n",
    "test_fexit_tells.py": "import pytest\n@pytest.mark.skip('no fexit')\ndef test_c(): pass\n",
    "test_losses.py": (
        "import pytest\ndef test_d(): pass\n@pytest.mark.skip('no netem')\ndef test_e(): pass\n"
    ),
}
_CONFTEST = """
import pytest
@pytest.fixture(scope="session", autouse=True)
def release(record_testsuite_property):
    record_testsuite_property("kernel", "6.1.0-1-amd64")
"""


def _run(folder: Path, results: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in {"conftest.py": _CONFTEST, **files}.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    subprocess.run([*command, f"--junitxml={results}", f"--rootdir={folder}"], check=False)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    proved = tmp_path / "proved"
    proved.mkdir()
    _run(tmp_path / "tests", proved / "here.xml", **TESTS)
    return proved


def test_what_passed_was_left_out_and_did_not_run_is_told_apart(runs: Path) -> None:
    run = kernel_table.read(runs / "here.xml")
    lines = kernel_table.table({"5.10": kernel_table.Run("5.10.0-1", {}, {}), "here": run})
    assert lines.splitlines()[2:5] == [
        "| drops are told |  | yes |",
        "| fexit tells |  | no [1] |",
        "| losses |  | yes [2] |",
    ]
    assert "Runs: 5.10 5.10.0-1, here 6.1.0-1-amd64" in lines
    assert lines.endswith("1. no fexit\n2. no netem\n")


def test_a_run_that_failed_proves_nothing(tmp_path: Path) -> None:
    _run(tmp_path / "tests", tmp_path / "x.xml", **{"test_x.py": "def test_x(): assert 0\n"})
    with pytest.raises(ValueError, match="tests failed"):
        kernel_table.read(tmp_path / "x.xml")


def test_a_claim_that_no_run_proved_is_found(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for column in kernel_table.EMULATED:
        (runs / f"{column}.xml").write_bytes((runs / "here.xml").read_bytes())
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- emulated kernels: made -->\n<!-- end -->\nb\n"
        "<!-- build machine: made -->\n<!-- end -->\nc\n"
    )
    monkeypatch.setattr(kernel_table, "PAGE", page)
    assert kernel_table.main(["--check", str(runs)]) == 1
    assert kernel_table.main([str(runs)]) == 0
    assert kernel_table.main(["--check", str(runs)]) == 0
    text = page.read_text()
    page.write_text(text.replace("6.1.0-1-amd64", "6.1.0-2-amd64"))
    assert kernel_table.main(["--check", str(runs)]) == 0
    page.write_text(text.replace("no [1]", "yes", 1))
    assert kernel_table.main(["--check", str(runs)]) == 1
    assert "did not prove" in capsys.readouterr().err
    (runs / "6.1.xml").unlink()
    assert kernel_table.main(["--check", str(runs)]) == 1
    assert "has no run of 6.1" in capsys.readouterr().err
