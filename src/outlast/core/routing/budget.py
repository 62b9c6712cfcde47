"""How much failure a provider may still cost us, and how many retries it may be sent.

``ErrorBudget`` compares the failures of a long and a short window with an objective: it burns when both spend
the budget faster than the threshold, so that one bad minute of an hour neither goes unseen nor is held against
it after it is over (Google SRE workbook, "Alerting on SLOs", multiwindow burn rates: 14.4x over 1 h and 5 min).
``RetryBudget`` is a token bucket: retries are a fraction of requests, plus a few per second, so that retrying
cannot multiply an outage. Pure: time comes in as steady milliseconds.
"""

from __future__ import annotations

from collections import deque

import msgspec


class BudgetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Objective and windows of an error budget."""

    objective: float = 0.99
    """Share of calls that should succeed."""
    long_ms: int = 3_600_000
    short_ms: int = 300_000
    burn_threshold: float = 14.4
    """So many times the sustainable rate of failure, in both windows, is burning."""
    min_calls: int = 20
    """No burn rate is judged on fewer calls in the short window."""

    def __post_init__(self) -> None:
        if not 0 < self.objective < 1 or not 0 < self.short_ms <= self.long_ms:
            raise ValueError("error budget: 0 < objective < 1 and 0 < short_ms <= long_ms")


BUCKETS_PER_WINDOW = 60
"""Resolution of a window: memory stays bounded whatever the rate of calls."""


class Window:
    """Calls and failures within the last ``span_ms``, to a sixtieth of it."""

    __slots__ = ("_bucket_ms", "_buckets", "_span_ms", "bad", "total")

    def __init__(self, span_ms: int) -> None:
        self._span_ms = span_ms
        self._bucket_ms = max(1, span_ms // BUCKETS_PER_WINDOW)
        self._buckets: deque[list[int]] = deque()
        self.total = 0
        self.bad = 0

    def add(self, bad: bool, now_ms: int) -> None:
        """Count one call."""
        start = now_ms - now_ms % self._bucket_ms
        if not self._buckets or self._buckets[-1][0] != start:
            self.expire(now_ms)
            self._buckets.append([start, 0, 0])
        last = self._buckets[-1]
        last[1] += 1
        last[2] += bad
        self.total += 1
        self.bad += bad

    def expire(self, now_ms: int) -> None:
        """Forget what lies outside the window."""
        buckets = self._buckets
        while buckets and buckets[0][0] + self._bucket_ms <= now_ms - self._span_ms:
            _, total, bad = buckets.popleft()
            self.total -= total
            self.bad -= bad


class ErrorBudget:
    """One provider's error budget."""

    __slots__ = ("_config", "_long", "_short")

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._long = Window(config.long_ms)
        self._short = Window(config.short_ms)

    def record(self, bad: bool, now_ms: int) -> None:
        """Count one call, good or bad."""
        self._long.add(bad, now_ms)
        self._short.add(bad, now_ms)

    def burn_rates(self, now_ms: int) -> tuple[float, float]:
        """Long and short window: failures as a multiple of what the objective permits; 1.0 spends it exactly."""
        return self._rate(self._long, now_ms), self._rate(self._short, now_ms)

    def burning(self, now_ms: int) -> bool:
        """Whether both windows spend faster than the threshold."""
        if not self._short.bad:
            return False
        self._short.expire(now_ms)
        if self._short.total < self._config.min_calls:
            return False
        return min(self.burn_rates(now_ms)) >= self._config.burn_threshold

    def remaining(self, now_ms: int) -> float:
        """Share of the long window's budget that is left: 1.0 untouched, 0.0 spent, negative overspent."""
        return 1.0 - self._rate(self._long, now_ms)

    def _rate(self, window: Window, now_ms: int) -> float:
        window.expire(now_ms)
        if window.total == 0:
            return 0.0
        return (window.bad / window.total) / (1.0 - self._config.objective)


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Retries allowed: ``ratio`` of requests, and ``min_per_s`` besides; at most ``burst`` saved up."""

    ratio: float = 0.1
    min_per_s: float = 1.0
    burst: float = 10.0


class RetryBudget:
    """One provider's retry budget; starts full."""

    __slots__ = ("_at_ms", "_config", "_tokens")

    def __init__(self, config: RetryConfig, now_ms: int) -> None:
        self._config = config
        self._tokens = config.burst
        self._at_ms = now_ms

    def requested(self, now_ms: int) -> None:
        """A first attempt was made: it earns its fraction of a retry."""
        self._refill(now_ms)
        self._tokens = min(self._config.burst, self._tokens + self._config.ratio)

    def available(self, now_ms: int) -> bool:
        """Whether a retry may be made now."""
        self._refill(now_ms)
        return self._tokens >= 1.0

    def spend(self, now_ms: int) -> bool:
        """Take one retry; False, and nothing taken, when there is none left."""
        if not self.available(now_ms):
            return False
        self._tokens -= 1.0
        return True

    def left(self, now_ms: int) -> float:
        """How many retries are saved up."""
        self._refill(now_ms)
        return self._tokens

    def wait_ms(self, now_ms: int) -> int:
        """Until a retry is available if nothing else happens."""
        self._refill(now_ms)
        if self._tokens >= 1.0:
            return 0
        rate = max(self._config.min_per_s, 1e-3)
        return int((1.0 - self._tokens) / rate * 1000) + 1

    def _refill(self, now_ms: int) -> None:
        elapsed_s = max(0, now_ms - self._at_ms) / 1000
        earned = elapsed_s * self._config.min_per_s
        self._tokens = min(self._config.burst, self._tokens + earned)
        self._at_ms = max(self._at_ms, now_ms)
