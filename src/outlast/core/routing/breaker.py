"""When to stop calling a provider, and when to try it again.

Guarantees: a provider that fails, crawls or swallows calls is left after a bounded number of them; it is tried
again with a bounded number of probes; it is not called normal again before enough probes have succeeded; each
ejection in a row lasts longer, up to a limit. Everything is a function of the calls made and the ``now_ms`` they
carry: no clock, no randomness, no I/O, so the simulator replays it exactly.

Refuses nothing and knows no other provider: that the last one allowed is still tried, at a bounded rate, is
decided in ``choose``. Time is any steady count of milliseconds.

Follows resilience4j (failure- and slow-call-rate windows, limited half-open probes) and Envoy's outlier
detection (ejection time grows with each ejection).
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

import msgspec

State = Literal["closed", "open", "half-open"]
Verdict = Literal["success", "slow", "failure", "refused", "throttled", "neutral"]
"""How a call speaks for its provider. ``refused`` is a failure that will not pass by itself. ``throttled`` and ``neutral`` (the request was at fault, or we gave up)
say nothing about its health."""

Purpose = Literal["call", "probe", "check", "last-resort"]
"""Why a call is made: normal traffic; traffic that probes a half-open provider; a cheap background question;
traffic to an ejected provider because no other is allowed."""


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one breaker; times in milliseconds, rates between 0 and 1."""

    window_calls: int = 100
    """Most recent calls that the rates are taken over."""
    window_ms: int = 60_000
    """Calls older than this no longer count."""
    min_calls: int = 10
    """No rate is judged on fewer calls."""
    failure_rate: float = 0.5
    slow_rate: float = 0.5
    consecutive_failures: int = 3
    """So many failures in a row open it at once."""
    slow_call_ms: int = 500
    """A call that takes this long counts as slow, whatever it answers."""
    stall_ms: int = 1_000
    """One call without an answer for this long opens it, before any timeout has returned."""
    open_initial_ms: int = 1_000
    open_growth: float = 2.0
    open_max_ms: int = 60_000
    reset_after_ms: int = 60_000
    """Closed for so long, the next ejection starts at ``open_initial_ms`` again."""
    half_open_in_flight: int = 1
    """Most probes under way at once."""
    probes_to_close: int = 2
    """Successful probes in a row that close it."""
    check_first: bool = False
    """Half-open, only background checks probe it: no user's request pays for finding out. Set it where
    somebody runs those checks."""
    refusal_opens: bool = False
    """One refusal of our credentials, or of the place they are for, opens it at once. For providers where no single key
    or object can be refused by itself."""
    last_resort_gap_ms: int = 250
    """Least time between two calls that are made although it is ejected. Does not hold for one ejected for
    slowness alone: a slow answer is better than none, and perhaps it is we who are slow."""

    def __post_init__(self) -> None:
        window = min(self.window_calls, self.min_calls, self.consecutive_failures)
        probes = min(self.half_open_in_flight, self.probes_to_close, self.open_initial_ms)
        if (
            min(window, probes) < 1
            or self.open_growth < 1
            or self.open_max_ms < self.open_initial_ms
        ):
            raise ValueError(
                "breaker: counts are at least 1, growth at least 1, max at least initial"
            )
        if not (0 < self.failure_rate <= 1 and 0 < self.slow_rate <= 1):
            raise ValueError("breaker: rates lie between 0 and 1, 0 excluded")


class Permit(NamedTuple):
    """Leave to make one call; handed back with its verdict. ``generation`` tells an answer that belongs to an
    earlier state from one that may change the present one."""

    purpose: Purpose
    generation: int


class Transition(NamedTuple):
    """A change of state, why, and (for ``open``) until when on the caller's time scale."""

    state: State
    reason: str
    text: str
    until_ms: int


