"""bpf(2) by itself: what libbpf 1.1 does not wrap, or wraps one key at a time.

Layouts are those of ``union bpf_attr`` in the kernel's ``include/uapi/linux/bpf.h``; a
kernel takes attributes shorter than its own and reads the rest as zero. All functions raise
``OSError`` with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parsers.windows import Columns

TCX_INGRESS, TCX_EGRESS = 46, 47  # enum bpf_attach_type

_MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM = 1, 2, 3
_OBJ_PIN, _OBJ_GET = 6, 7
_PROG_TEST_RUN = 10
_OBJ_GET_INFO_BY_FD = 15
_PROG_QUERY = 16
_MAP_LOOKUP_BATCH, _MAP_DELETE_BATCH = 24, 27
_LINK_CREATE, _LINK_UPDATE = 28, 29

_NO_EXIST = 1  # BPF_NOEXIST
_BEFORE = 1 << 3  # BPF_F_BEFORE, without a relative: as the first


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _number() -> int:
    """Of the system call; both ABIs that we ship for."""
    return {"x86_64": 321, "aarch64": 280}[platform.machine()]


def bpf(command: int, attributes: bytearray) -> int:
    """The system call; the kernel writes its answers into ``attributes``."""
    raw = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result: int = _libc().syscall(_number(), command, raw, len(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _address(array: NDArray[np.generic] | Columns) -> int:
    return array.ctypes.data


def attach_tcx(ifindex: int, hook: int, program: int) -> int:
    """The fd of a link that puts a program first at ``hook``; closing it detaches.

    Takes 12-16 ms, as the kernel waits for running programs. EINVAL before Linux 6.6.
    """
    return bpf(
        _LINK_CREATE, bytearray(struct.pack("IIIIIIQ", program, ifindex, hook, _BEFORE, 0, 0, 0))
    )


def update_link(link: int, program: int) -> None:
    """Put another program in the place of a link's, without a packet between."""
    bpf(_LINK_UPDATE, bytearray(struct.pack("IIII", link, program, 0, 0)))


def tcx_interface(link: int) -> int:
    """The ifindex of a TCX link; 0 when its interface is gone."""
    info = np.zeros(16, "<u4")
    bpf(_OBJ_GET_INFO_BY_FD, bytearray(struct.pack("IIQ", link, info.nbytes, _address(info))))
    return int(info[4])


def recursion_misses(program: int) -> int:
    """How often the kernel left a program out, as it was at work on that processor already.

    Counted since Linux 5.12; before, 0.
    """
    info = np.zeros(28, "<u8")  # struct bpf_prog_info
    bpf(_OBJ_GET_INFO_BY_FD, bytearray(struct.pack("IIQ", program, info.nbytes, _address(info))))
    return int(info[26])


def map_entries(map_fd: int) -> int:
    """``max_entries`` of a map: of a ring, its bytes."""
    info = np.zeros(32, "<u4")  # struct bpf_map_info
    bpf(_OBJ_GET_INFO_BY_FD, bytearray(struct.pack("IIQ", map_fd, info.nbytes, _address(info))))
    return int(info[4])


def pin(fd: int, path: Path) -> None:
    """Give a map or link a name in a BPF file system, by which it outlives its fds."""
    name = np.frombuffer(os.fsencode(path) + b"\0", "u1")
    bpf(_OBJ_PIN, bytearray(struct.pack("QII", _address(name), fd, 0)))


def get_pinned(path: Path) -> int:
    """An fd of what is pinned there."""
    name = np.frombuffer(os.fsencode(path) + b"\0", "u1")
    return bpf(_OBJ_GET, bytearray(struct.pack("QII", _address(name), 0, 0)))


def file_system(path: Path) -> int:
    """The magic number of the file system of a path: ``f_type`` of statfs(2)."""
    answer = (ctypes.c_long * 32)()
    if _libc().statfs(os.fsencode(path), answer):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(answer[0])


def attached(ifindex: int, hook: int) -> list[int]:
    """Ids of the programs at ``hook``, in the order in which they run."""
    ids = np.zeros(64, "<u4")
    attributes = bytearray(
        struct.pack("IIIIQIIQQQQ", ifindex, hook, 0, 0, _address(ids), len(ids), 0, 0, 0, 0, 0)
    )
    bpf(_PROG_QUERY, attributes)
    (count,) = struct.unpack_from("I", attributes, 24)
    return [int(i) for i in ids[:count]]


def put(map_fd: int, key: Columns, value: Columns, *, keep: bool = False) -> None:
    """Write one entry; ``key`` and ``value`` are arrays of length 1 of the map's layout.

    With ``keep``, an entry that is there stays as it is.
    """
    flags = _NO_EXIST if keep else 0
    with suppress(FileExistsError):
        bpf(
            _MAP_UPDATE_ELEM,
            bytearray(struct.pack("IIQQQ", map_fd, 0, _address(key), _address(value), flags)),
        )


def look_up(map_fd: int, key: Columns, value: Columns) -> bool:
    """Copy one entry into ``value``; False when it is not there."""
    attributes = bytearray(struct.pack("IIQQQ", map_fd, 0, _address(key), _address(value), 0))
    try:
        bpf(_MAP_LOOKUP_ELEM, attributes)
    except FileNotFoundError:
        return False
    return True


def delete(map_fd: int, key: Columns) -> None:
    """Remove one entry, if it is there."""
    with suppress(FileNotFoundError):
        bpf(_MAP_DELETE_ELEM, bytearray(struct.pack("IIQQQ", map_fd, 0, _address(key), 0, 0)))


def look_up_all(map_fd: int, keys: Columns, values: Columns) -> int:
    """Copy a hash map's entries into arrays as long as it can have entries; their number.

    The kernel walks bucket by bucket, so no entry comes twice; one that is inserted
    meanwhile may be missing. 1.3 ms for 10,000 entries. Wants Linux 5.6.
    """
    token = np.zeros(16, "u1")
    attributes = bytearray(
        struct.pack(
            "QQQQIIQQ",
            0,
            _address(token),
            _address(keys),
            _address(values),
            len(keys),
            map_fd,
            0,
            0,
        )
    )
    try:
        bpf(_MAP_LOOKUP_BATCH, attributes)
    except OSError as error:
        if error.errno != errno.ENOENT:  # the end of the map, which is where we want to get
            raise
    (count,) = struct.unpack_from("I", attributes, 32)
    return int(count)


def delete_batch(map_fd: int, keys: Columns) -> int:
    """Remove entries; how many were there. Keys that are gone already are no error."""
    keys = np.ascontiguousarray(keys)
    done = deleted = 0
    while done < len(keys):
        rest = keys[done:]
        attributes = bytearray(
            struct.pack("QQQQIIQQ", 0, 0, _address(rest), 0, len(rest), map_fd, 0, 0)
        )
        try:
            bpf(_MAP_DELETE_BATCH, attributes)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            (count,) = struct.unpack_from("I", attributes, 32)
            deleted += count
            done += count + 1  # behind the one that is gone
        else:
            deleted += len(rest)
            break
    return deleted


def test_run(program: int, packet: bytes, repeat: int) -> tuple[int, int]:
    """Run a program on a made-up packet; what it returned, and mean ns of a run."""
    data = np.frombuffer(packet, "u1")
    attributes = bytearray(80)
    struct.pack_into("IIIIQQI", attributes, 0, program, 0, len(data), 0, _address(data), 0, repeat)
    bpf(_PROG_TEST_RUN, attributes)
    (returned,) = struct.unpack_from("i", attributes, 4)
    (duration,) = struct.unpack_from("I", attributes, 36)
    return returned, duration
