"""Times of the API server beside ours."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from bridge.kubernetes.server_time import ServerTime
from bridge.rising_clock import RisingClock

_SECOND = 10**9
_HOUR = 3600 * _SECOND
_NOW = 1_790_000_000 * _SECOND


def test_without_an_answer_there_is_no_difference() -> None:
    assert 0 == ServerTime(lambda: 0).ahead(_NOW)


@pytest.mark.parametrize("header", ["", "yesterday", "Wed, 99 Nov 2026 00:00:00 GMT"])
def test_what_is_no_date_says_nothing(header: str) -> None:
    time = ServerTime(lambda: 0)
    time.observe(header, 0)
    assert 0 == time.ahead(_NOW)


@pytest.mark.parametrize("late", [0, 400, 999, 1900])
def test_the_resolution_of_the_header_is_no_difference(late: int) -> None:
    time = ServerTime(lambda: 0)
    time.observe(formatdate(_NOW // _SECOND, usegmt=True), 0)
    assert 0 == time.ahead(_NOW + late * 10**6)


@pytest.mark.parametrize("waited", [1, 10])
def test_the_time_that_an_answer_takes_is_no_difference(waited: int) -> None:
    """Whether the server wrote it soon and it was read late, or was asked late."""
    steady = 0
    time = ServerTime(lambda: steady)
    steady += waited * _SECOND
    for written in (0, waited):
        time.observe(formatdate(_NOW // _SECOND + written, usegmt=True), 0)
        now = _NOW + waited * _SECOND
        assert 0 == time.ahead(now)
        assert abs(time.ahead(now + _HOUR) - _HOUR) <= (waited + 1) * _SECOND
        assert abs(time.ahead(now - _HOUR) + _HOUR) <= (waited + 1) * _SECOND


@pytest.mark.parametrize("step", [-_HOUR, _HOUR])
def test_a_step_of_our_clock_is_noticed_without_another_answer(step: int) -> None:
    steady = 5
    time = ServerTime(lambda: steady)
    time.observe(formatdate(_NOW // _SECOND, usegmt=True), steady)
    steady += 90 * _SECOND
    assert 0 == time.ahead(_NOW + 90 * _SECOND)
    assert abs(time.ahead(_NOW + 90 * _SECOND + step) - step) <= _SECOND


def test_a_clock_that_is_set_back_goes_on_at_half_its_pace_until_that_has_caught_up() -> None:
    wall, steady = _NOW, 0
    clock = RisingClock(lambda: wall, lambda: steady)
    assert _NOW == clock()
    wall -= 100 * _SECOND
    for second in range(1, 301):
        wall += _SECOND
        steady += _SECOND
        assert max(wall, _NOW + second * _SECOND // 2) == clock()
    assert wall + 1 == clock()  # it caught up, and is never the same twice
