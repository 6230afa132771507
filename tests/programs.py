"""Programs of others that tests run: what is missing is skipped by name, and fails in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """The path of a program; ``package`` is Debian's that has it."""
    found = shutil.which(name)
    if found is None:
        text = f"{name} is not here; install it: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return found
