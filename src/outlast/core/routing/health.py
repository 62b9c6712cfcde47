"""All that is known of one provider: breaker, budgets, latencies and the calls under way.

Guarantees: every call begun is ended once, whatever its caller does (a second end is ignored, a call nobody ends
is dropped after a bound); only calls that were really sent speak for or against the provider. Time comes in as
steady milliseconds. Owned by the router.
"""

from __future__ import annotations

import msgspec

from outlast.core.routing.breaker import (
    Breaker,
    BreakerConfig,
    Permit,
    Purpose,
    State,
    Transition,
    Verdict,
)
from outlast.core.routing.budget import BudgetConfig, ErrorBudget, RetryBudget, RetryConfig
from outlast.core.routing.choose import HEALTHY, Health
from outlast.core.routing.latency import DeadlineConfig, Latency
from outlast.core.routing.outcome import Outcome
from outlast.core.telemetry import Histogram, current_span

RESERVATION_MS = 10_000
"""A call begun but not sent for so long is given up: its caller is gone."""

ABANDON_MS = 120_000
"""A call sent but never ended for so long is given up."""


CALL_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of the distribution of calls by duration."""


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one provider."""

    breaker: BreakerConfig = BreakerConfig()
    budget: BudgetConfig = BudgetConfig()
    retry: RetryConfig = RetryConfig()
    deadline: DeadlineConfig = DeadlineConfig()


class ProviderSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One provider as the status page shows it. Durations in milliseconds; ``open_ms`` and ``throttled_ms`` are
    what remains of them."""

    provider: str
    state: State
    disabled: str
    """Why a person disabled it; empty: nobody did."""
    throttled_ms: int
    open_ms: int
    ejections: int
    window_calls: int
    window_failures: int
    window_slow: int
    consecutive_failures: int
    in_flight: int
    oldest_in_flight_ms: int
    p50_ms: float
    p99_ms: float
    deadline_ms: int
    calls: int
    """Calls ended since this process started, background checks left out."""
    failures: int
    last_failure: str
    """Stable code of the last failure; empty: none yet."""
    budget_remaining: float
    """Share of the error budget left; negative: overspent."""
    burn_long: float
    burn_short: float
    burning: bool


class Tally:
    """All calls of one provider since this process started, background checks left out."""

    __slots__ = ("outcomes", "seconds", "throttles")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        """How many ended in what way (`outcome.Kind`)."""
        self.seconds = Histogram(CALL_S)
        self.throttles = 0
        """How often it asked to be left alone."""


class _Flight:
    """One call under way: begun, and after ``sent`` the provider's to answer. ``since_ms`` is the later of both;
    ``watched_ms`` is that, moved on by the time in which nobody looked."""

    __slots__ = ("permit", "sent", "since_ms", "watched_ms")

    def __init__(self, permit: Permit, now_ms: float) -> None:
        self.permit = permit
        self.since_ms = now_ms
        self.watched_ms = now_ms
        self.sent = False


class ProviderHealth:
    """One provider's record. Methods that can change the breaker's state return the transition."""

    __slots__ = (
        "_flights",
        "_throttled_until_ms",
        "breaker",
        "budget",
        "calls",
        "config",
        "disabled",
        "failures",
        "last_failure",
        "latency",
        "name",
        "out_since_ms",
        "retries",
        "tally",
    )

    def __init__(self, name: str, config: ProviderConfig, now_ms: int) -> None:
        self.name = name
        self.config = config
        self.breaker = Breaker(config.breaker)
        self.budget = ErrorBudget(config.budget)
        self.retries = RetryBudget(config.retry, now_ms)
        self.latency = Latency(config.deadline)
        self.tally = Tally()
        self.disabled = ""
        self.calls = 0
        self.failures = 0
        self.last_failure = ""
        self.out_since_ms = 0
        """When it was first ejected in the present row of ejections."""
        self._flights: dict[int, _Flight] = {}
        self._throttled_until_ms = 0

    # -- calls -------------------------------------------------------------------------------------

    def begin(self, number: int, purpose: Purpose, retry: bool, now_ms: float) -> bool:
        """Take leave for a call; False where the breaker or the retry budget forbids it."""
        steady_ms = int(now_ms)
        if retry and not self.retries.available(steady_ms):
            return False
        permit = self.breaker.take(purpose, steady_ms)
        if permit is None:
            return False
        if retry:
            self.retries.spend(steady_ms)
        elif purpose != "check":
            self.retries.requested(steady_ms)
        self._flights[number] = _Flight(permit, now_ms)
        return True

    def sent(self, number: int, now_ms: float) -> None:
        """The call goes out now: its latency, and the provider's responsibility, begin."""
        flight = self._flights.pop(number, None)
        if flight is not None:
            flight.since_ms = flight.watched_ms = now_ms
            flight.sent = True
            self._flights[number] = (
                flight  # at the end: the dictionary stays in order of ``since_ms``
            )

    def finished(self, number: int, outcome: Outcome, now_ms: float) -> Transition | None:
        """The call ended. A number unknown or already ended is ignored."""
        flight = self._flights.pop(number, None)
        if flight is None:
            return None
        steady_ms = int(now_ms)
        if not flight.sent:
            return self.breaker.record(flight.permit, "neutral", steady_ms)
        latency_ms = now_ms - flight.since_ms
        if flight.permit.purpose != "check":
            self._count(outcome, latency_ms, steady_ms)
        verdict = self._verdict(outcome, latency_ms)
        return self.breaker.record(flight.permit, verdict, steady_ms)

    def excuse(self, lag_ms: float) -> None:
        """This process did not look for so long: that wait is not silence of the provider."""
        for flight in self._flights.values():
            flight.watched_ms += lag_ms

    def throttle(self, outcome: Outcome, now_ms: int) -> bool:
        """It asked to be left alone; True when it was not already."""
        self.tally.throttles += 1
        fresh = self._throttled_until_ms <= now_ms
        self._throttled_until_ms = max(self._throttled_until_ms, now_ms + outcome.throttle_ms)
        return fresh and outcome.throttle_ms > 0

    def tick(self, now_ms: float) -> Transition | None:
        """Let time pass: judge unanswered calls, end an ejection that is over."""
        steady_ms = int(now_ms)
        if self._flights:
            change = self._judge_flights(now_ms)
            if change is not None:
                return change
        return self.breaker.advance(steady_ms)

    # -- views -------------------------------------------------------------------------------------

    def view(self, now_ms: int, retrying: bool = False) -> Health:
        """What ``choose`` needs to know now; the retry budget only where ``retrying``."""
        breaker = self.breaker
        retry_ms = self.retries.wait_ms(now_ms) if retrying else 0
        burning = self.budget.burning(now_ms)
        throttled_ms = max(0, self._throttled_until_ms - now_ms)
        if breaker.state == "closed":
            if not (retry_ms or burning or throttled_ms or self.disabled):
                return HEALTHY
            return Health("closed", False, burning, self.disabled, throttled_ms, 0, 0, retry_ms)
        return Health(
            breaker.state,
            breaker.probe_free() and not self.config.breaker.check_first,
            burning,
            self.disabled,
            throttled_ms,
            max(0, breaker.open_until_ms - now_ms),
            0 if breaker.limping else max(0, breaker.last_resort_at_ms() - now_ms),
            retry_ms,
        )

    def snapshot(self, now_ms: float) -> ProviderSnapshot:
        """The record for the status page."""
        steady_ms = int(now_ms)
        self.latency.refresh()
        view = self.view(steady_ms)
        calls, failures, slow = self.breaker.window
        burn_long, burn_short = self.budget.burn_rates(steady_ms)
        return ProviderSnapshot(
            provider=self.name,
            state=view.state,
            disabled=view.disabled,
            throttled_ms=view.throttled_ms,
            open_ms=view.open_ms,
            ejections=self.breaker.ejections,
            window_calls=calls,
            window_failures=failures,
            window_slow=slow,
            consecutive_failures=self.breaker.consecutive,
            in_flight=len(self._flights),
            oldest_in_flight_ms=int(self._oldest_ms(now_ms)),
            p50_ms=round(self.latency.p50_ms, 3),
            p99_ms=round(self.latency.p99_ms, 3),
            deadline_ms=self.latency.deadline_ms,
            calls=self.calls,
            failures=self.failures,
            last_failure=self.last_failure,
            budget_remaining=round(self.budget.remaining(steady_ms), 4),
            burn_long=round(burn_long, 3),
            burn_short=round(burn_short, 3),
            burning=view.burning,
        )

    # -- rules -------------------------------------------------------------------------------------

    def _verdict(self, outcome: Outcome, latency_ms: float) -> Verdict:
        if outcome.failed:
            return "refused" if outcome.kind == "auth-refused" else "failure"
        if outcome.kind == "ok":
            return "slow" if latency_ms >= self.config.breaker.slow_call_ms else "success"
        return "throttled" if outcome.kind == "throttled" else "neutral"

    def _count(self, outcome: Outcome, latency_ms: float, now_ms: int) -> None:
        self.calls += 1
        outcomes = self.tally.outcomes
        outcomes[outcome.kind] = outcomes.get(outcome.kind, 0) + 1
        self.tally.seconds.observe(latency_ms / 1000, current_span())
        if outcome.failed:
            self.failures += 1
            self.last_failure = outcome.code
        if outcome.failed or outcome.kind == "ok":
            self.budget.record(outcome.failed, now_ms)
        if outcome.kind in ("ok", "unknown"):
            self.latency.record(latency_ms)

    def _judge_flights(self, now_ms: float) -> Transition | None:
        """Unanswered calls of the present state, oldest first; only as many are looked at as matter."""
        config = self.config.breaker
        count, oldest_ms = 0, 0.0
        gone: list[int] = []
        for number, flight in self._flights.items():
            age_ms = now_ms - flight.since_ms
            if age_ms < config.slow_call_ms or count >= config.consecutive_failures:
                break
            if age_ms >= (ABANDON_MS if flight.sent else RESERVATION_MS):
                gone.append(number)
            elif flight.sent and flight.permit.generation == self.breaker.generation:
                waited_ms = now_ms - flight.watched_ms
                if waited_ms < config.slow_call_ms:
                    continue
                count += 1
                oldest_ms = max(oldest_ms, waited_ms)
        for number in gone:
            self.breaker.record(self._flights.pop(number).permit, "neutral", int(now_ms))
        return self.breaker.overdue(count, int(oldest_ms), int(now_ms))

    def _oldest_ms(self, now_ms: float) -> float:
        flight = next(iter(self._flights.values()), None)
        return 0.0 if flight is None else now_ms - flight.since_ms
