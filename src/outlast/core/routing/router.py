"""Routes calls to providers by what their calls have shown.

    plan -> begin -> (put the attempt on record) -> sent -> the call -> finished

``plan`` orders the allowed providers with reasons. ``begin`` takes leave for one call, ``sent`` starts its clock,
``finished`` tells how it ended. ``changes`` are facts for the log, drained by whoever commits them.

Guarantees: no decision waits for anything (no I/O, no event loop, no lock); a provider that fails is left after
at most ``consecutive_failures`` calls, one that is silent after ``stall_ms``; nothing here grows without bound.
Leaves to others: making the call, its timeout (``deadline_ms`` proposes one), committing the changes. Health is
this process's own and starts afresh with it. One owner: not thread-safe.

Intervals are taken from the monotonic clock, so a wall clock that jumps ejects nobody. Time in which nobody called
the router for more than ``LAG_MS`` is not held against calls under way: a busy event loop, a suspended process
or an idle site must not look like a silent provider. Whoever wants silence noticed without traffic calls
``tick`` (or ``checks_due``, which does) more often than that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from outlast.core.clock import Clock
from outlast.core.errors import Refused
from outlast.core.routing.breaker import Purpose, State, Transition
from outlast.core.routing.changes import (
    HealthChange,
    ProviderEjected,
    ProviderProbing,
    ProviderRestored,
    ProviderThrottled,
)
from outlast.core.routing.choose import (
    Candidate,
    Choice,
    Health,
    Pick,
    RoutePolicy,
    RouteRequest,
    choose,
)
from outlast.core.routing.health import ProviderConfig, ProviderHealth, ProviderSnapshot, Tally
from outlast.core.routing.outcome import Outcome

MAX_PROVIDERS = 256
"""Providers one router knows at most; a site has a handful."""

MAX_CHANGES = 1_024
"""Changes kept for the drain; older ones are dropped and counted."""

LAG_MS = 300.0
"""A gap between two looks at the clock that is still the provider's to answer for."""


class Call(NamedTuple):
    """One call under way, to be handed back to ``sent`` and ``finished``."""

    provider: str
    number: int
    purpose: Purpose


