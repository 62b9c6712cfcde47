"""What to do with a job whose handler raised: pure, so that the simulator decides exactly as the runner does."""

from __future__ import annotations

import math

import msgspec

from outlast.core.backoff import MAX_RETRY_AFTER_MS, BackoffPolicy, delay_ms
from outlast.core.commit import Finish
from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused
from outlast.core.store.port import JobRow

MAX_ERROR_CHARS = 500
"""Of an error's text kept with a job."""


class Verdict(msgspec.Struct, frozen=True):
    """How a job ends or goes on. ``finish`` None: it is not ours any longer, do nothing."""

    finish: Finish | None
    reason: str


def judge(
    job: JobRow, error: BaseException, policy: BackoffPolicy, now_ms: int, unit_random: float
) -> Verdict:
    """Retry with backoff, bury, or let go.

    Refused and Corrupt are buried at once: repeating cannot help. Everything else is retried until
    ``policy.attempts`` are used up, no sooner than the error's ``retry_after_s``.
    """
    reason = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
    if isinstance(error, Conflict) and error.code == "job-fenced":
        return Verdict(None, reason)
    hopeless = isinstance(error, Refused | Corrupt)
    if hopeless or job.attempts >= policy.attempts:
        return Verdict(Finish(job=job.id, lease=job.lease, state="dead", error=reason), reason)
    retry_after_s = error.retry_after_s if isinstance(error, OutlastError) else None
    wait_ms = delay_ms(policy, job.attempts, unit_random, _whole_ms(retry_after_s))
    return Verdict(
        Finish(
            job=job.id, lease=job.lease, state="ready", run_at_ms=now_ms + wait_ms, error=reason
        ),
        reason,
    )


def _whole_ms(seconds: float | None) -> int | None:
    """Seconds as a provider sent them, which may be no number at all."""
    if seconds is None or math.isnan(seconds):
        return None
    return int(max(0.0, min(seconds, MAX_RETRY_AFTER_MS / 1000)) * 1000)
