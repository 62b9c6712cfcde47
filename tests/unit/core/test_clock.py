"""Time: never backwards here, ordered across sites, bounded in how far others may drag it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.clock import (
    MAX_DRIFT_MS,
    HybridClock,
    ManualClock,
    SystemClock,
    hlc_ms,
    hlc_text,
    iso,
    to_datetime,
)
from outlast.core.errors import Refused

MS = 1_800_000_000_000


@given(st.lists(st.integers(0, 2**60), min_size=1))
def test_wall_time_never_steps_back(walls_ns: list[int]) -> None:
    """Whatever the machine's clock does, ours does not fall; how far behind it is can be asked."""
    feed = iter([ns for wall_ns in walls_ns for ns in (wall_ns, wall_ns)])
    clock, last = SystemClock(lambda: next(feed), lambda: 0), 0
    for wall_ns in walls_ns:
        now_ms = clock.now_ms()
        assert now_ms == max(last, wall_ns // 1_000_000)
        assert clock.stepped_back_ms() == now_ms - wall_ns // 1_000_000
        last = now_ms


def test_time_goes_on_while_the_wall_clock_is_behind() -> None:
    """Set back by an hour, ours goes on at half speed, so that nothing waits for ever, until both agree."""
    at_s, offset_s = [1_000], [0]
    clock = SystemClock(
        lambda: (at_s[0] + offset_s[0]) * 1_000_000_000, lambda: at_s[0] * 1_000_000_000
    )
    before_ms = clock.now_ms()
    offset_s[0] = -3_600
    assert clock.now_ms() == before_ms
    at_s[0] += 600
    assert clock.now_ms() == before_ms + 300_000
    assert clock.stepped_back_ms() == 3_300_000
    at_s[0] += 6_600
    assert clock.now_ms() == before_ms + 3_600_000
    assert clock.stepped_back_ms() == 0
    at_s[0] += 10
    assert clock.now_ms() == before_ms + 3_610_000
    offset_s[0] = -3_700
    assert clock.now_ms() == before_ms + 3_610_000


def test_time_is_never_before_what_is_on_record() -> None:
    """A process started after the clock was set back goes on from its log's last entry."""
    clock = SystemClock(lambda: 5_000_000_000, lambda: 0)
    clock.resume(7_000)
    assert clock.now_ms() == 7_000
    clock.resume(6_000)
    assert clock.now_ms() == 7_000


def test_system_clock_runs() -> None:
    """The machine's own clocks, both of them."""
    clock = SystemClock()
    assert clock.now_ms() > 1_700_000_000_000
    first = clock.monotonic_s()
    assert clock.monotonic_s() >= first


def test_manual_clock_moves_by_hand() -> None:
    """Wall and monotonic time move together."""
    clock = ManualClock(MS)
    clock.advance(1_500)
    assert (clock.now_ms(), clock.monotonic_s()) == (MS + 1_500, 1.5)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-MAX_DRIFT_MS, MAX_DRIFT_MS))))
def test_timestamps_grow_strictly(steps: list[tuple[int, int]]) -> None:
    """Also within one millisecond, and also past whatever another site has shown us."""
    wall, last = ManualClock(MS), 0
    clock = HybridClock(wall)
    for advance_ms, ahead_ms in steps:
        wall.advance(advance_ms)
        remote = (wall.now_ms() + ahead_ms) << 16
        clock.observe(remote)
        now = clock.tick()
        assert now > max(last, remote)
        last = now


def test_remote_clock_far_ahead_is_refused() -> None:
    """A site with a wrong clock does not drag ours along."""
    clock = HybridClock(ManualClock(MS))
    before = clock.tick()
    with pytest.raises(Refused, match="clock-drift"):
        clock.observe((MS + MAX_DRIFT_MS + 1) << 16)
    assert hlc_ms(clock.tick()) == hlc_ms(before) == MS


def test_own_log_is_always_gone_on_from() -> None:
    """A clock set back by an hour does not stop a site: it counts on from its own log."""
    clock = HybridClock(ManualClock(MS))
    own = (MS + 3_600_000) << 16
    clock.resume(own)
    assert clock.tick() == own + 1
    clock.resume(5)
    assert clock.tick() == own + 2


def test_written_forms() -> None:
    """Text order is time order; times of day are UTC with milliseconds."""
    assert hlc_text(0xABC) == "0000000000000abc"
    assert hlc_text(1 << 16) > hlc_text(0xFFFF)
    assert iso(1_234) == "1970-01-01T00:00:01.234Z"
    assert to_datetime(1_234).timestamp() == 1.234
