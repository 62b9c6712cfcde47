"""The breaker, rule by rule, and against any sequence of calls hypothesis can think of."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from outlast.core.routing.breaker import Breaker, BreakerConfig, Permit, Purpose, Transition

CONFIG = BreakerConfig(
    consecutive_failures=3,
    min_calls=10,
    slow_call_ms=500,
    stall_ms=1_000,
    open_initial_ms=1_000,
    open_max_ms=8_000,
    reset_after_ms=60_000,
    probes_to_close=2,
)


def call(
    breaker: Breaker, verdict: str, now_ms: int, purpose: Purpose = "call"
) -> Transition | None:
    """One call from leave to verdict."""
    permit = breaker.take(purpose, now_ms)
    assert permit is not None
    return breaker.record(permit, verdict, now_ms)  # type: ignore[arg-type]  # verdicts spelt out in each test


def ejected(now_ms: int = 0, config: BreakerConfig = CONFIG) -> Breaker:
    """A breaker that three failures have opened."""
    breaker = Breaker(config)
    for _ in range(3):
        call(breaker, "failure", now_ms)
    assert breaker.state == "open"
    return breaker


def test_opens_after_three_failures_in_a_row() -> None:
    """The third failure in a row opens it, and says so with reason and end."""
    breaker = Breaker(CONFIG)
    assert call(breaker, "failure", 0) is None
    assert call(breaker, "failure", 1) is None
    change = call(breaker, "failure", 2)
    assert change == Transition("open", "failing", "3 failures in a row", 1_002)
    assert breaker.take("call", 3) is None


def test_a_success_breaks_the_row() -> None:
    """Failures with successes between them do not open it before the rate does."""
    breaker = Breaker(CONFIG)
    for verdict in ("failure", "failure", "success", "failure", "failure", "success"):
        call(breaker, verdict, 0)
    assert breaker.state == "closed"


def test_opens_on_the_rate_of_failures() -> None:
    """Half of at least ten calls failing opens it though no three fail in a row."""
    breaker = Breaker(CONFIG)
    for i in range(9):
        assert call(breaker, "failure" if i % 2 else "success", i) is None
    change = call(breaker, "failure", 10)
    assert change is not None
    assert (change.reason, change.text) == ("failing", "5 of 10 calls failed")


def test_opens_on_slow_calls() -> None:
    """Slow answers open it though none failed."""
    breaker = Breaker(CONFIG)
    for i in range(9):
        call(breaker, "slow", i)
    change = call(breaker, "slow", 10)
    assert change is not None
    assert change.reason == "slow"


def test_forgets_what_left_the_window() -> None:
    """Old failures do not count: by age, and by number."""
    breaker = Breaker(BreakerConfig(window_ms=1_000, window_calls=10, consecutive_failures=99))
    for i in range(4):
        call(breaker, "failure", i)
    call(breaker, "success", 5_000)
    assert breaker.window == (1, 0, 0)
    for i in range(20):
        call(breaker, "success", 5_000 + i)
    assert breaker.window == (10, 0, 0)


def test_throttling_and_neutral_ends_do_not_count() -> None:
    """A plea to slow down and a wrong request say nothing about health."""
    breaker = Breaker(CONFIG)
    for i in range(50):
        call(breaker, "throttled" if i % 2 else "neutral", i)
    assert breaker.state == "closed"
    assert breaker.window == (0, 0, 0)


def test_silence_opens_it_before_timeouts_return() -> None:
    """Three slow unanswered calls, or one for a second, count as failures."""
    breaker = Breaker(CONFIG)
    assert breaker.overdue(2, 700, 700) is None
    change = breaker.overdue(3, 600, 600)
    assert change is not None
    assert change.reason == "stalled"
    lone = Breaker(CONFIG)
    assert lone.overdue(1, 999, 999) is None
    assert lone.overdue(1, 1_000, 1_000) is not None


def test_half_open_bounds_its_probes() -> None:
    """One probe at a time; two successes close it."""
    breaker = ejected()
    assert breaker.advance(999) is None
    change = breaker.advance(1_000)
    assert change is not None
    assert change.state == "half-open"
    first = breaker.take("probe", 1_000)
    assert first is not None
    assert breaker.take("probe", 1_000) is None
    assert breaker.take("call", 1_000) is None
    assert breaker.record(first, "success", 1_001) is None
    done = call(breaker, "success", 1_002, "probe")
    assert done is not None
    assert done.state == "closed"


@pytest.mark.parametrize("verdict", ["failure", "slow"])
def test_a_bad_probe_ejects_for_longer(verdict: str) -> None:
    """A failed or slow probe doubles the ejection, up to the limit."""
    breaker = ejected()
    lengths = [breaker.open_ms]
    for _ in range(5):
        now_ms = breaker.open_until_ms
        breaker.advance(now_ms)
        call(breaker, verdict, now_ms, "probe")
        lengths.append(breaker.open_ms)
    assert lengths == [1_000, 2_000, 4_000, 8_000, 8_000, 8_000]
    assert breaker.ejections == 6


def test_sustained_health_resets_the_ejection() -> None:
    """A minute of health after the last ejection, and the next starts small again; sooner, it grows."""
    for pause_ms, expected in ((59_999, 2_000), (60_000, 1_000)):
        breaker = ejected()
        breaker.advance(1_000)
        for _ in range(2):
            call(breaker, "success", 1_000, "probe")
        for _ in range(3):
            call(breaker, "failure", 1_000 + pause_ms)
        assert breaker.open_ms == expected


def test_a_late_answer_decides_nothing() -> None:
    """A call begun before the ejection that succeeds after it neither closes nor probes."""
    breaker = Breaker(CONFIG)
    late = [breaker.take("call", 0) for _ in range(5)]
    for _ in range(3):
        call(breaker, "failure", 1)
    breaker.advance(1_001)
    for permit in late:
        assert permit is not None
        assert breaker.record(permit, "success", 1_002) is None
    assert breaker.state == "half-open"
    assert breaker.probe_free()


def test_last_resort_calls_are_rationed_and_can_close_it() -> None:
    """Ejected, it is called at most every 250 ms; two successes there close it early."""
    breaker = ejected()
    first = breaker.take("last-resort", 10)
    assert first is not None
    assert breaker.take("last-resort", 259) is None
    breaker.record(first, "success", 20)
    change = call(breaker, "success", 260, "last-resort")
    assert change is not None
    assert change.state == "closed"


def test_an_ejected_but_answering_provider_is_not_rationed() -> None:
    """Ejected for slowness, it may be used as often as needed while nothing else is left; dead, not."""
    breaker = Breaker(CONFIG)
    for i in range(10):
        call(breaker, "slow", i)
    assert breaker.state == "open"
    for _ in range(20):
        call(breaker, "slow", 20, "last-resort")
    call(breaker, "failure", 20, "last-resort")
    assert breaker.take("last-resort", 21) is None


def test_a_failed_last_resort_does_not_lengthen_the_ejection() -> None:
    """Trying because nothing else is left must not punish the provider further."""
    breaker = ejected()
    before = breaker.open_until_ms
    call(breaker, "failure", 10, "last-resort")
    assert (breaker.open_until_ms, breaker.ejections) == (before, 1)


def test_check_first_spares_users_and_puts_on_probation() -> None:
    """With background checks no request probes; closed by checks alone, one failed call ejects again."""
    breaker = ejected(config=BreakerConfig(check_first=True, probes_to_close=1))
    breaker.advance(1_000)
    assert breaker.take("probe", 1_000) is None
    call(breaker, "success", 1_000, "check")
    assert breaker.state == "closed"
    change = call(breaker, "failure", 1_001)
    assert change is not None
    assert change.reason == "relapse"


def test_nonsense_configuration_is_refused() -> None:
    """Zero counts, shrinking ejections and rates beyond 1 do not make a breaker."""
    for wrong in (
        {"min_calls": 0},
        {"open_growth": 0.5},
        {"failure_rate": 1.5},
        {"open_max_ms": 1},
    ):
        with pytest.raises(ValueError, match="breaker"):
            BreakerConfig(**wrong)  # type: ignore[arg-type]  # wrong on purpose


class AnyHistory(RuleBasedStateMachine):
    """Any interleaving of calls, probes, answers late and early, silence and time."""

    def __init__(self) -> None:
        super().__init__()
        self.config = BreakerConfig(
            min_calls=5,
            half_open_in_flight=2,
            open_initial_ms=100,
            open_max_ms=900,
            reset_after_ms=2_000,
        )
        self.breaker = Breaker(self.config)
        self.now_ms = 0
        self.flights: list[Permit] = []
        self.good_probes = 0
        self.closed_since_ms = 0
        self.last_open_ms = 0
        self.last_resorts: list[int] = []

    def note(self, change: Transition | None) -> None:
        """Check every transition as it happens."""
        if change is None:
            return
        if change.state == "closed":
            assert self.good_probes >= self.config.probes_to_close
            self.closed_since_ms = self.now_ms
        if change.state == "open":
            healthy_ms = self.now_ms - self.closed_since_ms
            if healthy_ms < self.config.reset_after_ms:
                assert self.breaker.open_ms >= self.last_open_ms
            assert self.breaker.open_ms <= self.config.open_max_ms
            self.last_open_ms = self.breaker.open_ms
        self.good_probes = 0

    @rule(ms=st.integers(0, 1_500))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self.now_ms += ms
        self.note(self.breaker.advance(self.now_ms))

    @rule(purpose=st.sampled_from(["call", "probe", "check", "last-resort"]))
    def begin(self, purpose: Purpose) -> None:
        """Somebody asks for leave."""
        state = self.breaker.state
        permit = self.breaker.take(purpose, self.now_ms)
        if permit is None:
            return
        assert (purpose == "call") == (state == "closed")
        if purpose == "last-resort" and not self.breaker.limping:
            self.last_resorts.append(self.now_ms)
        self.flights.append(permit)

    @precondition(lambda self: self.flights)
    @rule(
        data=st.data(),
        verdict=st.sampled_from(["success", "success", "slow", "failure", "throttled", "neutral"]),
    )
    def end(self, data: st.DataObject, verdict: str) -> None:
        """Any call under way ends."""
        permit = self.flights.pop(data.draw(st.integers(0, len(self.flights) - 1)))
        current = permit.generation == self.breaker.generation
        if current and permit.purpose != "call":
            if verdict == "success":
                self.good_probes += 1
            elif verdict in ("failure", "slow"):
                self.good_probes = 0
        self.note(self.breaker.record(permit, verdict, self.now_ms))  # type: ignore[arg-type]  # sampled from the literals

    @rule(count=st.integers(0, 4), oldest_ms=st.integers(500, 1_200))
    def silence(self, count: int, oldest_ms: int) -> None:
        """Calls of the present state are found unanswered."""
        self.note(self.breaker.overdue(count, oldest_ms, self.now_ms))

    @invariant()
    def probes_are_bounded(self) -> None:
        """Never more probes of the present state than configured."""
        current = [p for p in self.flights if p.generation == self.breaker.generation]
        probes = [p for p in current if p.purpose in ("probe", "check")]
        assert len(probes) <= self.config.half_open_in_flight

    @invariant()
    def last_resorts_are_rationed(self) -> None:
        """Two calls to an ejected provider are never closer than the gap."""
        gaps = [b - a for a, b in zip(self.last_resorts, self.last_resorts[1:], strict=False)]
        assert all(gap >= self.config.last_resort_gap_ms for gap in gaps)

    @invariant()
    def window_is_bounded_and_consistent(self) -> None:
        """The counts of the window agree with its size."""
        calls, failures, slow = self.breaker.window
        assert 0 <= failures + slow <= calls <= self.config.window_calls


TestAnyHistory = AnyHistory.TestCase
