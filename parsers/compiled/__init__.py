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


def _pointers(size: int) -> type[Any]:
    """What makes pointers of arrays whose elements have ``size`` bytes (1: of any), or are structs
    of such.
    """

    class Pointers:
        @staticmethod
        def from_param(array: np.ndarray[Any, Any]) -> Any:
            # A batch has a hundred of these: the usual ones take half a microsecond.
            if array.itemsize == size:
                try:
                    return _byref(_first(array))
                except (TypeError, ValueError):
                    pass
            return _odd_pointer(array, size)

    return Pointers


_byref: Any = ctypes.byref
_first: Any = ctypes.c_char.from_buffer


def _odd_pointer(array: np.ndarray[Any, Any], size: int) -> Any:
    """Of structs, of bytes seen as such, of what is read-only or empty."""
    if array.itemsize != size != 1 and (array.dtype.kind != "V" or array.itemsize % size):
        raise TypeError(f"elements are of {array.itemsize} bytes instead of {size}")
    if not array.flags.c_contiguous:
        raise TypeError("elements are not beside each other")
    return ctypes.c_void_p(array.ctypes.data)


_KINDS: dict[str, Any] = {
    "b": _pointers(1), "h": _pointers(2), "i": _pointers(4), "q": _pointers(8), "n": ctypes.c_int64,
}  # fmt: skip

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
    "intern_add": "qnqqninnqqbinii",
    "intern_claim": "iniqn",
    "intern_distinct": "qnqqninqi",
    "intern_find": "qnnqqqiniq",
    "intern_hash": "qnnqq",
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
        return _loaded(Path(wanted), f"what {SWITCH} names")
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
