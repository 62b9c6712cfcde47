"""What becomes of a job whose handler raised (pure), and the record of what people did about jobs."""

from __future__ import annotations

import math

import pytest
from hypothesis import example
from hypothesis import given as given_any
from hypothesis import strategies as st

from outlast.core.backoff import MAX_RETRY_AFTER_MS, BackoffPolicy
from outlast.core.errors import Conflict, Corrupt, Refused, Unavailable, Unknown
from outlast.core.store.port import JobRow
from outlast.core.work.job import BuryJob, JobBuried, JobDecider, JobMoved, MoveJob
from outlast.core.work.verdict import MAX_ERROR_CHARS, judge
from outlast.testing.given import given

NOW_MS = 1_800_000_000_000
POLICY = BackoffPolicy(initial_ms=200, factor=2.0, max_ms=30_000, attempts=6)


def job(attempts: int = 1) -> JobRow:
    """A job under its lease number 4, claimed ``attempts`` times."""
    return JobRow(
        9, "t", "k", "s/1", b"{}", "leased", 0, 4, "w", NOW_MS + 1, attempts, 0, NOW_MS, ""
    )


@pytest.mark.parametrize("error", [Unavailable("x", "y"), Unknown("x", "y"), Conflict("x", "y"),
                                   ValueError("bug"), TimeoutError()])  # fmt: skip
def test_what_may_pass_is_retried(error: Exception) -> None:
    """Unavailable, Unknown, lost races and bugs: again, later, under the same lease."""
    verdict = judge(job(), error, POLICY, NOW_MS, 0.5)
    assert verdict.finish is not None
    assert (verdict.finish.state, verdict.finish.job, verdict.finish.lease) == ("ready", 9, 4)
    assert verdict.finish.run_at_ms == NOW_MS + 100
    assert type(error).__name__ in verdict.finish.error


@pytest.mark.parametrize("error", [Refused("x", "y"), Corrupt("x", "y")])
def test_what_cannot_pass_is_buried_at_once(error: Exception) -> None:
    """Refused and Corrupt: a dead letter after the first try."""
    verdict = judge(job(), error, POLICY, NOW_MS, 0.5)
    assert verdict.finish is not None
    assert (verdict.finish.state, verdict.reason) == ("dead", f"{type(error).__name__}: x: y")


def test_enough_is_enough() -> None:
    """After the policy's number of tries the job is buried."""
    states = [
        judge(job(attempts), Unavailable("x", "y"), POLICY, NOW_MS, 0.0).finish.state  # type: ignore[union-attr]  # not fenced
        for attempts in range(1, 9)
    ]
    assert states == ["ready"] * 5 + ["dead"] * 3


def test_lost_lease_is_nobodys_business() -> None:
    """Fenced: the new holder decides."""
    assert judge(job(), Conflict("job-fenced", "x"), POLICY, NOW_MS, 0.5).finish is None


@given_any(
    attempts=st.integers(1, 5),
    unit=st.floats(0, 1, exclude_max=True),
    retry_after_s=st.none() | st.floats(allow_nan=True, allow_infinity=True),
)
@example(attempts=1, unit=0.0, retry_after_s=math.inf)
@example(attempts=1, unit=0.0, retry_after_s=math.nan)
def test_pauses_are_bounded(attempts: int, unit: float, retry_after_s: float | None) -> None:
    """Whatever a provider asks for, the next try is neither in the past nor beyond the belief in Retry-After."""
    error = Unavailable("x", "y", retry_after_s=retry_after_s)
    verdict = judge(job(attempts), error, POLICY, NOW_MS, unit)
    assert verdict.finish is not None
    wait_ms = verdict.finish.run_at_ms - NOW_MS
    assert 0 <= wait_ms <= MAX_RETRY_AFTER_MS + POLICY.max_ms
    if retry_after_s is not None and math.isfinite(retry_after_s):
        assert wait_ms >= min(int(retry_after_s * 1000), MAX_RETRY_AFTER_MS)


def test_reason_is_cut() -> None:
    """A provider's novel does not fill the job table."""
    verdict = judge(job(), Refused("x", "y" * 10_000), POLICY, NOW_MS, 0.5)
    assert len(verdict.reason) == MAX_ERROR_CHARS


BURIED = JobBuried(kind="k", attempts=6, reason="down")


def test_burial_is_on_record() -> None:
    """A dead letter is an event, each time."""
    bury = BuryJob(at_ms=1, kind="k", attempts=6, reason="down")
    state = given(JobDecider()).when(bury).then(BURIED)
    assert (state.label, state.buried, state.reason) == ("dead", 1, "down")
    assert given(JobDecider(), BURIED).when(bury).then(BURIED).buried == 2


@pytest.mark.parametrize(
    ("action", "label"), [("replay", "ready"), ("park", "parked"), ("discard", "done")]
)
def test_moves_are_on_record(action: str, label: str) -> None:
    """What a person did, and why."""
    move = MoveJob(at_ms=1, kind="k", action=action, reason="try again")  # type: ignore[arg-type]  # one of three
    moved = JobMoved(kind="k", action=action, reason="try again")  # type: ignore[arg-type]  # one of three
    state = given(JobDecider(), BURIED).when(move).then(moved)
    assert (state.label, state.buried, state.moved, state.reason) == (label, 1, 1, "try again")
