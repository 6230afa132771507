"""Nobody who does not know a process's secret can have many keys of one hash."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from parsers.intern import hash_of
from tests.parsers.twins import both
from tests.programs import ROOT

TELL = (
    "import numpy as np; from parsers.intern import hash_of; print(hash_of(np.array([[7]], 'u8')))"
)


def test_another_process_has_other_hashes() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", TELL], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert told[0] != told[1]


def test_words_that_differ_in_their_highest_bits_have_hashes_of_their_own() -> None:
    """Of a sum of products those would reach its highest bits alone, whatever the factors are."""
    few = np.arange(256, dtype=np.uint64) << np.uint64(56)
    words = np.zeros((1 << 16, 8), dtype=np.uint64)
    words[:, 2], words[:, 3] = np.repeat(few, 256), np.tile(few, 256)
    for hashes in both(lambda: hash_of(words)):
        assert len(words) == len(set(hashes.tolist()))
