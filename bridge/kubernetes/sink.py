"""What is to be done with objects: the meeting point of watches and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from bridge.kubernetes.objects import Key, Object

SINCE_EVER: Final = 0
"""Time of what the first list of a kind says: it counts as valid since ever."""


class Sink(Protocol):
    """Is told what changed, a bounded piece at a time, in the event loop.

    A list comes in pieces as well: what it has is ``changed``, and with its last piece
    comes as ``removed`` what was there before and is no more. What did not change since is
    told again, so equal objects must cost little.
    """

    def apply(
        self, kind: type[Object], changed: Sequence[Object], removed: Sequence[Key], at: int
    ) -> None:
        """Objects of one kind that are new or different, and keys of those that are gone.

        ``at``: when that was heard (ns since the epoch), or ``SINCE_EVER``; for keys that a list
        no longer has, when they were last known to be there. At most a resource's
        ``piece`` of objects a call; a key is in one of the two only.
        """

    def synced(self, *, everything: bool) -> None:
        """Pods were listed once, and all else that we may list: who has no name now is unknown, not
        just not known yet. ``everything``: nothing is missing, so others are outside.
        """

    def cilium_is_gone(self, at: int) -> None:
        """None of Cilium's kinds is defined any more, and all that they told is taken back (ns)."""

    def clock_is_ahead(self, by: int) -> None:
        """Our clock, to which ``at`` belongs, differs from that of times in objects (ns)."""
