"""The part of libbpf.so.1 that a loader needs, by ctypes: open, choose, load, attach.

The only module that knows libbpf. The library comes with the operating system (it is
there wherever iproute2 is, on Debian); version 1.1 suffices. It is looked for when it is
first used, so that everything else works without it.

libbpf talks through a callback; what it said of the current call is kept, as the verifier's
last lines are the only explanation of a program that was refused.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Iterator
from ctypes import POINTER, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path

from native_probes.report import ProbeUnavailableError

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

_MESSAGE_BYTES = 1 << 16  # the verifier's log may be long, and its end is what matters
_WARNING = 0  # enum libbpf_print_level
_MESSAGES_KEPT = 50
_EXISTS = -17  # -EEXIST


class _OpenOptions(ctypes.Structure):
    """``struct bpf_object_open_opts`` up to what we set; libbpf goes by ``sz``."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("attach_prog_fd", c_size_t),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    )


class _TcHook(ctypes.Structure):
    """``struct bpf_tc_hook``; ``point`` is 1 for ingress and 2 for egress."""

    _fields_ = (("sz", c_size_t), ("ifindex", c_int), ("point", c_int), ("parent", c_uint32))


class _TcOptions(ctypes.Structure):
    """``struct bpf_tc_opts``; ``flags`` 1 replaces what is there."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


_FUNCTIONS = (
    ("libbpf_set_print", c_void_p, c_void_p),
    ("bpf_object__open_mem", c_void_p, c_char_p, c_size_t, c_void_p),
    ("bpf_object__load", c_int, c_void_p),
    ("bpf_object__close", None, c_void_p),
    ("bpf_object__next_program", c_void_p, c_void_p, c_void_p),
    ("bpf_object__next_map", c_void_p, c_void_p, c_void_p),
    ("bpf_program__name", c_char_p, c_void_p),
    ("bpf_program__fd", c_int, c_void_p),
    ("bpf_program__set_autoload", c_int, c_void_p, c_bool),
    ("bpf_program__attach", c_void_p, c_void_p),
    ("bpf_link__destroy", c_int, c_void_p),
    ("bpf_map__name", c_char_p, c_void_p),
    ("bpf_map__fd", c_int, c_void_p),
    ("bpf_map__set_max_entries", c_int, c_void_p, c_uint32),
    ("bpf_map__set_initial_value", c_int, c_void_p, c_char_p, c_size_t),
    ("bpf_map__set_pin_path", c_int, c_void_p, c_char_p),
    ("bpf_tc_hook_create", c_int, POINTER(_TcHook)),
    ("bpf_tc_attach", c_int, POINTER(_TcHook), POINTER(_TcOptions)),
    ("bpf_tc_detach", c_int, POINTER(_TcHook), POINTER(_TcOptions)),
)


class _Library:
    """The loaded library, and what it said lately."""

    def __init__(self) -> None:
        try:
            self.calls = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError:
            raise ProbeUnavailableError(
                "libbpf.so.1 is not on this machine",
                "install it (Debian and Ubuntu: libbpf1, Fedora: libbpf, Alpine: libbpf)",
            ) from None
        for name, result, *arguments in _FUNCTIONS:
            function = getattr(self.calls, name)
            function.restype, function.argtypes = result, arguments
        self.said: deque[str] = deque(maxlen=_MESSAGES_KEPT)
        libc = ctypes.CDLL(None)

        def listen(level: int, text: bytes, arguments: int) -> int:
            if level != _WARNING:
                return 0
            message = ctypes.create_string_buffer(_MESSAGE_BYTES)
            libc.vsnprintf(message, c_size_t(_MESSAGE_BYTES), text, c_void_p(arguments))
            self.said.append(message.value.decode(errors="replace"))
            return 0

        callback = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)(listen)
        self._callback = callback  # the library calls it as long as it lives
        self.calls.libbpf_set_print(ctypes.cast(callback, c_void_p))


@cache
def _library() -> _Library:
    return _Library()


def _check(result: int) -> int:
    """Raise what a call of libbpf returned as -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def check_present() -> None:
    """Raise ``ProbeUnavailableError`` if there is no libbpf."""
    _library()


