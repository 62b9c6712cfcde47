"""How long to wait before the next try.

Exponential with full jitter: uniformly anywhere between nothing and the exponential step, which spreads a crowd
best (AWS Architecture Blog, "Exponential Backoff and Jitter"). A provider's Retry-After is a floor: never sooner,
and jittered above it. Pure: the caller brings the random number.
"""

from __future__ import annotations

import msgspec

MAX_RETRY_AFTER_MS = 60 * 60_000
"""Longest Retry-After that is believed."""


class BackoffPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Waits between tries: ``initial_ms`` x ``factor`` per try, at most ``max_ms``; ``attempts`` tries in all."""

    initial_ms: int = 200
    factor: float = 2.0
    max_ms: int = 30_000
    attempts: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.initial_ms <= self.max_ms or self.factor < 1 or self.attempts < 1:
            raise ValueError("backoff: 0 < initial_ms <= max_ms, factor and attempts at least 1")


def exhausted(policy: BackoffPolicy, attempt: int) -> bool:
    """Whether no try is left after try number ``attempt`` (the first is 1)."""
    return attempt >= policy.attempts


def delay_ms(
    policy: BackoffPolicy, attempt: int, unit_random: float, retry_after_ms: int | None = None
) -> int:
    """Milliseconds to wait after try number ``attempt`` (the first is 1) failed.

    ``unit_random`` is uniform in [0, 1). With ``retry_after_ms`` the answer is at least that.
    """
    step_ms = min(float(policy.initial_ms) * _growth(policy, attempt), policy.max_ms)
    jittered_ms = int(step_ms * unit_random)
    if retry_after_ms is None:
        return jittered_ms
    return max(0, min(retry_after_ms, MAX_RETRY_AFTER_MS)) + jittered_ms


def _growth(policy: BackoffPolicy, attempt: int) -> float:
    try:
        growth = policy.factor ** max(0, attempt - 1)
    except OverflowError:
        return float(policy.max_ms)
    return float(min(growth, policy.max_ms))
