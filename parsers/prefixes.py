"""Which of many addresses are in some of a few prefixes.

Strategy: all prefixes of one length are asked of all addresses at once, by a number of 64 bits
made of an address's leading bits. Of prefixes longer than that it is a mix of two words, so that
now and then an address is taken for one in a prefix that is not: good enough to void answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parsers.address_table import Addresses

_WORD: Final = 64
_MASK: Final = (1 << _WORD) - 1
_ODD: Final = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio


class Prefix(NamedTuple):
    """``leading``: the first ``length`` (1 to 128) bits of 16 bytes, IPv4 mapped."""

    length: int
    leading: int


def within(addresses: Addresses, prefixes: Iterable[Prefix]) -> NDArray[np.bool_]:
    """Which addresses (any shape) are in one of the prefixes; hardly any other is told as well."""
    words = np.ascontiguousarray(addresses).view(">u8").astype(np.uint64)
    words = words.reshape(*addresses.shape, 2)
    high, low = words[..., 0], words[..., 1]
    by_length = defaultdict(list)
    for length, leading in prefixes:
        by_length[length].append(leading)
    found = np.zeros(addresses.shape, dtype=np.bool_)
    for length, wanted in by_length.items():
        if length <= _WORD:
            keys = high >> np.uint64(_WORD - length)
            found |= np.isin(keys, np.array(wanted, dtype=np.uint64))
        else:
            rest = length - _WORD
            keys = high ^ (low >> np.uint64(_WORD - rest)) * np.uint64(_ODD)
            mask = (1 << rest) - 1
            mixed = [(w >> rest) ^ (w & mask) * _ODD & _MASK for w in wanted]
            found |= np.isin(keys, np.array(mixed, dtype=np.uint64))
    return found
