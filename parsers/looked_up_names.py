"""DNS names of addresses, as endpoints of this node looked them up.

A name belongs to the endpoint that was answered, and to the address. How long an answer may be
used for new connections is not how long a connection lasts, so a name is not forgotten when its
time to live is over, but so long after the last answer about its address as whoever calls
``forget`` chooses.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parsers.address_table import BUCKETS, bucket_of
from parsers.timeline import FOREVER

_ADDRESSES: Final = 1 << 14  # of endpoints, that have names
_NAMES: Final = 8  # of each
_FORGOTTEN_AT_ONCE: Final = 256


class LookedUpNames:
    """``addresses`` counts endpoints by address (16 bytes) that some endpoint has a name for;
    ``buckets`` (int32) those addresses by ``bucket_of``.
    """

    __slots__ = ("_names", "addresses", "buckets")

    def __init__(self, names: Mapping[tuple[int, bytes], tuple[str, ...]] | None = None) -> None:
        # When each name was answered last (ns), by endpoint and address, the oldest first.
        self._names: OrderedDict[tuple[int, bytes], dict[str, int]] = OrderedDict(
            (key, dict.fromkeys(texts, FOREVER)) for key, texts in (names or {}).items()
        )
        self.addresses: Counter[bytes] = Counter(address for _, address in self._names)
        self.buckets: NDArray[np.int32] = np.zeros(BUCKETS, dtype=np.int32)
        for address in self.addresses:
            self.buckets[bucket_of(address)] += 1

    def of(self, endpoint_id: int, address: bytes) -> tuple[str, ...]:
        """Names of an address, those known longest first."""
        return tuple(self._names.get((endpoint_id, address), ()))

    def learn(self, endpoint_id: int, name: str, address: bytes, time: int) -> bool:
        """An endpoint was answered at ``time`` (ns); whether that is news.

        The newest are kept: 16,384 addresses, and 8 names of each.
        """
        key = endpoint_id, address
        known = self._names.setdefault(key, {})
        self._names.move_to_end(key)
        if not known:
            self.buckets[bucket_of(address)] += address not in self.addresses
            self.addresses[address] += 1
        new = name not in known
        if new and len(known) == _NAMES:
            del known[next(iter(known))]
        known[name] = time
        if len(self._names) > _ADDRESSES:
            self._drop(next(iter(self._names)))
        return new

    def forget(self, before: int) -> list[bytes]:
        """Drop a piece of what was answered last before a time (ns); the addresses it was of."""
        piece = islice(self._names.items(), _FORGOTTEN_AT_ONCE)
        gone = [key for key, known in piece if max(known.values()) < before]
        for key in gone:
            self._drop(key)
        return [address for _, address in gone]

    def forget_endpoints(self, ids: Collection[int]) -> list[bytes]:
        """Others have their numbers, or nobody has; the addresses they had names for."""
        gone = [key for key in self._names if key[0] in ids]
        for key in gone:
            self._drop(key)
        return [address for _, address in gone]

    def _drop(self, key: tuple[int, bytes]) -> None:
        del self._names[key]
        self.addresses[key[1]] -= 1
        if not self.addresses[key[1]]:
            del self.addresses[key[1]]
            self.buckets[bucket_of(key[1])] -= 1
