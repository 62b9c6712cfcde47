"""The router: failover measures, on a clock moved by hand."""

from __future__ import annotations

import msgspec
import pytest

from outlast.core.clock import ManualClock
from outlast.core.errors import Refused
from outlast.core.routing.breaker import BreakerConfig
from outlast.core.routing.changes import (
    ProviderEjected,
    ProviderProbing,
    ProviderRestored,
    ProviderThrottled,
)
from outlast.core.routing.choose import Candidate, Pick, RoutePolicy, RouteRequest
from outlast.core.routing.health import ABANDON_MS, RESERVATION_MS, ProviderConfig
from outlast.core.routing.outcome import BAD_SIGNATURE, CANCELLED, OK, TIMED_OUT, Outcome
from outlast.core.routing.router import MAX_CHANGES, MAX_PROVIDERS, Router

BOTH = [Candidate("a", "eu-de-1"), Candidate("b", "eu-fr-1")]
POLICY = RoutePolicy(preferred=("a", "b"))
REFUSED_CONNECTION = Outcome("unreachable", "provider-unreachable")
PREFERRED_A = Pick("a", "preferred", "")


class World:
    """Two providers that answer in 5 ms, refuse connections in 1 ms, or swallow calls."""

    def __init__(self, config: ProviderConfig | None = None) -> None:
        self.clock = ManualClock()
        self.router = Router(self.clock, default=config)
        self.dead: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[str] = []

    def request(self) -> tuple[bool, int]:
        """One request to its end, failing over; whether it succeeded, and how long it took."""
        began_ms, tried = self.clock.now_ms(), frozenset[str]()
        while True:
            choice = self.router.plan(BOTH, POLICY, RouteRequest(tried=tried))
            if not choice.order:
                return False, self.clock.now_ms() - began_ms
            provider = choice.order[0].provider
            call = self.router.started(choice.order[0])
            assert call is not None
            self.router.finished(call, self._answer(provider))
            if provider not in self.dead | self.silent:
                return True, self.clock.now_ms() - began_ms
            tried |= {provider}

    def _answer(self, provider: str) -> Outcome:
        self.asked.append(provider)
        if provider in self.silent:
            self.clock.advance(self.router.deadline_ms(provider))
            return TIMED_OUT
        self.clock.advance(1 if provider in self.dead else 5)
        return REFUSED_CONNECTION if provider in self.dead else OK


def test_killed_provider_fails_no_request_and_adds_no_latency() -> None:
    """One of two killed: no request fails, and none takes 10 ms longer, probes included."""
    world = World()
    for _ in range(50):
        world.request()
    world.dead.add("a")
    results = [world.request() for _ in range(2_000)]
    assert all(ok for ok, _ in results)
    assert max(ms for _, ms in results) - 5 < 10
    asked_dead = world.asked[50:].count("a")
    assert asked_dead <= 3 + 10  # three to notice, then rare probes


def test_blackholed_provider_is_left_after_three_requests_or_a_second() -> None:
    """One of two swallows calls: left within three requests; none waits longer than its deadline."""
    world = World()
    for _ in range(50):
        world.request()
    world.silent.add("a")
    results = [world.request() for _ in range(10)]
    assert all(ok for ok, _ in results)
    assert [ms for _, ms in results[3:]] == [5] * 7
    assert max(ms for _, ms in results) <= 1_005


def test_blackhole_is_noticed_before_any_timeout_returns() -> None:
    """With many calls in flight, silence ejects after half a second though nothing has returned."""
    world = World()
    calls = [world.router.started(PREFERRED_A) for _ in range(64)]
    for _ in range(5):
        assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "a"
        world.clock.advance(100)
    assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "b"
    for call in calls:
        assert call is not None
        world.router.finished(call, TIMED_OUT)
    ejections = [c for c in world.router.changes() if isinstance(c, ProviderEjected)]
    assert [(c.reason, c.ejections) for c in ejections] == [("stalled", 1)]


def test_a_stalled_process_is_not_a_silent_provider() -> None:
    """Time in which this process did not run is not held against calls under way."""
    world = World()
    calls = [world.router.started(PREFERRED_A) for _ in range(64)]
    world.clock.advance(30_000)
    assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "a"
    for call in calls:
        assert call is not None
        world.router.finished(call, OK)
    choice = world.router.plan(BOTH, POLICY, RouteRequest())
    assert (choice.order[0].provider, choice.order[0].reason) == ("b", "next")
    alone = world.router.plan(BOTH[:1], POLICY, RouteRequest())
    assert alone.order[0].reason == "last-resort"


def test_a_site_that_is_slow_itself_keeps_working() -> None:
    """Everything slow, every provider ejected for it: all requests still go through."""
    world = World()
    for _ in range(200):
        (pick, *_) = world.router.plan(BOTH, POLICY, RouteRequest()).order
        call = world.router.started(pick)
        assert call is not None
        world.clock.advance(700)
        world.router.finished(call, OK)


def test_health_is_back_after_the_provider_is() -> None:
    """Probes bring a provider back, and the way is on record: ejected, probing, restored."""
    world = World()
    world.dead.add("a")
    for _ in range(5):
        world.request()
    world.dead.clear()
    world.clock.advance(1_000)
    for _ in range(5):
        world.request()
    assert world.asked[-1] == "a"
    changes = world.router.changes()
    assert [type(c) for c in changes] == [ProviderEjected, ProviderProbing, ProviderRestored]
    assert isinstance(changes[-1], ProviderRestored)
    assert changes[-1].out_ms == changes[-1].at_ms - changes[0].at_ms > 1_000
    assert world.router.changes() == ()


