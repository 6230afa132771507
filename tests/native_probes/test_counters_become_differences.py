from __future__ import annotations

import numpy as np

from native_probes.counters import Differences


def update(differences: Differences, now: dict[int, int]) -> dict[int, int]:
    ids = np.array(list(now), np.uint64)
    counters = np.array(list(now.values()), np.uint64).reshape(-1, 1)
    return dict(zip(now, differences.update(ids, counters)[:, 0].tolist(), strict=True))


def test_only_what_is_new_is_told() -> None:
    differences = Differences(1)
    assert {9: 5, 1: 2} == update(differences, {9: 5, 1: 2})
    assert {1: 0, 9: 3, 4: 7} == update(differences, {1: 2, 9: 8, 4: 7})
    assert {4: 1} == update(differences, {4: 8})


def test_what_was_deleted_begins_anew() -> None:
    differences = Differences(1)
    update(differences, {1: 10, 2: 20})
    differences.forget(np.array([1], np.uint64))
    assert {1: 3, 2: 1} == update(differences, {1: 3, 2: 21})
