from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "native_probes" / "objects"


def build(folder: Path) -> dict[str, bytes]:
    sources, out = folder / "bpf", folder / "out"
    shutil.copytree(ROOT / "bpf", sources)
    out.mkdir()
    subprocess.run(["make", "-s", "-C", sources, f"OUT={out}"], check=True, timeout=300)
    return {path.name: path.read_bytes() for path in out.glob("*.bpf.o")}


def test_two_folders_give_the_bytes_that_are_committed(tmp_path: Path) -> None:
    if not shutil.which("clang") or not shutil.which("llvm-strip"):
        assert os.environ.get("CI") != "true"
        pytest.skip("clang and llvm-strip are not installed")
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True)
    if "version 14." not in version.stdout:
        pytest.skip("the committed objects are those of clang 14")
    committed = {path.name: path.read_bytes() for path in COMMITTED.glob("*.bpf.o")}
    one, other = build(tmp_path / "one"), build(tmp_path / "quite" / "another")
    assert committed.keys() == one.keys() == other.keys()
    assert [name for name in committed if one[name] != other[name]] == []
    assert [name for name in committed if one[name] != committed[name]] == []
