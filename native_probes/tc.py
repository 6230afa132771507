"""Programs on the packets of an interface: by TCX links, or by clsact filters before 6.6.

A TCX link goes when its fd is closed, so a killed agent leaves nothing. A clsact filter
stays; ours have a handle and priority of their own, by which they are replaced instead of
doubled, and removed. The clsact qdisc is never removed: with it, everybody's filters would
go.

Attaching acts in the network namespace of the calling thread.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from native_probes import libbpf, syscalls
from native_probes.pins import PinFolder
from parsers.probe_records import POINT_EGRESS, POINT_INGRESS

HANDLE, PRIORITY = 0xC111A, 0xBFFF
"""Of our clsact filters; the priority is behind what people set by hand."""

_LOOPBACK = 1  # ifindex of every namespace's
_TCX_HOOK = {POINT_INGRESS: syscalls.TCX_INGRESS, POINT_EGRESS: syscalls.TCX_EGRESS}
CLSACT_POINT = {POINT_INGRESS: 1, POINT_EGRESS: 2}


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program at an interface. ``link`` is the fd of a TCX link, -1 for clsact.

    ``pins``: where the link is pinned.
    """

    ifindex: int
    point: int
    link: int
    pins: PinFolder | None = None

    def leave(self) -> None:
        """Let go of it without taking it away, if it is pinned or a filter."""
        if self.link >= 0:
            os.close(self.link)

    def detach(self) -> None:
        """Take it away; no error when the interface is gone."""
        if self.link >= 0:
            os.close(self.link)
            if self.pins:
                self.pins.remove_link(self.ifindex, _TCX_HOOK[self.point])
            return
        try:
            libbpf.detach_clsact(self.ifindex, CLSACT_POINT[self.point], HANDLE, PRIORITY)
        except OSError as error:
            if error.errno not in {errno.ENODEV, errno.ENOENT, errno.EINVAL}:
                raise


class TcHooks:
    """Attaches; learns once whether the kernel has TCX (``tcx``: None before the first)."""

    __slots__ = ("pins", "tcx")

    def __init__(self, *, tcx: bool | None = None, pins: PinFolder | None = None) -> None:
        self.tcx = tcx
        self.pins = pins

    def look(self, program: int) -> None:
        """Learn it at this namespace's loopback, which is left as it was."""
        try:
            os.close(syscalls.attach_tcx(_LOOPBACK, _TCX_HOOK[POINT_INGRESS], program))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.tcx = False
        else:
            self.tcx = True

    def attach(self, ifindex: int, point: int, program: int) -> Attachment:
        """Raises ``OSError``: ENODEV when the interface is gone."""
        if self.tcx is not False:
            try:
                link = self._attach_tcx(ifindex, _TCX_HOOK[point], program)
            except OSError as error:
                if self.tcx or error.errno != errno.EINVAL:
                    raise
                self.tcx = False
            else:
                self.tcx = True
                return Attachment(ifindex, point, link, self.pins)
        libbpf.attach_clsact(ifindex, CLSACT_POINT[point], program, HANDLE, PRIORITY)
        return Attachment(ifindex, point, -1)

    def _attach_tcx(self, ifindex: int, hook: int, program: int) -> int:
        """With pins, by the link that an earlier process left, without a packet between."""
        if self.pins is None:
            return syscalls.attach_tcx(ifindex, hook, program)
        link = self.pins.take_link(ifindex, hook)
        if link is not None:
            syscalls.update_link(link, program)
            return link
        link = syscalls.attach_tcx(ifindex, hook, program)
        self.pins.keep_link(link, ifindex, hook)
        return link
