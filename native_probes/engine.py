"""Engines: they turn a spec into programs and maps in the kernel.

An engine hands over file descriptors; attaching to interfaces and reading maps and rings is
the same code for all of them. Loading takes 25-50 ms of CPU time (the kernel's type
information is parsed each time) and gives up the GIL, so it belongs into a thread.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Protocol

from native_probes import libbpf
from native_probes.report import ProbeUnavailableError
from native_probes.spec import CONSTANTS, ProbeSpec

_OF_BOTH_ENGINES = ("traffic", "drops", "tcp", "dns")  # those that bcc compiles, too


class LoadedProbe(Protocol):
    """One probe in the kernel."""

    def program_fd(self, name: str) -> int:
        """Of a loaded program; valid until ``close``."""

    def map_fd(self, name: str) -> int:
        """Valid until ``close``."""

    def attach(self, program: str) -> None:
        """Where the program's section says (tracepoints, functions). Raises ``OSError``."""

    def close(self) -> None:
        """Detach what was attached here, and unload; may be called again."""


class Engine(Protocol):
    """Loads probes."""

    name: str

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        """Raises ``ProbeUnavailableError``, with a sentence that says what to do."""


class LibbpfEngine:
    """Our compiled objects, fitted to the running kernel by libbpf."""

    name = "libbpf"

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        """See ``Engine``."""
        try:
            image = (
                resources.files("native_probes") / "objects" / f"{spec.name}.bpf.o"
            ).read_bytes()
        except FileNotFoundError:
            raise ProbeUnavailableError(
                f"the object file of the {spec.name} probe is missing",
                "install ciliary again, or run make in bpf/",
            ) from None
        libbpf.check_present()
        if not libbpf.KERNEL_BTF.exists():
            raise ProbeUnavailableError(
                f"the kernel has no type information ({libbpf.KERNEL_BTF})",
                "use a kernel built with CONFIG_DEBUG_INFO_BTF"
                + (", or the bcc engine" if spec.name in _OF_BOTH_ENGINES else ""),
                "5.8",
            )
        try:
            loaded = libbpf.BpfObject(image, modules=spec.on_modules)
        except OSError as error:
            raise refused(spec.name, error) from error
        try:
            if spec.constants:
                loaded.set_constants(CONSTANTS, spec.constants)
            for name, entries in spec.sizes.items():
                loaded.resize(name, entries)
            for name, path in spec.pins.items():
                loaded.pin(name, path)
            if spec.programs is not None:
                for program in set(loaded.programs) - spec.programs:
                    loaded.skip(program)
            loaded.load()
        except OSError as error:
            loaded.close()
            raise refused(spec.name, error) from error
        return loaded


@contextmanager
def unloaded_on_failure(name: str, loaded: LoadedProbe) -> Iterator[None]:
    """For the rest of a probe's start: when that fails, the kernel keeps nothing of it.

    An ``OSError`` becomes the ``ProbeUnavailableError`` of the probe called ``name``.
    """
    try:
        yield
    except OSError as error:
        loaded.close()
        raise refused(name, error) from error
    except BaseException:
        loaded.close()
        raise


def refused(name: str, error: OSError) -> ProbeUnavailableError:
    """What to say when the kernel does not load or attach a probe."""
    if error.errno in {errno.EPERM, errno.EACCES}:
        return ProbeUnavailableError(
            f"the kernel does not let this process load the {name} probe ({error.strerror})",
            "give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, in the initial user namespace",
            "5.8",
        )
    words = ": ".join(filter(None, (error.strerror, libbpf.last_words())))
    return ProbeUnavailableError(
        f"the kernel refused the {name} probe ({words})",
        "use a newer kernel",
        "5.10",
    )
