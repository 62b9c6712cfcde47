"""A record that a wrong clock has dated years ahead."""

from __future__ import annotations

from outlast.core.clock import MAX_RESUME_MS, SystemClock

NOW_MS = 1_800_000_000_000


def clock() -> SystemClock:
    """A clock whose machine is right."""
    return SystemClock(lambda: NOW_MS * 1_000_000, lambda: 0)


def test_a_restart_cures_a_record_from_the_far_future() -> None:
    """Once this machine believed it was years later: at half speed every certificate would be expired for years."""
    cured = clock()
    assert not cured.resume(NOW_MS + 365 * 86_400_000)
    assert cured.now_ms() == NOW_MS


def test_a_clock_set_back_a_little_while_we_were_down_is_held() -> None:
    """What it was made for goes on working."""
    held = clock()
    assert held.resume(NOW_MS + MAX_RESUME_MS)
    assert held.now_ms() == NOW_MS + MAX_RESUME_MS
