"""Saying no at the door, early, and saying when to come back.

Guarantees: never more than ``max_outstanding`` requests inside at once, never a growing backlog beyond its limit,
and no tenant faster than its rate. Whoever is turned away learns when it is worth coming back: from the rate at
which work is measured to be finished, not from a constant. Nothing is queued here; a refusal costs microseconds.

No locking: one owner (the event loop). Intervals come from the monotonic clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import msgspec

from outlast.core.clock import Clock
from outlast.core.errors import Unavailable

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
"""Bounds of every Retry-After given here."""

MAX_TENANTS = 10_000
"""Rate limits kept in memory; the tenant unseen for longest is forgotten (and so starts with a full bucket)."""


class GateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits at the door."""

    max_outstanding: int = 1_000
    """Requests being accepted at once."""
    max_backlog: int = 50_000
    """Jobs waiting, at which new work is turned away."""
    drain_halflife_s: float = 5.0
    """How fast the measured drain rate follows reality."""
    tenant_per_s: float = 0.0
    """Requests per second each tenant may make; 0: no limit."""
    tenant_burst: float = 100.0
    """Requests a tenant may save up."""


class DrainRate:
    """Completions per second: an average that halves the weight of the past every half-life.

    Completions are counted in slots of a tenth of the half-life, so a burst does not look like a rate.
    """

    __slots__ = ("_alpha", "_count", "_rate", "_slot_ends_s", "_slot_s", "_started")

    def __init__(self, halflife_s: float, now_s: float) -> None:
        self._slot_s = halflife_s / 10
        self._alpha = 1 - 0.5 ** (self._slot_s / halflife_s)
        self._slot_ends_s = now_s + self._slot_s
        self._count = 0
        self._rate = 0.0
        self._started = False

    def completed(self, count: int, now_s: float) -> None:
        """So many units of work were finished."""
        self._roll(now_s)
        self._count += count

    def per_s(self, now_s: float) -> float:
        """The rate now; 0.0 when nothing has been finished yet."""
        self._roll(now_s)
        if not self._started and self._count:
            elapsed_s = max(now_s - self._slot_ends_s + self._slot_s, self._slot_s / 10)
            return self._count / elapsed_s
        return self._rate

    def _roll(self, now_s: float) -> None:
        if now_s < self._slot_ends_s:
            return
        slots = int((now_s - self._slot_ends_s) / self._slot_s) + 1
        if self._count or self._started:
            measured = self._count / self._slot_s
            self._rate += (measured - self._rate) * (self._alpha if self._started else 1.0)
            self._rate *= (1 - self._alpha) ** (slots - 1)  # slots in which nothing was finished
            self._started = True
        self._count = 0
        self._slot_ends_s += slots * self._slot_s


class Gate:
    """The door of one process."""

    def __init__(self, config: GateConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._drain = DrainRate(config.drain_halflife_s, clock.monotonic_s())
        self._tenants: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.outstanding = 0

    def admit(self, backlog: int, tenant: str = "") -> None:
        """Let one request in, to be answered by ``leave``; ``backlog`` is the number of jobs waiting.

        Raises Unavailable ``overloaded`` or ``rate-limited`` with ``retry_after_s``; then nothing was taken.
        """
        config = self._config
        if backlog >= config.max_backlog:
            raise self._overloaded(
                "work is waiting up to its limit", backlog - config.max_backlog + 1
            )
        if self.outstanding >= config.max_outstanding:
            raise self._overloaded("too many requests are being accepted at once", 1)
        if tenant and config.tenant_per_s > 0:
            self._spend(tenant)
        self.outstanding += 1

    def leave(self) -> None:
        """A request that was let in has been answered."""
        self.outstanding = max(0, self.outstanding - 1)

    def completed(self, count: int = 1) -> None:
        """So many jobs were finished: what the drain rate is measured by."""
        self._drain.completed(count, self._clock.monotonic_s())

    def drain_per_s(self) -> float:
        """Jobs finished per second, as measured lately."""
        return self._drain.per_s(self._clock.monotonic_s())

    def retry_after_s(self, excess: int) -> float:
        """When the backlog will have shrunk by ``excess`` at the measured rate, within the bounds."""
        rate = self.drain_per_s()
        wait_s = excess / rate if rate > 0 else MAX_RETRY_AFTER_S
        return float(math.ceil(min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)))

    def _overloaded(self, why: str, excess: int) -> Unavailable:
        after_s = self.retry_after_s(excess)
        return Unavailable(
            "overloaded",
            why,
            hint=f"Nothing was accepted. Send it again after {after_s:.0f} s, or to another site.",
            retry_after_s=after_s,
            scope="site",
        )

    def _spend(self, tenant: str) -> None:
        config, now_s = self._config, self._clock.monotonic_s()
        tokens, at_s = self._tenants.get(tenant, (config.tenant_burst, now_s))
        tokens = min(config.tenant_burst, tokens + (now_s - at_s) * config.tenant_per_s)
        allowed = tokens >= 1.0
        self._tenants[tenant] = (tokens - 1.0 if allowed else tokens, now_s)
        self._tenants.move_to_end(tenant)
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)
        if not allowed:
            wait_s = (1.0 - tokens) / config.tenant_per_s
            after_s = float(math.ceil(min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)))
            raise Unavailable(
                "rate-limited",
                f"this tenant may make {config.tenant_per_s:g} requests per second",
                hint=f"Send it again after {after_s:.0f} s, and more slowly.",
                retry_after_s=after_s,
                scope="tenant",
            )
