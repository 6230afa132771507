"""Numbers by IPv4 address, found in two steps: the page of a /24, and the place in it.

Ten passes over a batch, whatever is in it, where a hash takes fifty. An index of all /24s takes
64 MiB of address space, of which only what is written to takes memory: 4 KiB for each /14 that
has an address, and 1 KiB for each /24.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from parsers import compiled
from parsers.flow_batch import I64, U32
from parsers.intern import lengthened, roomier

_PAGE: Final = 256
_MAPPED: Final = 0xFFFF0000  # bytes 8 to 12 of a mapped address, little endian


class Ipv4Rows:
    """Numbers from 1 on; 0 is none. Addresses have 16 bytes (V16); those of IPv6 are left out."""

    __slots__ = ("_free", "_page_of", "_pages", "_rows", "_used")

    def __init__(self) -> None:
        self._page_of = np.zeros(1 << 24, dtype=np.uint32)  # where a /24 begins in ``_rows``
        self._rows = np.zeros(_PAGE, dtype=np.uint32)  # the first page stays empty
        self._used = np.zeros(1, dtype=np.int32)  # places of a page
        self._pages = 1
        self._free: list[int] = []

    def nbytes(self) -> int:
        """Bytes of the pages in use."""
        return (self._pages - len(self._free)) * (4 * _PAGE + 4)

    def find(self, addresses: NDArray[np.void]) -> tuple[U32, I64]:
        """Numbers of addresses, 0 for those of IPv6; and which those are."""
        if compiled.kernels is None:
            is_v4, ip = _ipv4(addresses)
            return self._rows[self._page_of[ip >> 8] + (ip & 255)], (~is_v4).nonzero()[0]
        count = len(addresses)
        rows, others = np.empty(count, dtype=np.uint32), np.empty(count, dtype=np.int64)
        found = compiled.kernels.addresses_find(
            addresses, count, self._page_of, self._rows, rows, others
        )
        return rows, others[:found]

    def put(self, addresses: NDArray[np.void], numbers: U32) -> None:
        """Distinct addresses have numbers from now on; 0: none."""
        is_v4, ip = _ipv4(addresses)
        ip, numbers = ip[is_v4], numbers[is_v4]
        prefixes = np.unique(ip >> 8)
        for prefix in prefixes[self._page_of[prefixes] == 0].tolist():
            self._page_of[prefix] = self._new_page()
        places = self._page_of[ip >> 8] + (ip & 255)
        more = (numbers != 0).astype(np.int32) - (self._rows[places] != 0)
        self._rows[places] = numbers
        np.add.at(self._used, places // _PAGE, more)
        pages = self._page_of[prefixes] // _PAGE
        empty = self._used[pages] == 0
        self._page_of[prefixes[empty]] = 0
        self._free += pages[empty].tolist()

    def _new_page(self) -> int:
        if self._free:
            return _PAGE * self._free.pop()
        if self._pages == len(self._used):
            capacity = roomier(len(self._used), self._pages + 1)
            self._used = lengthened(self._used, capacity)
            self._rows = lengthened(self._rows, _PAGE * capacity)
        self._pages += 1
        return _PAGE * (self._pages - 1)


def _ipv4(addresses: NDArray[np.void]) -> tuple[NDArray[np.bool_], U32]:
    """Which are IPv4, and their four bytes as numbers."""
    halves = addresses.view(np.uint32).reshape(len(addresses), 4)
    wide = addresses.view(np.uint64).reshape(len(addresses), 2)
    is_v4 = (halves[:, 2] == _MAPPED) & (wide[:, 0] == 0)
    return is_v4, np.where(is_v4, halves[:, 3], 0).byteswap()
