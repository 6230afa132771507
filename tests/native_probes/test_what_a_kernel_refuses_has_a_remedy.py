"""Programs on function exits: what is said where the kernel does not take them."""

from __future__ import annotations

import pytest

from native_probes.engine import LoadedProbe, refused
from native_probes.function_exits import load_on_exits
from native_probes.report import ProbeUnavailableError
from native_probes.spec import ProbeSpec


class Refusing:
    """An engine that raises."""

    name = "refusing"

    def __init__(self, cause: OSError | None) -> None:
        self._cause = cause

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        if self._cause is None:
            raise ProbeUnavailableError("libbpf is not here", "install libbpf1")
        raise refused(spec.name, self._cause) from self._cause


@pytest.mark.parametrize(
    ("on_modules", "remedy", "minimum"),
    [(False, "trampolines, and the rights", "5.5"), (True, "CAP_SYS_ADMIN", "5.11")],
)
def test_a_refusal_of_the_kernel_is_told_with_what_such_programs_want(
    on_modules: bool, remedy: str, minimum: str
) -> None:
    engine = Refusing(PermissionError(1, "Operation not permitted"))
    with pytest.raises(ProbeUnavailableError) as raised:
        load_on_exits(engine, ProbeSpec("sockets", on_modules=on_modules))
    assert "Operation not permitted" in raised.value.why
    assert remedy in raised.value.remedy
    assert raised.value.minimum_kernel == minimum


def test_what_never_came_to_the_kernel_keeps_its_remedy() -> None:
    with pytest.raises(ProbeUnavailableError, match="install libbpf1"):
        load_on_exits(Refusing(None), ProbeSpec("sockets"))
