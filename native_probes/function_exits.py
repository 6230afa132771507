"""Programs on the exits of kernel functions (fexit), which few kernels and rights allow."""

from __future__ import annotations

from pathlib import Path

from native_probes.engine import Engine, LoadedProbe
from native_probes.kernel_enums import BTF, VMLINUX
from native_probes.report import ProbeUnavailableError
from native_probes.spec import ProbeSpec


def load_on_exits(engine: Engine, spec: ProbeSpec) -> LoadedProbe:
    """Load; what is refused is said with the remedy that there is for such programs."""
    try:
        return engine.load(spec)
    except ProbeUnavailableError as error:
        if not isinstance(error.__cause__, OSError):
            raise  # it has not come to the kernel
        wanted = (
            "BPF trampolines and type information of modules, and CAP_SYS_ADMIN"
            if spec.on_modules
            else "BPF trampolines, and the rights that the other probes want"
        )
        raise ProbeUnavailableError(
            error.why,
            f"leave it off, or use a kernel with {wanted}",
            "5.11" if spec.on_modules else "5.5",
        ) from error


def knows(function: str, module: str, *, folder: Path = BTF) -> bool:
    """Whether type information names a function, of a module that is loaded or of the kernel.

    A module continues the kernel's strings and does not repeat a name that is among them. Its
    own begin behind numbers of types, whose last byte is 0.
    """
    name = b"\0" + function.encode() + b"\0"
    return any(
        name in path.read_bytes() for path in (folder / module, folder / VMLINUX) if path.exists()
    )
