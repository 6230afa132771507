"""The same call of compiled code and of its twin in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from parsers import compiled
from tests.programs import absent

T = TypeVar("T")


@contextmanager
def computed(*, by_python: bool) -> Iterator[None]:
    """Within, one of the two is used, whatever the environment says.

    The object that the environment names is taken, where it names one.
    """
    kernels, missing = compiled.kernels, compiled.missing
    if kernels is None and not by_python:
        kernels, missing = compiled.load("")
        if kernels is None:
            absent(missing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "kernels", None if by_python else kernels)
        yield


def both(call: Callable[[], T]) -> tuple[T, T]:
    """What compiled code gives, and what Python gives."""
    with computed(by_python=False):
        one = call()
    with computed(by_python=True):
        return one, call()
