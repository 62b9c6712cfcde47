"""Waits between tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.backoff import MAX_RETRY_AFTER_MS, BackoffPolicy, delay_ms, exhausted

POLICY = BackoffPolicy()
UNIT = st.floats(0, 1, exclude_max=True)


def test_steps_double_up_to_the_limit() -> None:
    """The largest wait after each try: 200 ms doubling, capped."""
    steps = [delay_ms(POLICY, attempt, 0.999999) for attempt in (1, 2, 3, 8, 9, 10_000)]
    assert steps == [199, 399, 799, 25_599, 29_999, 29_999]


@given(st.integers(1, 10_000), UNIT)
def test_full_jitter_stays_within_the_step(attempt: int, unit: float) -> None:
    """Any random number gives a wait between nothing and the step."""
    step_ms = min(200 * 2.0 ** min(attempt - 1, 60), 30_000)
    assert 0 <= delay_ms(POLICY, attempt, unit) <= step_ms


@given(st.integers(1, 50), UNIT, st.integers(-10, 10**12))
def test_retry_after_is_a_believed_floor(attempt: int, unit: float, asked_ms: int) -> None:
    """Never sooner than asked, never believed beyond an hour."""
    wait_ms = delay_ms(POLICY, attempt, unit, asked_ms)
    assert min(asked_ms, MAX_RETRY_AFTER_MS) <= wait_ms <= MAX_RETRY_AFTER_MS + 30_000


def test_six_tries_then_none() -> None:
    """The sixth failure is the last."""
    assert [exhausted(POLICY, n) for n in (1, 5, 6, 7)] == [False, False, True, True]


def test_nonsense_is_refused() -> None:
    """A policy that shrinks or never tries is no policy."""
    for wrong in ({"factor": 0.5}, {"attempts": 0}, {"initial_ms": 0}, {"max_ms": 10}):
        with pytest.raises(ValueError, match="backoff"):
            BackoffPolicy(**wrong)  # type: ignore[arg-type]  # wrong on purpose
