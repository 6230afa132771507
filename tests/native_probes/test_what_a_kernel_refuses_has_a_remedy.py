"""Programs on function exits: what is said where the kernel does not take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from native_probes import netfilter
from native_probes.engine import LoadedProbe, refused
from native_probes.family import Place
from native_probes.function_exits import knows, load_on_exits
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


def test_a_function_is_known_by_its_modules_type_information_or_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"\0nf_hook_slow\0built_in_fn\0")
    (tmp_path / "nf_nat").write_bytes(b"\1\0\0\0nf_nat_inet_fn\0nf_nat_packet\0")
    found = [
        name
        for name in ("nf_nat_inet_fn", "nf_nat_packet", "built_in_fn", "nf_nat", "hook_slow")
        if knows(name, "nf_nat", folder=tmp_path)
    ]
    assert found == ["nf_nat_inet_fn", "nf_nat_packet", "built_in_fn"]
    assert not knows("nf_nat_packet", "ip_tables", folder=tmp_path)


class Loading:
    """An engine that is asked for programs and has nothing to attach them to."""

    name = "loading"

    def __init__(self) -> None:
        self.programs: frozenset[str] | None = None

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        self.programs = spec.programs
        raise ProbeUnavailableError("that was all", "")


def test_netfilter_is_asked_for_the_functions_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netfilter, "knows", lambda _, module: module in {"nf_tables", "nf_nat"})
    engine = Loading()
    with pytest.raises(ProbeUnavailableError, match="that was all"):
        netfilter.NetfilterProbe(Place(engine), netfilter.NetfilterSettings())
    assert engine.programs == frozenset({"nft_verdict", "nat_verdict"})


def test_netfilter_without_any_of_its_functions_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(netfilter, "knows", lambda *_: False)
    engine = Loading()
    with pytest.raises(ProbeUnavailableError, match="no module of netfilter is loaded"):
        netfilter.NetfilterProbe(Place(engine), netfilter.NetfilterSettings())
    assert engine.programs is None
