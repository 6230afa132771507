"""Programs of others that tests run: what is missing is skipped by name, and fails in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def absent(text: str) -> NoReturn:
    """What a test needs is not here; ``text`` names it, and the remedy."""
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


def program(name: str, package: str) -> str:
    """The path of a program; ``package`` is Debian's that has it."""
    return shutil.which(name) or absent(
        f"{name} is not here; install it: apt-get install {package}"
    )