def last_words(count: int = 3) -> str:
    """The last lines in which libbpf warned, for an error's text."""
    lines = "".join(_library().said).splitlines()
    return " | ".join(line.strip() for line in lines[-count:])


class BpfObject:
    """One object file: its programs and maps by name. Raises ``OSError`` throughout.

    Naming the kernel's BTF file keeps libbpf out of the modules' type information, which
    wants CAP_SYS_ADMIN; programs on functions of modules need ``modules=True``.
    """

    def __init__(self, image: bytes, *, modules: bool = False) -> None:
        library = _library()
        library.said.clear()
        self._calls = library.calls
        self._image = image
        self._links: list[int] = []
        path = None if modules or not KERNEL_BTF.exists() else str(KERNEL_BTF).encode()
        options = _OpenOptions(sz=ctypes.sizeof(_OpenOptions), btf_custom_path=path)
        self._object = self._calls.bpf_object__open_mem(image, len(image), ctypes.byref(options))
        if not self._object:
            _check(-ctypes.get_errno())
        self._programs = dict(self._walk("program"))
        self._maps = dict(self._walk("map"))

    def _walk(self, kind: str) -> Iterator[tuple[str, int]]:
        following = getattr(self._calls, f"bpf_object__next_{kind}")
        name = getattr(self._calls, f"bpf_{kind}__name")
        item = None
        while item := following(self._object, item):
            yield name(item).decode(), item

    @property
    def programs(self) -> tuple[str, ...]:
        """Names in the order of the object."""
        return tuple(self._programs)

    def skip(self, program: str) -> None:
        """Do not load a program."""
        _check(self._calls.bpf_program__set_autoload(self._programs[program], False))

    def resize(self, name: str, entries: int) -> None:
        """Give a map another size, before loading."""
        _check(self._calls.bpf_map__set_max_entries(self._maps[name], entries))

    def pin(self, name: str, path: Path) -> None:
        """Take a map from there when loading, or put it there."""
        _check(self._calls.bpf_map__set_pin_path(self._maps[name], os.fsencode(path)))

    def set_constants(self, section: str, value: bytes) -> None:
        """Fill a read-only section, before loading; ``value`` is as long as it is."""
        _check(self._calls.bpf_map__set_initial_value(self._maps[section], value, len(value)))

    def load(self) -> None:
        """Give everything to the kernel."""
        _check(self._calls.bpf_object__load(self._object))

    def program_fd(self, name: str) -> int:
        """Valid until ``close``."""
        return _check(self._calls.bpf_program__fd(self._programs[name]))

    def map_fd(self, name: str) -> int:
        """Valid until ``close``."""
        return _check(self._calls.bpf_map__fd(self._maps[name]))

    def attach(self, program: str) -> None:
        """Where its section says: tracepoints and functions, not TC."""
        link = self._calls.bpf_program__attach(self._programs[program])
        if not link:
            _check(-ctypes.get_errno())
        self._links.append(link)

    def close(self) -> None:
        """Detach and unload everything; may be called again."""
        while self._links:
            self._calls.bpf_link__destroy(self._links.pop())
        if self._object:
            self._calls.bpf_object__close(self._object)
            self._object = None


def attach_clsact(ifindex: int, point: int, program: int, handle: int, priority: int) -> None:
    """A filter that outlives us; one of the same handle and priority is replaced.

    ``point`` is 1 for ingress and 2 for egress. The clsact qdisc is made if missing.
    """
    calls = _library().calls
    hook = _TcHook(ctypes.sizeof(_TcHook), ifindex, point, 0)
    made = calls.bpf_tc_hook_create(ctypes.byref(hook))
    if made != _EXISTS:
        _check(made)
    options = _TcOptions(ctypes.sizeof(_TcOptions), program, 1, 0, handle, priority)
    _check(calls.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options)))


def detach_clsact(ifindex: int, point: int, handle: int, priority: int) -> None:
    """Remove that filter. The qdisc stays, as others may use it."""
    hook = _TcHook(ctypes.sizeof(_TcHook), ifindex, point, 0)
    options = _TcOptions(ctypes.sizeof(_TcOptions), 0, 0, 0, handle, priority)
    _check(_library().calls.bpf_tc_detach(ctypes.byref(hook), ctypes.byref(options)))
