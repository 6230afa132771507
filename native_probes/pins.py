"""What outlives the agent, if it is configured to: names in a folder of a BPF file system.

Pinned maps go on counting and pinned links go on feeding them while no agent is there. The
next one takes both over: it gets the maps by their names, and puts its own programs into the
links. A name that no longer fits (another layout, an interface that is gone) is removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from native_probes import syscalls
from native_probes.report import ProbeUnavailableError

_BPF_FS_MAGIC = 0xCAFE4A11


class PinFolder:
    """Raises ``OSError`` throughout."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Make the folder. ``ProbeUnavailableError`` if pins cannot be there."""
        self.check()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def check(self) -> None:
        """``ProbeUnavailableError`` if pins cannot be there; the folder may yet be missing."""
        try:
            there = next(path for path in (self.path, *self.path.parents) if path.exists())
            found = syscalls.file_system(there)
        except OSError as error:
            raise self._unusable(error) from None
        if found != _BPF_FS_MAGIC:
            raise ProbeUnavailableError(
                f"{self.path} is not in a BPF file system",
                "mount one there (mount -t bpf bpf /sys/fs/bpf), or use no pins",
            )

    def _unusable(self, error: OSError) -> ProbeUnavailableError:
        return ProbeUnavailableError(
            f"the folder of pins {self.path} cannot be used ({error.strerror})",
            "name one in a BPF file system (mount -t bpf bpf /sys/fs/bpf), or use no pins",
        )

    def map_path(self, name: str) -> Path:
        """Where a map is pinned."""
        return self.path / f"map_{name}"

    def remove_maps(self) -> int:
        """How many there were."""
        return _remove(self.path.glob("map_*"))

    def remove_all(self) -> int:
        """Maps, and links, which detaches them; how many there were.

        ``ProbeUnavailableError`` for another folder, whose files are none of ours.
        """
        self.check()
        return self.remove_maps() + _remove(self.path.glob("link_*"))

    def take_link(self, ifindex: int, hook: int) -> int | None:
        """The fd of the link that is pinned for a hook of an interface, if it still holds."""
        path = self._link_path(ifindex, hook)
        try:
            link = syscalls.get_pinned(path)
        except FileNotFoundError:
            return None
        if syscalls.tcx_interface(link) == ifindex:
            return link
        os.close(link)
        path.unlink()
        return None

    def keep_link(self, link: int, ifindex: int, hook: int) -> None:
        """Let a link outlive us."""
        syscalls.pin(link, self._link_path(ifindex, hook))

    def remove_link(self, ifindex: int, hook: int) -> None:
        """Its program is detached when the last fd is closed, too."""
        self._link_path(ifindex, hook).unlink(missing_ok=True)

    def remove_links_except(self, ifindexes: set[int]) -> None:
        """Of interfaces that are gone or not wanted any more."""
        for path in self.path.glob("link_*"):
            with suppress(ValueError):
                if int(path.name.split("_")[1]) not in ifindexes:
                    path.unlink(missing_ok=True)

    def _link_path(self, ifindex: int, hook: int) -> Path:
        return self.path / f"link_{ifindex}_{hook}"


def _remove(paths: Iterable[Path]) -> int:
    count = 0
    for path in paths:
        path.unlink(missing_ok=True)
        count += 1
    return count
