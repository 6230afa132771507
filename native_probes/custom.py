"""Probes that a user brings: a C file for bcc, and what its records mean.

The program attaches itself as bcc has it, by the names of its functions
(``TRACEPOINT_PROBE``, ``kprobe__``), and sends records of one layout into a ring. A field whose
name is that of a column of ``FLOW_REPORT`` becomes that column; the others are only skipped. A
record becomes one flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from native_probes import bcc_engine, syscalls
from native_probes.counters import per_cpu_sum
from native_probes.family import Drained, Place
from native_probes.report import Finding, ProbeUnavailableError
from native_probes.ring import Ring
from parsers.errors import UsageError
from parsers.probe_records import CAUSE_PACKET, FLOW_REPORT
from parsers.windows import Columns

FieldType: TypeAlias = Literal["u8", "u16", "u32", "u64", "ipv4", "ip"]
"""Of a record: integers of the machine's order, and addresses of 4 or 16 bytes in network order."""

TIME = "time_ns"
"""A field of this name is when it happened, by the boot clock."""

_TYPES = {"u8": "u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "ipv4": "V4", "ip": "V16"}
_WANTED = ("source", "destination")
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", "u1")
_NOT_SET = {"first_ns", "last_ns", "family", "cause", "skbs"}  # made here

FIELDS = tuple(name for name in FLOW_REPORT.fields or () if name not in _NOT_SET)
"""Names that mean something."""


@dataclass(frozen=True, slots=True)
class CustomSettings:
    """``record``: fields in the order of the struct, padding included, by name and type.

    ``ring`` is the name of the BPF_RINGBUF_OUTPUT; ``lost`` that of a BPF_PERCPU_ARRAY of one
    u64 in which the program counts records that found no room.
    """

    name: str
    source: Path
    ring: str
    record: tuple[tuple[str, FieldType], ...]
    lost: str = ""


def record_layout(settings: CustomSettings) -> np.dtype[np.void]:
    """The record's layout. ``UsageError`` if it cannot be one."""
    names = [name for name, _ in settings.record]
    missing = [name for name in _WANTED if name not in names]
    if missing:
        raise UsageError(f"the record of {settings.name} has no {' and no '.join(missing)}")
    if len(set(names)) < len(names):
        raise UsageError(f"the record of {settings.name} has two fields of one name")
    for name, kind in settings.record:
        if kind not in get_args(FieldType):
            raise UsageError(f"{kind} is no type of a field; use {', '.join(_TYPES)}")
        if (kind in {"ip", "ipv4"}) is not (name in _WANTED) and name in FIELDS:
            raise UsageError(f"{name} of {settings.name} cannot be of type {kind}")
    layout = np.dtype([(name, _TYPES[kind]) for name, kind in settings.record])
    if layout.itemsize % 8:
        raise UsageError(
            f"the record of {settings.name} has {layout.itemsize} bytes; pad it to a multiple of 8"
        )
    return layout


class CustomProbe:
    """A ``Family``: compiled, attached, and read."""

    def __init__(self, place: Place, settings: CustomSettings) -> None:
        self._settings = settings
        self._layout = record_layout(settings)
        try:
            self._loaded = bcc_engine.compiled(settings.name, settings.source, [])
        except OSError as error:
            raise ProbeUnavailableError(
                f"{settings.source} cannot be read: {error.strerror}",
                "correct native_probes.custom",
            ) from None
        try:
            ring = self._loaded.map_fd(settings.ring)
            self._ring = Ring(ring, syscalls.map_entries(ring), self._layout)
            self._lost_map = self._loaded.map_fd(settings.lost) if settings.lost else None
        except OSError as error:
            self._loaded.close()
            raise ProbeUnavailableError(
                f"{settings.source} does not fit: {error.strerror}",
                "correct the names of maps in native_probes.custom",
            ) from None
        self._lost = 0

    def belong(self, namespaces: frozenset[int]) -> None:
        """Nothing to do: which events it tells of is the program's to decide."""

    def has_news(self) -> bool:
        """See ``Family``."""
        return self._ring.has_news()

    def drain(self, *, now_ns: int) -> Drained:
        """See ``Family``."""
        return self.last_drain()

    def last_drain(self) -> Drained:
        """See ``Family``."""
        reports = as_reports(self._ring.read())
        lost = {}
        if self._lost_map is not None:
            now = per_cpu_sum(self._lost_map)
            if now > self._lost:
                lost = {"ring_full": now - self._lost}
            self._lost = now
        return Drained({"traffic": reports}, lost)

    def finding(self) -> Finding:
        """See ``Family``."""
        return Finding(self._settings.name, "works")

    def close(self) -> None:
        """See ``Family``."""
        self._loaded.close()


def as_reports(records: Columns) -> Columns:
    """FLOW_REPORT rows of records."""
    reports = np.zeros(len(records), FLOW_REPORT)
    reports["packets"] = 1
    names = records.dtype.names or ()
    for name in names:
        if name in _WANTED:
            reports[name] = _sixteen(records[name])
        elif name in FIELDS:
            reports[name] = records[name]
    if TIME in names:
        reports["first_ns"] = reports["last_ns"] = records[TIME]
    reports["skbs"] = reports["packets"]
    reports["cause"] = CAUSE_PACKET
    octets = np.ascontiguousarray(reports["source"]).view("u1").reshape(-1, 16)
    reports["family"] = np.where((octets[:, :12] == _MAPPED).all(axis=1), 4, 6)
    return reports


def _sixteen(addresses: Columns) -> Columns:
    if addresses.dtype.itemsize == 16:
        return addresses
    octets = np.empty((len(addresses), 16), "u1")
    octets[:, :12] = _MAPPED
    octets[:, 12:] = np.ascontiguousarray(addresses).view("u1").reshape(-1, 4)
    wide: Columns = octets.view("V16").reshape(-1)
    return wide
