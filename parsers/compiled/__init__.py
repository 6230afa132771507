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
from pathlib import Path
from typing import Any

import numpy as np

SWITCH = "CILIARY_COMPILED"
"""The variable that says ``no`` where Python shall do it all.

A path in it, which has a ``/``, is an object to load instead: a developer's own build.
"""

_OFF = ("no", "false", "off", "0")


class _Bytes:
    """An array of whatever type as a pointer to its first byte."""

    _size = 1

    @classmethod
    def from_param(cls, array: np.ndarray[Any, Any]) -> Any:
        size, wanted = array.itemsize, cls._size
        if size != wanted and wanted > 1 and (array.dtype.kind != "V" or size % wanted):
            raise TypeError(f"elements are of {size} bytes instead of {wanted}")
        try:
            return ctypes.byref(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
        except (TypeError, ValueError):  # read-only, or empty
            if not array.flags.c_contiguous:
                raise
            return ctypes.c_void_p(array.ctypes.data)


class _Words16(_Bytes):
    """Of numbers, or of structs that are seen as such."""

    _size = 2


class _Words32(_Bytes):
    _size = 4


class _Words64(_Bytes):
    _size = 8


_KINDS = {"b": _Bytes, "h": _Words16, "i": _Words32, "q": _Words64, "n": ctypes.c_int64}

SIGNATURES = {
    "access_log_learn": "qbbibnq",
    "access_log_walk": "bnqqqbbbiqb",
    "addresses_at": "iqniqniqqq",
    "addresses_find": "qniiiq",
    "conversations_at": "iqnbiq",
    "conversations_begin": "inqnbh",
    "conversations_directions": "iniibhb",
    "datapath_flows": "bnqqqnbqqhhihbqqqq",
    "details_keys": "qniiibbhhiii",
    "details_wanted": "iniibb",
    "framing_decode": "bnqbnqqqb",
    "framing_walk": "bnnqq",
    "intern_add": "qnqninnqqbinii",
    "intern_claim": "iniqn",
    "intern_distinct": "qnqninqi",
    "intern_find": "qnnqqiniq",
    "intern_hash": "qnnq",
}
"""What the functions of ``kernels.h`` take: columns of bytes, or of words of 2 (``h``), 4 (``i``)
or 8 (``q``) bytes, and integers (``n``); each returns an integer.
"""


class Kernels:
    """The functions of ``kernels.h``, as attributes."""

    def __init__(self, path: str) -> None:
        # Not released: a call takes tens of microseconds, and nothing waits for the lock.
        library = ctypes.PyDLL(path)
        for name, kinds in SIGNATURES.items():
            function = library[name]
            function.argtypes = tuple(_KINDS[kind] for kind in kinds)
            function.restype = ctypes.c_int64
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Callable[..., int]:
        raise AttributeError(f"there is no compiled {name}")


def load(wanted: str) -> tuple[Kernels | None, str]:
    """The functions, or why there are none; ``wanted`` is what the variable says."""
    if wanted.strip().lower() in _OFF:
        return None, f"switched off by {SWITCH}"
    if "/" in wanted:
        return _loaded(Path(wanted), wanted)
    machine = platform.machine()
    resource = files(__name__).joinpath("objects", f"{machine}.so")
    if not resource.is_file():
        return None, f"no object for {machine}"
    with as_file(resource) as path:
        return _loaded(path, f"the object for {machine}")


def _loaded(path: Path, name: str) -> tuple[Kernels | None, str]:
    try:
        return Kernels(str(path)), ""
    except (OSError, AttributeError) as error:
        return None, f"{name} cannot be loaded: {error}"


kernels, missing = load(os.environ.get(SWITCH, ""))
"""The compiled functions, None where there are none; ``missing`` says why."""
