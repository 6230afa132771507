"""``./dev`` on machines that lack something says what, and the command that installs it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TOO_OLD = "#!/bin/sh\nexit 1\n"
WITHOUT_VENV = '#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose ``dev`` finds only the interpreters of ``bin``."""
    (tmp_path / "bin").mkdir()
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    script = (ROOT / "dev").read_text()
    assert "/usr/bin/python3 " in script
    (tmp_path / "dev").write_text(script.replace("/usr/bin/python3 ", ""))
    for tool in ("cmp", "dirname", "sed"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def dev(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(clone / "dev"), *arguments],
        env={"PATH": str(clone / "bin")},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


def put_python(clone: Path, script: str) -> None:
    path = clone / "bin" / "python3"
    path.write_text(script)
    path.chmod(0o755)


@pytest.mark.parametrize("script", [None, TOO_OLD], ids=["missing", "too old"])
def test_a_missing_python_is_one_sentence(clone: Path, script: str | None) -> None:
    if script is not None:
        put_python(clone, script)
    done = dev(clone, "demo")
    assert 1 == done.returncode
    assert (
        "dev: Python 3.11 or later is needed; install it: apt-get install python3 python3-venv\n"
        == done.stderr
    )


def test_a_missing_venv_is_one_sentence(clone: Path) -> None:
    put_python(clone, WITHOUT_VENV)
    done = dev(clone, "demo")
    assert 1 == done.returncode
    assert (
        "dev: python3 has no venv module; install it: apt-get install python3-venv\n" == done.stderr
    )


def test_help_names_every_command(clone: Path) -> None:
    done = dev(clone)
    assert 0 == done.returncode
    assert "./dev agent | demo | test | lint | bench | ciliary | python | setup" in done.stderr


def test_an_unknown_command_fails(clone: Path) -> None:
    assert 1 == dev(clone, "dance").returncode
