"""Runs jobs: claims what is due, heartbeats what it holds, retries, buries.

At least once: a job whose worker dies is claimed again when its lease runs out, by the same claim that finds new
work; rescue is not a job that could itself get stuck. A worker's name is fresh for every process start, and each
claim has a larger lease number, so a worker that comes back from the dead finds its results refused.

A handler is ``async def handler(job: Job) -> None``. It may end its job together with its last command
(``job.done()`` as the submission's ``finish``); if it just returns, the runner ends the job.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import Clock
from outlast.core.commit import Claim, Committer, Finish, Settle, Submission
from outlast.core.errors import Conflict, OutlastError, Refused
from outlast.core.ids import Random
from outlast.core.store.port import JobRow, Store
from outlast.core.telemetry import Tracer, note_failure, traced
from outlast.core.work.job import KIND, BuryJob
from outlast.core.work.verdict import judge

log = logging.getLogger("outlast.work")

IDLE_POLL_S = 1.0
"""Longest sleep when nothing is known to come due: bounds how late another node's job is noticed."""
BUSY_WAIT_S = 0.01
"""Wait for a wake-up before the store is asked what comes due next: a busy worker is woken all the time."""
CLAIM_RETRY_S = 0.5
"""Pause after a claim failed (disk full, for example)."""
DRAIN_WINDOW = 256
"""Completions over which the drain rate is measured."""


class Job:
    """A leased job, as its handler sees it."""

    def __init__(self, row: JobRow) -> None:
        self.row = row
        self.finished = False

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.row.tenant

    @property
    def stream_id(self) -> str:
        """The id of the stream whose event made the job."""
        return self.row.stream.split("/", 1)[1]

    def done(self) -> Finish:
        """Ends the job; hand it to the submission that is the job's result."""
        self.finished = True
        return Finish(job=self.row.id, lease=self.row.lease)


Handler = Callable[[Job], Awaitable[None]]


def _always() -> bool:
    return True


class Kind(msgspec.Struct, frozen=True):
    """How one kind of job is run. While ``open()`` is false none is started: what they need is not there."""

    handler: Handler
    backoff: BackoffPolicy
    open: Callable[[], bool] = _always


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """``concurrency`` jobs at once; a lease lasts ``lease_ms`` and is renewed at a third of that."""

    concurrency: int = 64
    lease_ms: int = 15_000


