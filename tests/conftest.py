"""What all tests share."""

from __future__ import annotations

import pytest

from tests.telling import TOLD, Tell


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Tell:
    """Say something that a run shall show at its end."""
    return pytestconfig.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(line)
