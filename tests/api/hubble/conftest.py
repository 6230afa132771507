"""Fixtures of the Hubble API's tests."""

from __future__ import annotations

import pytest

from api.hubble.rpc import OpenEngine
from tests.api.hubble.serving import ENGINES


@pytest.fixture(params=ENGINES)
def open_engine(request: pytest.FixtureRequest) -> OpenEngine:
    """Each engine in turn."""
    return ENGINES[request.param]
