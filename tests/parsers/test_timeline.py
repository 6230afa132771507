"""A timeline answers with who had something at a time, in whatever order it was told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parsers.timeline import Timeline


@given(
    changes=st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(1, 5)), max_size=12),
    when=st.integers(-5, 60),
)
def test_a_timeline_answers_with_the_last_change_before(
    changes: list[tuple[int, int | None]], when: int
) -> None:
    timeline: Timeline[int] = Timeline()
    for since, value in changes:
        timeline.set(value, since)
    # Of changes at one time the last one made holds.
    last = dict(changes)
    past = [change for change in sorted(last.items()) if change[0] <= when]
    assert timeline.at(when) == (past[-1][1] if past else None)
    assert timeline.since(when) == (past[-1][0] if past else -(2**63))
    future = [since for since, _ in changes if since > when]
    assert timeline.until(when) == min(future, default=2**63 - 1)
    assert timeline.had_one(when) == any(value is not None for _, value in past)
    timeline.forget(when)
    assert timeline.at(when) == (past[-1][1] if past else None)
