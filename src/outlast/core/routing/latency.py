"""How long a provider's answers take, and so how long to wait for the next one.

The deadline of an attempt is a multiple of the recent 99th percentile, within bounds: a provider that usually
answers in 5 ms is not waited for a second when it goes silent. Attempts that ran into their deadline are
counted at it, so a provider that has become slow, not dead, is given more time again. Pure.
"""

from __future__ import annotations

from collections import deque

import msgspec


class DeadlineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the adaptive deadline, in milliseconds. The defaults suit signers; a timestamp authority
    on the Internet wants a larger ``max_ms``."""

    min_ms: int = 250
    """Never less: a busy event loop must not look like a dead provider."""
    max_ms: int = 1_000
    """Never more, and what is used until ``min_samples`` answers are known."""
    factor: float = 4.0
    min_samples: int = 20


SAMPLES = 256
"""Most recent answers that the percentiles are taken over."""

RECOMPUTE_EVERY = 32
"""Answers between two sorts: percentiles are for steering, not for billing."""


class Latency:
    """Recent latencies of one provider."""

    __slots__ = ("_config", "_since", "_values", "deadline_ms", "p50_ms", "p99_ms")

    def __init__(self, config: DeadlineConfig) -> None:
        self._config = config
        self._values: deque[float] = deque(maxlen=SAMPLES)
        self._since = 0
        self.p50_ms = 0.0
        self.p99_ms = 0.0
        self.deadline_ms = config.max_ms

    def record(self, latency_ms: float) -> None:
        """Take note of one answer, or of one deadline that passed."""
        self._values.append(latency_ms)
        self._since += 1
        few = len(self._values) <= self._config.min_samples
        if self._since >= RECOMPUTE_EVERY or few or latency_ms >= self.deadline_ms:
            self.refresh()

    def refresh(self) -> None:
        """Bring the percentiles and the deadline up to date."""
        self._since = 0
        if not self._values:
            return
        ordered = sorted(self._values)
        self.p50_ms = ordered[len(ordered) // 2]
        self.p99_ms = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
        config = self._config
        if len(ordered) >= config.min_samples:
            wanted = int(self.p99_ms * config.factor)
            self.deadline_ms = max(config.min_ms, min(wanted, config.max_ms))