class Router:
    """Health of all providers of one kind (signers, say, or timestamp authorities) in this process."""

    def __init__(
        self,
        clock: Clock,
        configs: Mapping[str, ProviderConfig] | None = None,
        default: ProviderConfig | None = None,
    ) -> None:
        self._clock = clock
        self._default = default or ProviderConfig()
        self._providers: dict[str, ProviderHealth] = {}
        self._changes: deque[HealthChange] = deque()
        self._last_call = 0
        self._last_look_ms = clock.monotonic_s() * 1000.0
        self.dropped_changes = 0
        """Changes lost because nobody drained them."""
        for name, config in (configs or {}).items():
            self._register(name, config)

    # -- routing -----------------------------------------------------------------------------------

    def plan(
        self, candidates: Sequence[Candidate], policy: RoutePolicy, request: RouteRequest
    ) -> Choice:
        """Providers to try in order, and why not the others. Takes nothing: ``begin`` does."""
        now_ms = self._now_ms()
        steady_ms = int(now_ms)
        health: dict[str, Health] = {}
        for candidate in candidates:
            name = candidate.provider
            record = self._provider(name)
            self._note(record, record.tick(now_ms))
            health[name] = record.view(steady_ms, name in request.retrying)
        return choose(candidates, policy, health, request)

    def begin(self, pick: Pick, *, retry: bool = False) -> Call | None:
        """Leave for one call to a planned provider; None when it changed since: plan again.

        ``retry``: this work was tried there in an earlier round, so it is taken from the retry budget.
        """
        purpose: Purpose = "call"
        if pick.reason in ("probe", "last-resort"):
            purpose = "probe" if pick.reason == "probe" else "last-resort"
        return self._begin(pick.provider, purpose, retry)

    def sent(self, call: Call) -> None:
        """The call goes out now. Without this it speaks neither for nor against the provider."""
        self._provider(call.provider).sent(call.number, self._now_ms())

    def started(self, pick: Pick, *, retry: bool = False) -> Call | None:
        """``begin`` and ``sent`` at once."""
        call = self.begin(pick, retry=retry)
        if call is not None:
            self.sent(call)
        return call

    def finished(self, call: Call, outcome: Outcome) -> None:
        """How the call ended (``outcome_of`` classifies an error). A second answer to a call is ignored."""
        record = self._provider(call.provider)
        now_ms = self._now_ms()
        if outcome.kind == "throttled" and record.throttle(outcome, int(now_ms)):
            self._append(self._throttled(call.provider, outcome))
        self._note(record, record.finished(call.number, outcome, now_ms))

    def deadline_ms(self, provider: str) -> int:
        """How long to wait for this provider's next answer."""
        return self._provider(provider).latency.deadline_ms

    # -- background --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Judge unanswered calls and end ejections that are over, also without traffic."""
        now_ms = self._now_ms()
        for record in self._providers.values():
            self._note(record, record.tick(now_ms))

    def checks_due(self) -> tuple[str, ...]:
        """Half-open providers that a background check (``check`` of their port) may probe now."""
        self.tick()
        records = self._providers.values()
        return tuple(r.name for r in records if r.breaker.probe_free() and not r.disabled)

    def check_started(self, provider: str) -> Call | None:
        """Leave for one background check, sent at once; ``finished`` ends it."""
        call = self._begin(provider, "check", False)
        if call is not None:
            self.sent(call)
        return call

    # -- by hand, and views ------------------------------------------------------------------------

    def disable(self, provider: str, why: str) -> None:
        """A person takes it out of use; calls under way end as they end."""
        self._provider(provider).disabled = why or "no reason given"

    def enable(self, provider: str) -> None:
        """A person puts it back to use; its breaker keeps what it knows."""
        self._provider(provider).disabled = ""

    def changes(self) -> tuple[HealthChange, ...]:
        """Changes since the last call, oldest first; each is handed out once."""
        drained = tuple(self._changes)
        self._changes.clear()
        return drained

    def snapshot(self) -> tuple[ProviderSnapshot, ...]:
        """Every provider, by name."""
        self.tick()
        now_ms = self._now_ms()
        return tuple(self._providers[name].snapshot(now_ms) for name in sorted(self._providers))

    def state(self, provider: str) -> State:
        """A provider's breaker as it was found last."""
        return self._provider(provider).breaker.state

    def tally(self, provider: str) -> tuple[Tally, float]:
        """A provider's calls since this process started, and the retries left in its budget."""
        record = self._provider(provider)
        return record.tally, record.retries.left(int(self._now_ms()))

    # -- inside ------------------------------------------------------------------------------------

    def _now_ms(self) -> float:
        now_ms = self._clock.monotonic_s() * 1000.0
        lag_ms = now_ms - self._last_look_ms - LAG_MS
        self._last_look_ms = now_ms
        if lag_ms > 0:
            for record in self._providers.values():
                record.excuse(lag_ms)
        return now_ms

    def _begin(self, provider: str, purpose: Purpose, retry: bool) -> Call | None:
        record = self._provider(provider)
        self._last_call += 1
        if record.disabled or not record.begin(self._last_call, purpose, retry, self._now_ms()):
            return None
        return Call(provider, self._last_call, purpose)

    def _provider(self, name: str) -> ProviderHealth:
        return self._providers.get(name) or self._register(name, self._default)

    def _register(self, name: str, config: ProviderConfig) -> ProviderHealth:
        if len(self._providers) >= MAX_PROVIDERS:
            raise Refused("too-many-providers", f"a site routes among at most {MAX_PROVIDERS}")
        record = ProviderHealth(name, config, int(self._now_ms()))
        self._providers[name] = record
        return record

    def _note(self, record: ProviderHealth, transition: Transition | None) -> None:
        if transition is None:
            return
        now_ms = self._clock.now_ms()
        provider, reason, text = record.name, transition.reason, transition.text
        if transition.state == "open":
            record.out_since_ms = record.out_since_ms or now_ms
            until_ms = now_ms + record.breaker.open_ms
            change: HealthChange = ProviderEjected(
                provider=provider,
                at_ms=now_ms,
                reason=reason,
                text=text,
                until_ms=until_ms,
                ejections=record.breaker.ejections,
            )
        elif transition.state == "half-open":
            change = ProviderProbing(provider=provider, at_ms=now_ms, reason=reason, text=text)
        else:
            out_ms = now_ms - record.out_since_ms
            record.out_since_ms = 0
            change = ProviderRestored(
                provider=provider, at_ms=now_ms, reason=reason, text=text, out_ms=out_ms
            )
        self._append(change)

    def _throttled(self, provider: str, outcome: Outcome) -> ProviderThrottled:
        now_ms = self._clock.now_ms()
        return ProviderThrottled(
            provider=provider,
            at_ms=now_ms,
            reason=outcome.code or "throttled",
            text=f"it asked to be left alone for {outcome.throttle_ms} ms",
            until_ms=now_ms + outcome.throttle_ms,
        )

    def _append(self, change: HealthChange) -> None:
        if len(self._changes) >= MAX_CHANGES:
            self._changes.popleft()
            self.dropped_changes += 1
        self._changes.append(change)
