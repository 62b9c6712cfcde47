"""The door: limits, measured drain, tenants' rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.backpressure import MAX_TENANTS, DrainRate, Gate, GateConfig
from outlast.core.clock import ManualClock
from outlast.core.errors import Unavailable


def refusal(gate: Gate, backlog: int, tenant: str = "") -> Unavailable:
    """The refusal that admitting now leads to."""
    with pytest.raises(Unavailable) as caught:
        gate.admit(backlog, tenant)
    return caught.value


def drained_gate(per_s: int, config: GateConfig) -> tuple[Gate, ManualClock]:
    """A gate behind which ``per_s`` jobs have been finished every second for a while."""
    clock = ManualClock()
    gate = Gate(config, clock)
    for _ in range(600):
        clock.advance(100)
        gate.completed(per_s // 10)
    return gate, clock


def test_retry_after_comes_from_the_measured_drain() -> None:
    """1000 over the limit at 100 a second: come back in ten or eleven seconds."""
    gate, _ = drained_gate(100, GateConfig(max_backlog=5_000))
    gate.admit(4_999)
    error = refusal(gate, 6_000)
    assert error.code == "overloaded"
    assert error.retry_after_s is not None
    assert 10 <= error.retry_after_s <= 11


def test_retry_after_is_bounded_both_ways() -> None:
    """No drain at all: a minute. A fast drain: a second."""
    still = Gate(GateConfig(max_backlog=10), ManualClock())
    assert refusal(still, 11).retry_after_s == 60
    fast, _ = drained_gate(10_000, GateConfig(max_backlog=10))
    assert refusal(fast, 11).retry_after_s == 1


def test_a_drain_that_stops_is_noticed() -> None:
    """Ten half-lives after the last completion, the rate is a thousandth."""
    gate, clock = drained_gate(100, GateConfig())
    assert gate.drain_per_s() == pytest.approx(100, rel=0.05)
    clock.advance(50_000)
    assert gate.drain_per_s() == pytest.approx(0.1, rel=0.1)


def test_outstanding_requests_are_bounded() -> None:
    """The door holds at its limit and opens when somebody leaves."""
    gate = Gate(GateConfig(max_outstanding=2), ManualClock())
    gate.admit(0)
    gate.admit(0)
    assert refusal(gate, 0).code == "overloaded"
    gate.leave()
    gate.admit(0)


def test_one_tenant_does_not_use_up_anothers_rate() -> None:
    """Ten a second each: the eleventh waits, the neighbour does not."""
    clock = ManualClock()
    gate = Gate(GateConfig(tenant_per_s=10, tenant_burst=10), clock)
    for _ in range(10):
        gate.admit(0, "loud")
    error = refusal(gate, 0, "loud")
    assert (error.code, error.retry_after_s, error.scope) == ("rate-limited", 1, "tenant")
    gate.admit(0, "quiet")
    clock.advance(100)
    gate.admit(0, "loud")


def test_a_refusal_takes_nothing() -> None:
    """Turned away by its rate, a request does not count as inside."""
    gate = Gate(GateConfig(tenant_per_s=1, tenant_burst=1), ManualClock())
    gate.admit(0, "t")
    refusal(gate, 0, "t")
    assert gate.outstanding == 1


def test_tenants_remembered_are_bounded() -> None:
    """Made-up tenants do not fill the memory."""
    gate = Gate(GateConfig(tenant_per_s=1, max_outstanding=10**9), ManualClock())
    for i in range(MAX_TENANTS + 10):
        gate.admit(0, f"t{i}")
    assert len(gate._tenants) == MAX_TENANTS


@given(st.lists(st.integers(0, 400), min_size=1, max_size=200), st.floats(0.5, 20))
def test_no_timing_beats_the_rate(waits_ms: list[int], per_s: float) -> None:
    """Admissions never exceed burst + rate x time."""
    clock = ManualClock()
    gate = Gate(GateConfig(tenant_per_s=per_s, tenant_burst=5), clock)
    admitted = 0
    for wait_ms in waits_ms:
        clock.advance(wait_ms)
        try:
            gate.admit(0, "t")
        except Unavailable:
            continue
        admitted += 1
        assert admitted <= 5 + per_s * clock.monotonic_s() + 1e-6


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 50)), max_size=100))
def test_the_rate_is_never_negative_nor_above_the_peak(steps: list[tuple[float, int]]) -> None:
    """Any history of completions gives a rate between nothing and the busiest slot."""
    rate, now_s, total = DrainRate(5.0, 0.0), 0.0, 0
    for wait_s, count in steps:
        now_s += wait_s
        rate.completed(count, now_s)
        total += count
        assert 0 <= rate.per_s(now_s) <= total / 0.05
