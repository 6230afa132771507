"""The next batch is made so large that it takes some 4 ms, as the last one shows."""

from __future__ import annotations

import pytest

from bridge.cilium.client import BATCH, next_batch


@pytest.mark.parametrize("microseconds", [2, 4, 10])
def test_a_batch_takes_as_many_as_go_into_four_milliseconds(microseconds: int) -> None:
    size = next_batch(1000, 1000 * microseconds * 1e-6)
    assert size * microseconds == pytest.approx(4000, rel=0.01)


def test_a_fast_machine_and_a_slow_record_have_their_limits() -> None:
    assert next_batch(1000, 1e-9) == next_batch(1000, 0.0) == BATCH
    assert 0 < next_batch(1000, 10.0) < 500
