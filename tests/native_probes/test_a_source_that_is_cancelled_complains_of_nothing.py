"""A source whose probes are refused just when it is told to end."""

from __future__ import annotations

import pytest
import trio

from native_probes.engine import LoadedProbe
from native_probes.report import ProbeUnavailableError
from native_probes.source import ProbeSource, SourceSettings
from native_probes.spec import ProbeSpec


class Silent:
    def info(self, event: str, **fields: object) -> None:
        pass

    warning = info


class Refusing:
    """An engine that refuses, and has the source cancelled meanwhile if there is a scope."""

    name = "refusing"

    def __init__(self, scope: trio.CancelScope | None) -> None:
        self._scope = scope

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        if self._scope is not None:
            trio.from_thread.run_sync(self._scope.cancel)
        raise ProbeUnavailableError("this kernel has no probes", "use another")


def source(scope: trio.CancelScope | None) -> ProbeSource:
    return ProbeSource(SourceSettings(), lambda _: None, Silent(), engine=Refusing(scope))


async def test_it_ends_as_cancelled() -> None:
    with trio.CancelScope() as scope:
        await source(scope).run(lambda: None)
    assert scope.cancelled_caught


async def test_else_the_error_is_told() -> None:
    with pytest.raises(ProbeUnavailableError, match="no probes"):
        await source(None).run(lambda: None)
