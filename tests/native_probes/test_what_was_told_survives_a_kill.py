from __future__ import annotations

from tempfile import TemporaryFile

import numpy as np
import pytest

from native_probes.counters import Memory, memory_rows

ENTRIES, COUNTERS = 4, 2


def numbers(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def test_a_process_that_is_killed_while_it_writes_leaves_what_was_before() -> None:
    with TemporaryFile() as file:  # mapped as the kernel's map is
        file.truncate(8 * (1 + COUNTERS) * memory_rows(ENTRIES))
        memory = Memory(file.fileno(), ENTRIES, COUNTERS)
        assert [0, 0] == [len(part) for part in memory.load()]
        for ids in (numbers(1, 2), numbers(2, 3, 4), numbers(5)):
            counters = np.stack([ids * 10, ids * 100], axis=1)
            memory.save(ids, counters)
            with pytest.raises(ValueError, match="broadcast"):  # half of it is written
                memory.save(numbers(7, 8, 9), np.zeros((2, 5), np.uint64))
            after = Memory(file.fileno(), ENTRIES, COUNTERS).load()
            assert ids.tolist() == after[0].tolist()
            assert counters.tolist() == after[1].tolist()
