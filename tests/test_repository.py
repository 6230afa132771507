"""The repository keeps the promises that CONTRIBUTING.md makes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("api", "bridge", "native_probes", "parsers")


def modules() -> list[Path]:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in paths if "v1" not in path.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_named_for_what_it_holds_and_says_its_strategy(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert path.stem not in {"utils", "helpers", "common", "manager", "misc"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_does_work_at_import(path: Path) -> None:
    if path.name == "__main__.py":
        return
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr):  # a bare call; docstrings are constants
            assert isinstance(node.value, ast.Constant), f"line {node.lineno}"
        assert not isinstance(node, (ast.While, ast.With)), f"line {node.lineno}"


def test_requirements_are_hash_pinned_and_name_no_index() -> None:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    names = ["fuzz", "guests", "lint", "matrix", "runtime", "test"]
    assert names == [f.stem for f in files]
    for file in files:
        text = file.read_text()
        assert "://" not in text
        assert not [line for line in text.splitlines() if line.startswith("--")]
        for requirement in text.replace("\\\n", " ").splitlines():
            assert "==" in requirement, (file.name, requirement)
            assert "--hash=sha256:" in requirement, (file.name, requirement)


def test_every_runtime_dependency_has_a_reason_on_its_line() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = text.split("dependencies = [\n", 1)[1].split("\n]", 1)[0]
    lines = block.splitlines()
    project = tomllib.loads(text)["project"]
    assert len(lines) == len(project["dependencies"])
    assert [line for line in lines if not line.partition("# ")[2]] == []


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    script = (
        "import sys\n"
        "from bridge.cli import root\n"
        "heavy = {'grpc', 'numpy', 'pydantic', 'rich', 'google', 'trio', 'yaml'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
