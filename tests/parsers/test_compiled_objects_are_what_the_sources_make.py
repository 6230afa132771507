"""The committed objects of compiled loops can be made again, byte by byte, anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from parsers import compiled
from tests.parsers.shared_object import OBJECTS
from tests.programs import program

SOURCES = Path(compiled.__file__).parent


def build(folder: Path) -> dict[str, bytes]:
    sources, out = folder / "compiled", folder / "out"
    sources.mkdir(parents=True)
    out.mkdir()
    for path in (SOURCES / "Makefile", *SOURCES.glob("*.[ch]")):
        shutil.copy(path, sources)
    subprocess.run(["make", "-s", "-C", sources, f"OUT={out}"], check=True, timeout=300)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_two_folders_give_the_bytes_that_are_committed(tmp_path: Path) -> None:
    program("make", "make")
    clang, linker = program("clang", "clang"), program("ld.lld", "lld")
    for name in (clang, linker):
        told = subprocess.run([name, "--version"], capture_output=True, text=True, check=True)
        if not re.search(r"\b14\.", told.stdout):
            pytest.skip(f"the committed objects are those of clang and lld 14, and {name} is not")
    committed = {path.name: path.read_bytes() for path in OBJECTS.iterdir()}
    one, other = build(tmp_path / "one"), build(tmp_path / "quite" / "another")
    assert committed.keys() == one.keys() == other.keys()
    assert [name for name in committed if one[name] != other[name]] == []
    assert [name for name in committed if one[name] != committed[name]] == []
    for data in one.values():
        assert str(tmp_path).encode() not in data
        assert b".c\0" not in data
