"""The second engine: sources compiled on the node by the BPF Compiler Collection.

For kernels without type information, and for programs that a user brings. It wants the
operating system's package (PyPI's ``bcc`` is something else), the kernel's headers, some 130 MB
of memory, in practice CAP_SYS_ADMIN, and a second for each probe. The only module that knows
bcc.

What is compiled is ``<name>.bcc.c`` beside the headers that it shares with our compiled
objects; constants and sizes of maps become macros. Nothing fits a program to the kernel, so one
that reads the kernel's structs is compiled with this kernel's own headers or not at all.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from native_probes.engine import LoadedProbe
from native_probes.report import ProbeUnavailableError
from native_probes.spec import ProbeSpec

_PLACES = (Path("/usr/lib/python3/dist-packages"), Path("/usr/lib/python3/site-packages"))
_INSTALL = "install it (Debian and Ubuntu: python3-bpfcc) with the headers of the running kernel"


class BccEngine:
    """Compiles; see ``Engine``."""

    name = "bcc"

    def load(self, spec: ProbeSpec) -> LoadedProbe:
        """See ``Engine``. Programs are compiled now, and loaded when they are asked for."""
        if spec.pins:
            raise ProbeUnavailableError("the bcc engine has no pins", "use the libbpf engine")
        folder = _sources()
        source = folder / f"{spec.name}.bcc.c"
        if not source.exists():
            raise ProbeUnavailableError(
                f"there is no source of the {spec.name} probe for the bcc engine",
                "use the libbpf engine for it",
            )
        if spec.tracepoints:
            _check_headers(spec.name)
        flags = [f"-DSIZE_{name}={entries}" for name, entries in spec.sizes.items()]
        flags.append(f"-DCILIARY_CONSTANTS={','.join(map(str, spec.constants))}")
        return compiled(spec.name, source, [f"-I{folder}", *flags], spec.tracepoints)


class BccProbe:
    """See ``LoadedProbe``."""

    def __init__(self, name: str, bcc: Any, loaded: Any, tracepoints: Mapping[str, str]) -> None:
        self._name = name
        self._bcc = bcc
        self._loaded = loaded
        self._tracepoints = tracepoints

    def program_fd(self, name: str) -> int:
        """Of a program for TC hooks, or of one that is attached."""
        try:
            with _silence():
                fd: int = self._loaded.load_func(name.encode(), self._bcc.BPF.SCHED_CLS).fd
        except Exception as error:  # noqa: BLE001 -- bcc raises Exception itself
            raise OSError(errno.EINVAL, f"the kernel refused {name}: {error}") from None
        return fd

    def map_fd(self, name: str) -> int:
        """Raises ``OSError`` if there is none of that name."""
        try:
            fd: int = self._loaded[name.encode()].map_fd
        except KeyError:
            raise OSError(errno.ENOENT, f"{self._name} has no map {name}") from None
        return fd

    def attach(self, program: str) -> None:
        """A program on a raw tracepoint. Those of users attach themselves by their names."""
        try:
            with _silence():
                self._loaded.attach_raw_tracepoint(
                    self._tracepoints[program].encode(), program.encode()
                )
        except Exception as error:  # noqa: BLE001 -- bcc raises Exception itself
            raise OSError(errno.EINVAL, f"the kernel refused {program}: {error}") from None

    def close(self) -> None:
        """See ``LoadedProbe``."""
        self._loaded.cleanup()


def compiled(
    name: str, source: Path, flags: list[str], tracepoints: Mapping[str, str] | None = None
) -> BccProbe:
    """A source file as programs and maps.

    Raises ``ProbeUnavailableError``, and ``OSError`` when the file cannot be read.
    """
    bcc = _module()
    said: list[str] = []
    text = source.read_bytes()  # of str it warns
    try:
        with _silence(said):
            loaded = bcc.BPF(text=text, cflags=["-DCILIARY_BCC", "-Wno-everything", *flags])
    except Exception as error:  # noqa: BLE001 -- bcc raises Exception itself
        release = os.uname().release
        raise ProbeUnavailableError(
            f"bcc does not compile {source.name} "
            f"({said[0] if said else ' '.join(str(error).split())})",
            f"install the headers of this kernel ({release}), or name their folder in "
            "BCC_KERNEL_SOURCE; bcc wants CAP_SYS_ADMIN, too",
        ) from None
    return BccProbe(name, bcc, loaded, tracepoints or {})


def _check_headers(name: str) -> None:
    """Refuse a tree that somebody named and that is another kernel's; bcc finds this one's."""
    tree = os.environ.get("BCC_KERNEL_SOURCE")
    if not tree:
        return
    release = Path(tree) / "include" / "generated" / "utsrelease.h"
    ours = os.uname().release
    found = release.read_text() if release.exists() else "none"
    if f'"{ours}"' not in found:
        raise ProbeUnavailableError(
            f"the {name} probe reads this kernel's structs, and {tree} has another's headers",
            f"install the headers of {ours}, and name their folder in BCC_KERNEL_SOURCE or nowhere",
        )


def _sources() -> Path:
    """In a wheel beside this module, in a clone at its root."""
    packaged = Path(__file__).parent / "sources"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "bpf"


def _module() -> Any:
    """The operating system's bcc, also from an environment that does not see its packages."""
    if "bcc" not in sys.modules:
        for place in _PLACES:
            package = place / "bcc"
            spec = importlib.util.spec_from_file_location(
                "bcc", package / "__init__.py", submodule_search_locations=[str(package)]
            )
            if spec is None or spec.loader is None or not (package / "__init__.py").exists():
                continue
            module = importlib.util.module_from_spec(spec)
            sys.modules["bcc"] = module
            try:
                spec.loader.exec_module(module)
            except (ImportError, OSError) as error:
                del sys.modules["bcc"]
                raise ProbeUnavailableError(f"bcc cannot be used ({error})", _INSTALL) from None
            break
        else:
            raise ProbeUnavailableError("bcc is not on this machine", _INSTALL)
    return sys.modules["bcc"]


@contextmanager
def _silence(said: list[str] | None = None) -> Iterator[None]:
    """The compiler writes to our output and to the log; ``said`` gets its errors."""
    kept = [(os.dup(fd), fd) for fd in (1, 2)]
    with tempfile.TemporaryFile() as instead:
        for _, fd in kept:
            os.dup2(instead.fileno(), fd)
        try:
            yield
        finally:
            for copy, fd in kept:
                os.dup2(copy, fd)
                os.close(copy)
            if said is not None:
                instead.seek(0)
                lines = instead.read().decode(errors="replace").splitlines()
                said += [line.split("main.c:")[-1] for line in lines if " error: " in line]