class Breaker:
    """The health of one provider as its calls show it. Explicit state, no locking: one owner."""

    __slots__ = (
        "_calls",
        "_closed_at_ms",
        "_failures",
        "_generation",
        "_last_resort_ms",
        "_on_probation",
        "_probes",
        "_slow",
        "_successes",
        "config",
        "consecutive",
        "ejections",
        "limping",
        "open_ms",
        "open_until_ms",
        "state",
    )

    def __init__(self, config: BreakerConfig) -> None:
        self.config = config
        self.state: State = "closed"
        self.consecutive = 0
        """Failures since the last success."""
        self.ejections = 0
        """Ejections in a row without sustained health between them."""
        self.open_ms = 0
        """How long the last ejection was set to last."""
        self.open_until_ms = 0
        self.limping = False
        """Whether the last ejection was for slowness: it does answer."""
        self._closed_at_ms = 0
        self._generation = 0
        self._probes = 0
        self._successes = 0
        self._on_probation = False
        self._last_resort_ms = -config.last_resort_gap_ms
        self._calls: deque[tuple[int, Verdict]] = deque()
        self._failures = 0
        self._slow = 0

    # -- asking ------------------------------------------------------------------------------------

    def advance(self, now_ms: int) -> Transition | None:
        """Let time pass: an ejection that is over becomes half-open."""
        if self.state != "open" or now_ms < self.open_until_ms:
            return None
        self._enter("half-open")
        return Transition(
            "half-open", "ejection-over", "its ejection is over; it is being probed", 0
        )

    def probe_free(self) -> bool:
        """Whether a probe may start now."""
        return self.state == "half-open" and self._probes < self.config.half_open_in_flight

    def last_resort_free(self, now_ms: int) -> bool:
        """Whether a call may be made although it is ejected."""
        return self.limping or now_ms >= self.last_resort_at_ms()

    def last_resort_at_ms(self) -> int:
        """When the next such call may be made, unless it is ``limping``."""
        return self._last_resort_ms + self.config.last_resort_gap_ms

    def take(self, purpose: Purpose, now_ms: int) -> Permit | None:
        """Leave for one call, or None where its state or a bound forbids it."""
        if purpose == "call":
            return Permit(purpose, self._generation) if self.state == "closed" else None
        if purpose == "last-resort":
            if self.state == "closed" or not self.last_resort_free(now_ms):
                return None
            self._last_resort_ms = now_ms
            return Permit(purpose, self._generation)
        if not self.probe_free() or (purpose == "probe" and self.config.check_first):
            return None
        self._probes += 1
        return Permit(purpose, self._generation)

    # -- telling -----------------------------------------------------------------------------------

    def record(self, permit: Permit, verdict: Verdict, now_ms: int) -> Transition | None:
        """Take note of how a permitted call ended; each permit is handed back once."""
        current = permit.generation == self._generation
        if current and permit.purpose in ("probe", "check"):
            self._probes -= 1
        if verdict in ("throttled", "neutral"):
            return None
        if permit.purpose != "check":
            self._remember(verdict, now_ms)
        if not current:
            return None  # the answer to an earlier state: counted, but it decides nothing
        if self.state == "closed":
            return self._record_closed(permit, verdict, now_ms)
        return self._record_probe(permit, verdict, now_ms)

    def overdue(self, count: int, oldest_ms: int, now_ms: int) -> Transition | None:
        """Judge calls of the present state that have no answer yet.

        ``count`` of them are older than ``slow_call_ms``; the oldest has waited ``oldest_ms``. They count like
        failures, so a provider that swallows calls is left before their timeouts return.
        """
        if count <= 0 or self.state == "open":
            return None
        stalled = oldest_ms >= self.config.stall_ms
        if stalled or self.consecutive + count >= self.config.consecutive_failures:
            text = f"{count} calls without an answer, the oldest for {oldest_ms} ms"
            return self._eject("stalled", text, now_ms)
        return None

    @property
    def generation(self) -> int:
        """Grows with every change of state; permits of another generation decide nothing."""
        return self._generation

    @property
    def window(self) -> tuple[int, int, int]:
        """Calls, failures and slow calls that the rates are now taken over."""
        return len(self._calls), self._failures, self._slow

    # -- rules -------------------------------------------------------------------------------------

    def _record_closed(self, permit: Permit, verdict: Verdict, now_ms: int) -> Transition | None:
        if verdict == "refused" and self.config.refusal_opens:
            self.consecutive += 1
            return self._eject("refused", "it refuses our credentials or their place", now_ms)
        if verdict in ("failure", "refused"):
            self.consecutive += 1
            if self._on_probation and permit.purpose == "call":
                return self._eject("relapse", "its first call after the checks failed", now_ms)
            if self.consecutive >= self.config.consecutive_failures:
                return self._eject("failing", f"{self.consecutive} failures in a row", now_ms)
        else:
            self.consecutive = 0
            self._on_probation = False
        return self._judge_rates(now_ms)

    def _judge_rates(self, now_ms: int) -> Transition | None:
        calls = len(self._calls)
        if calls < self.config.min_calls:
            return None
        if self._failures >= self.config.failure_rate * calls:
            return self._eject("failing", f"{self._failures} of {calls} calls failed", now_ms)
        if self._slow >= self.config.slow_rate * calls:
            text = f"{self._slow} of {calls} calls were slow"
            return self._eject("slow", text, now_ms, limping=True)
        return None

    def _record_probe(self, permit: Permit, verdict: Verdict, now_ms: int) -> Transition | None:
        if verdict != "success":
            self._successes = 0
            self.limping = self.limping and verdict == "slow"
            if self.state == "open":
                return None  # a last-resort call: the ejection runs on, its length unchanged
            word = "was slow" if verdict == "slow" else "failed"
            text = f"a {permit.purpose} {word}"
            return self._eject("probe-failed", text, now_ms, limping=verdict == "slow")
        self._successes += 1
        if self._successes < self.config.probes_to_close:
            return None
        # checks prove less than calls do: until a call succeeds, one failure ejects again
        probation = permit.purpose == "check"
        self._enter("closed")
        self._closed_at_ms = now_ms
        self._on_probation = probation
        text = f"{self.config.probes_to_close} probes in a row succeeded"
        return Transition("closed", "recovered", text, 0)

    def _eject(self, reason: str, text: str, now_ms: int, limping: bool = False) -> Transition:
        config = self.config
        self.limping = limping
        if self.state == "closed" and now_ms - self._closed_at_ms >= config.reset_after_ms:
            self.ejections = 0
        if self.ejections == 0:
            self.open_ms = min(config.open_initial_ms, config.open_max_ms)
        else:
            self.open_ms = int(min(self.open_ms * config.open_growth, config.open_max_ms))
        self.ejections += 1
        self._enter("open")
        self.open_until_ms = now_ms + self.open_ms
        return Transition("open", reason, text, self.open_until_ms)

    def _enter(self, state: State) -> None:
        self.state = state
        self._generation += 1
        self._probes = 0
        self._successes = 0
        self._on_probation = False
        if state == "closed":
            self.consecutive = 0
            self._calls.clear()
            self._failures = self._slow = 0

    def _remember(self, verdict: Verdict, now_ms: int) -> None:
        calls = self._calls
        calls.append((now_ms, verdict))
        self._failures += verdict in ("failure", "refused")
        self._slow += verdict == "slow"
        oldest_kept_ms = now_ms - self.config.window_ms
        while len(calls) > self.config.window_calls or calls[0][0] < oldest_kept_ms:
            _, gone = calls.popleft()
            self._failures -= gone in ("failure", "refused")
            self._slow -= gone == "slow"