def test_background_checks_spare_requests_the_probing() -> None:
    """With check_first no request goes to a provider before a check has passed."""
    world = World(ProviderConfig(breaker=BreakerConfig(check_first=True, probes_to_close=1)))
    world.silent.add("a")
    for _ in range(4):
        world.request()
    for _ in range(5):
        world.clock.advance(60_000)
        assert world.router.checks_due() == ("a",)
        check = world.router.check_started("a")
        assert check is not None
        assert world.router.checks_due() == ()
        assert world.request() == (True, 5)
        world.router.finished(check, TIMED_OUT)
    world.silent.clear()
    world.clock.advance(60_000)
    assert world.router.checks_due() == ("a",)
    check = world.router.check_started("a")
    assert check is not None
    world.router.finished(check, OK)
    world.request()
    assert world.asked[-1] == "a"


def test_garbage_counts_against_a_provider() -> None:
    """Three signatures that do not verify eject it."""
    world = World()
    for _ in range(3):
        call = world.router.started(PREFERRED_A)
        assert call is not None
        world.router.finished(call, BAD_SIGNATURE)
    snapshot = {s.provider: s for s in world.router.snapshot()}
    assert (snapshot["a"].state, snapshot["a"].last_failure) == ("open", "bad-signature")


def test_refusals_of_the_request_do_not() -> None:
    """A disabled key asked for a hundred times leaves the provider alone."""
    world = World()
    for _ in range(100):
        call = world.router.started(PREFERRED_A)
        assert call is not None
        world.router.finished(call, Outcome("request-refused", "key-disabled"))
    assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "a"


def test_throttling_is_honoured_and_recorded_once() -> None:
    """Retry-After keeps everybody away until it is over; it is no failure."""
    world = World()
    calls = [world.router.started(PREFERRED_A) for _ in range(3)]
    for call in calls:
        assert call is not None
        world.router.finished(call, Outcome("throttled", "throttled", 2_000))
    assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "b"
    assert [type(c) for c in world.router.changes()] == [ProviderThrottled]
    world.clock.advance(2_000)
    assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "a"


def test_an_answer_counts_once_and_a_cancelled_call_not_at_all() -> None:
    """Finishing twice, or giving up, does not distort the record."""
    world = World()
    call = world.router.started(PREFERRED_A)
    assert call is not None
    for _ in range(5):
        world.router.finished(call, TIMED_OUT)
    for _ in range(5):
        other = world.router.started(PREFERRED_A)
        assert other is not None
        world.router.finished(other, CANCELLED)
    (snapshot,) = world.router.snapshot()
    assert (snapshot.failures, snapshot.consecutive_failures, snapshot.in_flight) == (1, 1, 0)


def test_calls_nobody_ends_are_given_up() -> None:
    """A lost caller frees its place: at once where it never sent, later where it did."""
    world = World()
    assert world.router.begin(PREFERRED_A) is not None
    world.clock.advance(RESERVATION_MS)
    assert world.router.snapshot()[0].in_flight == 0
    assert world.router.snapshot()[0].state == "closed"
    assert world.router.started(PREFERRED_A) is not None
    world.clock.advance(ABANDON_MS)
    assert world.router.snapshot()[0].in_flight == 0


def test_a_slow_commit_is_not_the_providers_fault() -> None:
    """Between begin and sent the clock does not run against the provider."""
    world = World()
    call = world.router.begin(PREFERRED_A)
    assert call is not None
    world.clock.advance(5_000)
    world.router.sent(call)
    world.clock.advance(5)
    world.router.finished(call, OK)
    (snapshot,) = world.router.snapshot()
    assert (snapshot.p99_ms, snapshot.state) == (5.0, "closed")


def test_disabled_by_hand_until_enabled() -> None:
    """A person's word goes before health."""
    world = World()
    world.router.disable("a", "key ceremony")
    choice = world.router.plan(BOTH, POLICY, RouteRequest())
    assert [p.provider for p in choice.order] == ["b"]
    assert choice.rejected[0].text == "disabled by hand: key ceremony"
    assert world.router.begin(PREFERRED_A) is None
    world.router.enable("a")
    assert world.router.plan(BOTH, POLICY, RouteRequest()).order[0].provider == "a"


def test_retries_are_rationed() -> None:
    """Beyond the burst, retries at a provider wait; the plan says for how long."""
    world = World()
    for _ in range(10):
        call = world.router.started(PREFERRED_A, retry=True)
        assert call is not None
        world.router.finished(call, OK)
    assert world.router.started(PREFERRED_A, retry=True) is None
    again = RouteRequest(retrying=frozenset("a"))
    choice = world.router.plan(BOTH[:1], POLICY, again)
    assert choice.rejected[0].reason == "retry-budget"
    assert choice.retry_in_ms == 1_001
    world.clock.advance(1_001)
    assert world.router.plan(BOTH[:1], POLICY, again).order


def test_nothing_grows_without_bound() -> None:
    """Changes nobody drains are dropped and counted; providers are bounded."""
    world = World(ProviderConfig(breaker=BreakerConfig(open_max_ms=1_000)))
    world.dead.update("ab")
    for _ in range(MAX_CHANGES):
        world.request()
        world.clock.advance(1_000)
    assert len(world.router.changes()) == MAX_CHANGES
    assert world.router.dropped_changes > 0
    full = Router(world.clock, {f"p{i}": ProviderConfig() for i in range(MAX_PROVIDERS)})
    with pytest.raises(Refused, match="too-many-providers"):
        full.deadline_ms("one more")


def test_snapshot_is_json() -> None:
    """The status page's record encodes as it is."""
    world = World()
    world.request()
    assert b'"provider":"a"' in msgspec.json.encode(world.router.snapshot())
