"""Programs of others that tests run: what is missing is skipped by name, and fails in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]


def absent(text: str) -> NoReturn:
    """What a test needs is not here; ``text`` names it, and the remedy."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


def built(name: str, variable: str) -> Path:
    """A program made of tests/conformance/oracle; ``variable`` may name another place."""
    path = Path(os.environ.get(variable, ROOT / ".cache" / "oracle" / name))
    if not path.is_file():
        absent(f"{path} is missing: build tests/conformance/oracle (needs Go) or set {variable}")
    return path


def program(name: str, package: str) -> str:
    """The path of a program; ``package`` is Debian's that has it."""
    return shutil.which(name) or absent(
        f"{name} is not here; install it: apt-get install {package}"
    )
