from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from native_probes import engine, libbpf
from native_probes.engine import LibbpfEngine
from native_probes.report import ProbeUnavailableError
from native_probes.spec import ProbeSpec


def complaint(spec: ProbeSpec) -> ProbeUnavailableError:
    with pytest.raises(ProbeUnavailableError) as raised:
        LibbpfEngine().load(spec)
    assert "\n" not in str(raised.value)
    assert raised.value.remedy
    return raised.value


def test_an_object_file() -> None:
    assert "object file of the nonesuch probe" in complaint(ProbeSpec("nonesuch")).why


def test_type_information_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "KERNEL_BTF", Path("/nonexistent/btf"))
    monkeypatch.setattr(libbpf, "check_present", lambda: None)
    found = complaint(ProbeSpec("traffic"))
    assert "type information" in found.why
    assert "5.8" == found.minimum_kernel
    assert "bcc" in found.remedy
    assert "bcc" not in complaint(ProbeSpec("sockets")).remedy  # which has no such source


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
def test_rights(code: int) -> None:
    found = engine.refused("traffic", OSError(code, os.strerror(code)))
    assert "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" in found.remedy
    assert "traffic" in found.finding("traffic").why
