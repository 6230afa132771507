"""Gathering byte ranges of one buffer as rows of a fixed width."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Columns: TypeAlias = NDArray[Any]
"""A structured array: one row a record."""


def windows(buffer: NDArray[np.uint8], start: NDArray[np.int64], width: int) -> Columns:
    """``width`` bytes at each start as ``V<width>``; one copy a record.

    The buffer is seen as overlapping windows, one a byte, and those wanted are taken by one
    index. It must reach ``width`` bytes beyond the last start.
    """
    # Indexing only: ``take`` would first make the whole overlapping view contiguous.
    every = np.ndarray(len(buffer) - width + 1, dtype=f"V{width}", buffer=buffer, strides=(1,))
    return every[start]
