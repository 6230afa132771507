"""What a probe is, without a kernel: its object, what to load of it, and how it is set.

Specs are plain data, so they can be made and compared anywhere; an engine turns one into a
``LoadedProbe`` (``engine.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONSTANTS = ".rodata.config"
"""The section of an object that holds its configuration."""


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """One object file of ``native_probes/objects`` and how to load it.

    ``constants`` are the bytes of its configuration section, if it has one. ``sizes`` are
    entries of maps that differ from the source's. ``programs`` are those to load; None is
    all. ``pins`` are paths of maps by name, in a BPF file system: a map that is there is used
    again, and else is made and put there. ``on_modules`` is for programs on functions of
    kernel modules, which want CAP_SYS_ADMIN. ``tracepoints`` are those of programs by name, for
    an engine whose sources do not say it; such programs read the kernel's structs.
    """

    name: str
    constants: bytes = b""
    sizes: Mapping[str, int] = field(default_factory=dict)
    programs: frozenset[str] | None = None
    pins: Mapping[str, Path] = field(default_factory=dict)
    on_modules: bool = False
    tracepoints: Mapping[str, str] = field(default_factory=dict)
