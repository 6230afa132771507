"""Loops over columns, compiled: for what costs numpy a dozen passes.

The pipeline is columns of numpy data, and most of it stays numpy. A few loops have a step for
each event that depends on what the event is (walking over length prefixes, probing a hash
table, reading a packet), of which numpy makes many passes over all events; half of the
pipeline's time was spent between those. These loops are written in C beside this file and do
the same in one pass.

Each has its twin in Python, in the module that calls it. The twin serves where no object fits
(another processor) or is wanted (``CILIARY_COMPILED=no``), and is the judge: tests feed both
the same and want equal columns.

The functions take arrays and integers alone. They have no state, allocate nothing, call
nothing (not even libc: the same object runs on glibc and musl) and read bytes of the stream
only after they compared with its end. Whoever calls one makes the arrays, and answers for
their types and lengths; each is contiguous.

``objects`` has an object a processor, committed like those of the probes and proved to be
what the sources make, so nobody needs a compiler.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from importlib.resources import as_file, files
from typing import Any

import numpy as np

SWITCH = "CILIARY_COMPILED"
"""The variable that says ``no`` where Python shall do it all."""

_OFF = ("no", "false", "off", "0")


class _Column:
    """An array as a pointer to its first element."""

    @classmethod
    def from_param(cls, array: np.ndarray[Any, Any]) -> Any:
        try:
            return ctypes.byref(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
        except (TypeError, ValueError):  # read-only, or empty
            if not array.flags.c_contiguous:
                raise
            return ctypes.c_void_p(array.ctypes.data)


def _declared() -> dict[str, tuple[Any, ...]]:
    """The functions by name, and what they take: ``p`` a column, ``n`` an integer."""
    kinds = {"p": _Column, "n": ctypes.c_int64}
    return {name: tuple(kinds[kind] for kind in taken) for name, taken in SIGNATURES.items()}


SIGNATURES = {
    "framing_walk": "pnnpp",
    "framing_decode": "pnppnpppp",
    "intern_find": "pnnpppnpp",
    "intern_distinct": "pnpnpnpp",
    "intern_claim": "pnppn",
    "intern_hash": "pnnp",
    "datapath_flows": "pnpppnpppppppppppp",
}
"""As ``kernels.h`` has them, and explains them; each returns an integer."""


class Kernels:
    """The functions of ``kernels.h``, as attributes."""

    def __init__(self, path: str) -> None:
        # Not released: a call takes tens of microseconds, and nothing waits for the lock.
        library = ctypes.PyDLL(path)
        for name, taken in _declared().items():
            function = library[name]
            function.argtypes = taken
            function.restype = ctypes.c_int64
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Callable[..., int]:
        raise AttributeError(f"there is no compiled {name}")


def _load() -> tuple[Kernels | None, str]:
    """The functions, or why there are none."""
    if os.environ.get(SWITCH, "").strip().lower() in _OFF:
        return None, f"switched off by {SWITCH}"
    machine = platform.machine()
    resource = files(__name__).joinpath("objects", f"{machine}.so")
    if not resource.is_file():
        return None, f"no object for {machine}"
    try:
        with as_file(resource) as path:
            return Kernels(str(path)), ""
    except (OSError, AttributeError) as error:
        return None, f"the object for {machine} cannot be loaded: {error}"


kernels, missing = _load()
"""The compiled functions, None where there are none; ``missing`` says why."""