class Runner:
    """A node's worker."""

    def __init__(
        self,
        committer: Committer,
        store: Store,
        clock: Clock,
        kinds: Mapping[str, Kind],
        *,
        worker: str,
        rng: Random,
        limits: Limits | None = None,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        """``held()``: nothing may be started now; what runs goes on."""
        self._committer = committer
        self._store = store
        self._clock = clock
        self._kinds = dict(kinds)
        self._worker = worker
        self._rng = rng
        self._limits = limits or Limits()
        self._held = held
        self._paused: set[str] = set()
        # By (job, lease): a process that was stopped for longer than its leases may rescue its own jobs.
        self._running: dict[tuple[int, int], tuple[Job, asyncio.Task[None]]] = {}
        self.tracer: Tracer | None = None
        self._wake = asyncio.Event()
        self._full = True
        self._completions: deque[float] = deque(maxlen=DRAIN_WINDOW)
        self.done = 0

    @property
    def running(self) -> int:
        """Jobs being handled now."""
        return len(self._running)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of job that this worker runs."""
        return tuple(sorted(self._kinds))

    @property
    def paused(self) -> frozenset[str]:
        """Kinds of job that are not claimed."""
        return frozenset(self._paused)

    def pause(self, kind: str) -> None:
        """Claim no more jobs of a kind; those running go on."""
        self._paused.add(kind)

    def resume(self, kind: str) -> None:
        """Claim jobs of a kind again."""
        self._paused.discard(kind)
        self.wake()

    def wake(self) -> None:
        """There may be something to claim."""
        self._wake.set()

    def drain_per_s(self) -> float:
        """Completions per second, measured over the last DRAIN_WINDOW; 0.0 before the first two."""
        if len(self._completions) < 2:
            return 0.0
        span = self._clock.monotonic_s() - self._completions[0]
        return len(self._completions) / span if span > 0 else 0.0

    async def run(self) -> None:
        """Work until cancelled; running handlers are then cancelled too, their jobs are left to be rescued."""
        heartbeat = asyncio.create_task(self._heartbeat(), name="work-heartbeat")
        try:
            while True:
                await self._claim_some()
        finally:
            tasks = [heartbeat, *(task for _, task in self._running.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _claimable_kinds(self) -> tuple[str, ...]:
        if self._held():
            return ()
        kinds = self._kinds.items()
        return tuple(sorted(n for n, kind in kinds if n not in self._paused and kind.open()))

    async def _claim_some(self) -> None:
        self._wake.clear()
        room = self._limits.concurrency - len(self._running)
        kinds = self._claimable_kinds()
        claimed: list[JobRow] = []
        if room > 0 and kinds:
            try:
                claimed = await self._committer.claim(
                    Claim(
                        worker=self._worker,
                        kinds=kinds,
                        limit=room,
                        now_ms=self._clock.now_ms(),
                        ttl_ms=self._limits.lease_ms,
                    )
                )
            except OutlastError as error:
                log.warning("cannot claim jobs: %s", error)
                await asyncio.sleep(CLAIM_RETRY_S)
                return
        self._full = len(claimed) == room
        for row in claimed:
            job = Job(row)
            work = self._handle(job)
            if self.tracer is not None:
                span = self.tracer.job(row.kind, row.id, row.attempts, row.trace)
                work = work if span is None else traced(span, work)
            task = asyncio.create_task(work, name=f"job-{row.id}")
            self._running[row.id, row.lease] = (job, task)
        if not claimed:
            await self._sleep(room)

    async def _sleep(self, room: int) -> None:
        if await self._woken(BUSY_WAIT_S):
            return
        timeout = IDLE_POLL_S
        if room > 0:
            due_ms = await self._next_due_ms()
            if due_ms is not None:
                timeout = min(timeout, max(0.002, (due_ms - self._clock.now_ms()) / 1000))
        await self._woken(timeout)

    async def _woken(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        return True

    async def _next_due_ms(self) -> int | None:
        try:
            return await self._store.next_due_ms(self._claimable_kinds())
        except OutlastError as error:
            log.warning("cannot see what is due: %s", error)
            return None

    async def _handle(self, job: Job) -> None:
        kind = self._kinds[job.row.kind]
        try:
            check_attempts(job.row, kind.backoff)
            await kind.handler(job)
            if not job.finished:
                await self._committer.settle(Settle(job.tenant, job.done()))
            self.done += 1
            self._completions.append(self._clock.monotonic_s())
        except Exception as error:
            await self._failed(job, error, kind.backoff)
        finally:
            del self._running[job.row.id, job.row.lease]
            if self._full:  # the last claim took all there was room for: there may be more
                self._wake.set()

    async def _failed(self, job: Job, error: Exception, backoff: BackoffPolicy) -> None:
        if self.tracer is not None:
            note_failure(error)
        if not isinstance(error, OutlastError):
            log.error("job %d (%s) raised", job.row.id, job.row.kind, exc_info=error)
        verdict = judge(job.row, error, backoff, self._clock.now_ms(), self._rng.random())
        finish = verdict.finish
        if finish is None:
            return
        try:
            if finish.state == "dead":
                log.error("job %d (%s) is dead: %s", job.row.id, job.row.kind, verdict.reason)
                await self._committer.submit(
                    burial(job.row, finish, verdict.reason, self._clock.now_ms(), self._worker)
                )
            else:
                await self._committer.settle(Settle(job.tenant, finish))
        except Conflict:
            return  # taken over meanwhile: the new holder decides
        except OutlastError as unwritten:
            # nothing lost: the lease runs out and the job is claimed again
            log.warning("job %d: outcome not written: %s", job.row.id, unwritten)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(self._limits.lease_ms / 3000)
            until = self._clock.now_ms() + self._limits.lease_ms
            beats = [self._beat(job, task, until) for job, task in self._running.values()]
            await asyncio.gather(*beats)

    async def _beat(self, job: Job, task: asyncio.Task[None], until_ms: int) -> None:
        row = job.row
        if job.finished:
            return
        extend = Finish(job=row.id, lease=row.lease, state="leased", lease_until_ms=until_ms)
        try:
            await self._committer.settle(Settle(row.tenant, extend))
        except Conflict as error:
            # any other conflict is one flush's bad luck: the lease is still ours
            if error.code == "job-fenced" and not job.finished:
                task.cancel()  # somebody else holds it: what we would do now is lost work
        except OutlastError as error:
            # one beat of several in a lease; were it not caught, all heartbeats would end here
            log.warning("job %d: heartbeat not written: %s", row.id, error)


def check_attempts(job: JobRow, backoff: BackoffPolicy) -> None:
    """A job that ends its process leaves no exception to judge it by; it is known by coming back too often."""
    if job.attempts > backoff.attempts:
        raise Refused(
            "job-exhausted",
            f"it was started {job.attempts - 1} times and never came to an end",
            hint="It may be ending the process that runs it; look at that before replaying it.",
        )


def burial(job: JobRow, finish: Finish, reason: str, now_ms: int, actor: str) -> Submission:
    """The submission that makes a job a dead letter, on record."""
    return Submission(
        tenant=job.tenant,
        actor=actor,
        kind=KIND,
        stream=str(job.id),
        command=BuryJob(at_ms=now_ms, kind=job.kind, attempts=job.attempts, reason=reason),
        finish=finish,
    )
