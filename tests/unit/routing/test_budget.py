"""Error budgets, retry budgets and adaptive deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outlast.core.routing.budget import BudgetConfig, ErrorBudget, RetryBudget, RetryConfig, Window
from outlast.core.routing.latency import DeadlineConfig, Latency

MINUTE_MS = 60_000


def test_burns_only_when_both_windows_do() -> None:
    """A short burst after a long good time does not burn; a burst that weighs in both windows does."""
    budget = ErrorBudget(BudgetConfig(objective=0.99))
    for minute in range(50):
        for _ in range(100):
            budget.record(False, minute * MINUTE_MS)
    now_ms = 55 * MINUTE_MS
    for _ in range(40):
        budget.record(True, now_ms)
    assert not budget.burning(now_ms)  # short window: all bad; long window: 40 of 5040
    for _ in range(1_500):
        budget.record(True, now_ms)
    assert budget.burning(now_ms)


def test_stops_burning_when_the_short_window_is_clean() -> None:
    """An incident that is over is not held against the provider for the hour."""
    budget = ErrorBudget(BudgetConfig(objective=0.99))
    for _ in range(100):
        budget.record(True, 0)
    assert budget.burning(0)
    for _ in range(100):
        budget.record(False, 6 * MINUTE_MS)
    assert not budget.burning(6 * MINUTE_MS)
    assert budget.burn_rates(6 * MINUTE_MS)[0] >= 14.4


def test_few_calls_are_no_judgement() -> None:
    """Below min_calls nothing burns."""
    budget = ErrorBudget(BudgetConfig(min_calls=20))
    for _ in range(19):
        budget.record(True, 0)
    assert not budget.burning(0)


def test_remaining_budget_is_a_share() -> None:
    """One failure in two hundred at 99 % leaves half."""
    budget = ErrorBudget(BudgetConfig(objective=0.99))
    assert budget.remaining(0) == 1.0
    for i in range(200):
        budget.record(i == 0, 0)
    assert abs(budget.remaining(0) - 0.5) < 1e-9


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=200))
def test_window_counts_what_lies_within_it(steps: list[tuple[int, bool]]) -> None:
    """Whatever the timing, the window holds every call of its span and none older than span plus a bucket."""
    window, now_ms, seen = Window(1_200), 0, []
    for wait_ms, bad in steps:
        now_ms += wait_ms
        window.add(bad, now_ms)
        seen.append((now_ms, bad))
        inside = [b for at, b in seen if at > now_ms - 1_200]
        nearly = [b for at, b in seen if at > now_ms - 1_200 - 20]
        assert len(inside) <= window.total <= len(nearly)
        assert sum(inside) <= window.bad <= sum(nearly)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=300),
    st.floats(0, 0.5),
    st.floats(0, 5),
)
def test_retries_stay_within_their_budget(
    steps: list[tuple[int, bool]], ratio: float, min_per_s: float
) -> None:
    """Retries granted never exceed burst + ratio x requests + rate x time."""
    config = RetryConfig(ratio=ratio, min_per_s=min_per_s, burst=10)
    budget, now_ms, requests, retries = RetryBudget(config, 0), 0, 0, 0
    for wait_ms, retry in steps:
        now_ms += wait_ms
        if retry:
            retries += budget.spend(now_ms)
        else:
            requests += 1
            budget.requested(now_ms)
        assert retries <= 10 + ratio * requests + min_per_s * now_ms / 1000 + 1e-6


def test_wait_says_when_a_retry_is_free() -> None:
    """After the wait it names, an empty retry budget grants one."""
    budget = RetryBudget(RetryConfig(min_per_s=2, burst=1), 0)
    assert budget.spend(0)
    wait_ms = budget.wait_ms(0)
    assert 500 <= wait_ms <= 502
    assert not budget.spend(wait_ms - 10)
    assert budget.spend(wait_ms)


def test_deadline_follows_the_99th_percentile_within_bounds() -> None:
    """Unknown: the maximum. Fast: the minimum. In between: four times p99."""
    latency = Latency(DeadlineConfig(min_ms=100, max_ms=1_000))
    assert latency.deadline_ms == 1_000
    for _ in range(100):
        latency.record(5.0)
    latency.refresh()
    assert (latency.p50_ms, latency.deadline_ms) == (5.0, 100)
    for _ in range(256):
        latency.record(60.0)
    latency.refresh()
    assert latency.deadline_ms == 240


def test_a_slow_provider_is_given_more_time_again() -> None:
    """Deadlines that pass raise the deadline, so slow is told from dead."""
    latency = Latency(DeadlineConfig(min_ms=100, max_ms=1_000))
    for _ in range(256):
        latency.record(2.0)
    assert latency.deadline_ms == 100
    for _ in range(4):
        latency.record(float(latency.deadline_ms))
    assert latency.deadline_ms == 400
