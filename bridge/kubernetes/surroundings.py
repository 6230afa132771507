"""The prefixes around pods: who is near one may be one that was not heard of yet.

Such an address is unknown, and not the world. Where Cilium is, the datapath tells.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

from parsers.addresses import MAPPED, address_text
from parsers.directory import AddressRecord, Directory

_PIECE: Final = 50  # prefixes told at once
_V4, _V6 = (24, 15), (64, 8)  # length of a prefix, and bytes of an address that it has


class Surroundings:
    """Notes prefixes, and tells ``directory`` a piece of them at a time."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._prefixes: dict[bytes, str] = {}
        self._waiting: dict[str, int] = {}

    def note(self, addresses: tuple[bytes, ...], unknown: int) -> None:
        """Pods have these addresses; ``unknown``: why others near them have no name."""
        for address in addresses:
            length, kept = _V4 if address.startswith(MAPPED) else _V6
            if (around := address[:kept]) not in self._prefixes:
                prefix = f"{address_text(around + bytes(16 - kept))}/{length}"
                self._prefixes[around] = prefix
                self._waiting[prefix] = unknown

    def tell(self) -> bool:
        """Tell a piece; whether there is more."""
        for prefix in list(islice(self._waiting, _PIECE)):
            self._directory.set_address(prefix, AddressRecord(0, unknown=self._waiting.pop(prefix)))
        return bool(self._waiting)

    def take_back(self, kept: Collection[str]) -> None:
        """There is Cilium; ``kept``: prefixes that are known otherwise."""
        for prefix in self._prefixes.values():
            if prefix not in kept and prefix not in self._waiting:
                self._directory.set_address(prefix, None)
        self._prefixes.clear()
        self._waiting.clear()
