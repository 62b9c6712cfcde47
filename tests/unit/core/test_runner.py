"""The job runner: leases, heartbeats, retries, burial, zombies; on a store of dictionaries.

Leases run on a clock that only the test moves, so a busy machine expires none; sleeps are real and short.
"""

from __future__ import annotations

import asyncio
import random  # noqa: TID251 - seeded: the runner's jitter, repeatable
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Claim, Committer, Finish, Planner, Settle
from outlast.core.errors import Conflict, Refused, Unavailable, Unknown
from outlast.core.store.port import JobRow, StreamKey
from outlast.core.work import runner as runner_module
from outlast.core.work.job import KIND as JOB_HISTORY
from outlast.core.work.runner import Handler, Job, Kind, Limits, Runner
from outlast.testing.audit import audit
from outlast.testing.ledger import JOB, Deposit, ledger_deciders
from outlast.testing.store import MemoryDisk, MemoryStore
from outlast.testing.suites.store import deposit, work

pytestmark = pytest.mark.anyio

DECIDERS = ledger_deciders()
SLOW_BEAT = Limits(lease_ms=60_000)
"""The first heartbeat comes after 20 real seconds: never, in these tests."""
FAST_BEAT = Limits(lease_ms=60)
"""A heartbeat every 20 real milliseconds."""
POLICY = BackoffPolicy(initial_ms=200, factor=2.0, max_ms=60_000, attempts=3)
OTHER = "ledger.other"
PATIENCE_S = 10.0


class Bench:
    """A store, a committer, and as many runners as a test wants."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(MemoryDisk())
        planner = Planner(DECIDERS, HybridClock(self.clock), "site-a")
        self.committer = Committer(self.store, planner, self.clock)
        self.runners: list[Runner] = []

    async def enqueue(self, jobs: int = 1, kind: str = JOB) -> None:
        """Jobs 1 .. ``jobs``, due at once."""
        await self.committer.submit(work("a", deposit(jobs=jobs, kind=kind)))

    @asynccontextmanager
    async def running(
        self, handler: Handler, limits: Limits = SLOW_BEAT, kinds: tuple[str, ...] = (JOB,)
    ) -> AsyncIterator[Runner]:
        """A runner at work; cancelled at the end."""
        runner = Runner(
            self.committer,
            self.store,
            self.clock,
            {kind: Kind(handler, POLICY) for kind in kinds},
            worker=f"worker-{len(self.runners)}",
            rng=random.Random(1),
            limits=limits,
        )
        self.runners.append(runner)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), "the runner ended by itself"

    async def job(self, job_id: int = 1) -> JobRow:
        """A job as it stands."""
        row = await self.store.job(job_id)
        assert row is not None
        return row

    async def until(self, condition: Callable[[JobRow], bool], job_id: int = 1) -> JobRow:
        """Wait until the job is as wished."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition(await self.job(job_id)):
                await asyncio.sleep(0.002)
        return await self.job(job_id)

    async def until_state(self, state: str, job_id: int = 1) -> JobRow:
        """Wait until the job is in a state."""
        return await self.until(lambda job: job.state == state, job_id)

    def pass_time(self, ms: int) -> None:
        """Move the clock and let every runner look."""
        self.clock.advance(ms)
        for runner in self.runners:
            runner.wake()


class Scripted:
    """A handler that does one thing per call: raises, waits for ``go``, or returns."""

    def __init__(self, *steps: Exception | str) -> None:
        self.steps = list(steps)
        self.jobs: list[Job] = []
        self.go = asyncio.Event()
        self.started = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, job: Job) -> None:
        step = self.steps[len(self.jobs)] if len(self.jobs) < len(self.steps) else "return"
        self.jobs.append(job)
        self.started.set()
        if isinstance(step, Exception):
            raise step
        if step == "wait":
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


# -- ends ---------------------------------------------------------------------------------------------


async def test_job_is_done_when_its_handler_returns() -> None:
    """The runner ends what the handler left open, under the lease it was claimed with."""
    bench, handler = Bench(), Scripted()
    await bench.enqueue()
    async with bench.running(handler) as runner:
        job = await bench.until_state("done")
        await until(lambda: runner.done == 1)
    assert (job.attempts, job.lease, job.worker) == (1, 1, "worker-0")
    (ran,) = handler.jobs
    assert (ran.tenant, ran.stream_id, ran.row.kind) == ("t1", "a", JOB)


async def test_job_can_end_with_its_last_command() -> None:
    """With ``job.done()`` in a submission, event and end are one transaction, and nothing is settled again."""
    bench = Bench()
    flushes: list[int] = []

    async def handler(job: Job) -> None:
        before = bench.store.flushes
        await bench.committer.submit(work("b", finish=job.done()))
        flushes.append(bench.store.flushes - before)

    await bench.enqueue()
    async with bench.running(handler) as runner:
        await bench.until_state("done")
        await until(lambda: runner.running == 0)
        assert runner.done == 1
    assert flushes == [1]
    assert len((await audit(bench.store, DECIDERS)).entries) == 2


async def test_no_more_jobs_at_once_than_allowed() -> None:
    """Concurrency is bounded; the rest waits unclaimed, for other nodes to take."""
    bench, handler = Bench(), Scripted("wait", "wait", "wait", "wait", "wait")
    await bench.enqueue(5)
    async with bench.running(handler, Limits(concurrency=2, lease_ms=60_000)) as runner:
        await until(lambda: runner.running == 2)
        await asyncio.sleep(0.02)
        counts = await bench.store.job_counts()
        assert (counts.leased, counts.ready) == (2, 3)
        handler.go.set()
        for job_id in range(1, 6):
            await bench.until_state("done", job_id)
        await until(lambda: runner.done == 5)
        bench.clock.advance(1_000)
        assert runner.drain_per_s() == pytest.approx(5.0)


# -- retries and burial -------------------------------------------------------------------------------


async def test_failed_job_is_retried_after_a_pause() -> None:
    """Unavailable, Unknown and bugs are retried with growing, jittered pauses; the reason is kept."""
    bench = Bench()
    handler = Scripted(Unavailable("down", "not now"), ValueError("a bug"))
    await bench.enqueue()
    async with bench.running(handler):
        job = await bench.until(lambda job: job.state == "ready" and job.attempts == 1)
        assert 0 <= job.run_at_ms - bench.clock.now_ms() < 200
        assert "down: not now" in job.error
        bench.pass_time(200)
        job = await bench.until(lambda job: job.state == "ready" and job.attempts == 2)
        assert 0 <= job.run_at_ms - bench.clock.now_ms() < 400
        assert "ValueError: a bug" in job.error
        bench.pass_time(400)
        job = await bench.until_state("done")
        assert (job.attempts, job.lease, len(handler.jobs)) == (3, 3, 3)


async def test_retry_after_is_honoured() -> None:
    """No sooner than the provider asked."""
    bench = Bench()
    await bench.enqueue()
    async with bench.running(Scripted(Unavailable("busy", "later", retry_after_s=7.0))):
        job = await bench.until(lambda job: job.state == "ready" and job.attempts == 1)
        assert 7_000 <= job.run_at_ms - bench.clock.now_ms() < 7_200


@pytest.mark.parametrize(
    ("error", "attempts"),
    [(Refused("wrong", "never"), 1), (Unavailable("down", "not now"), 3)],
    ids=["hopeless", "tried-enough"],
)
async def test_dead_job_is_on_record(error: Exception, attempts: int) -> None:
    """What cannot help is buried at once, what was tried often enough then: an event with the reason."""
    bench = Bench()
    await bench.enqueue()
    async with bench.running(Scripted(error, error, error)):
        for _ in range(attempts - 1):
            seen = (await bench.until(lambda job: job.state == "ready" and job.attempts > 0)).lease
            bench.pass_time(60_000)
            await bench.until(lambda job, seen=seen: job.lease > seen)  # type: ignore[misc]  # bound
        job = await bench.until_state("dead")
    assert (job.attempts, job.error) == (attempts, f"{type(error).__name__}: {error}")
    row = await bench.store.stream(StreamKey("t1", JOB_HISTORY, "1"))
    assert row is not None
    history = msgspec.json.decode(row.state)
    assert (row.label, history["buried"], history["reason"]) == ("dead", 1, job.error)
    await audit(bench.store, DECIDERS)


async def test_job_that_ends_its_process_is_buried() -> None:
    """Claimed again and again by workers that died of it, a job becomes a dead letter and is not tried once more."""
    bench, handler = Bench(), Scripted()
    await bench.enqueue()
    for _ in range(POLICY.attempts):
        claim = Claim(worker="w", kinds=(JOB,), limit=1, now_ms=bench.clock.now_ms(), ttl_ms=10)
        assert len(await bench.committer.claim(claim)) == 1
        bench.clock.advance(1_000)
    async with bench.running(handler):
        job = await bench.until_state("dead")
    assert handler.jobs == []
    assert job.error.startswith("Refused: job-exhausted")


async def test_dead_job_runs_again_when_replayed() -> None:
    """A person's replay makes it ready with no attempts behind it."""
    bench, handler = Bench(), Scripted(Refused("wrong", "never"))
    await bench.enqueue()
    async with bench.running(handler) as runner:
        job = await bench.until_state("dead")
        replay = Finish(job=1, lease=job.lease, expect="dead", state="ready")
        await bench.committer.settle(Settle("t1", replay))
        runner.wake()
        job = await bench.until_state("done")
    assert (job.attempts, job.lease) == (1, 2)


# -- which jobs ---------------------------------------------------------------------------------------


async def test_paused_kind_is_left_alone() -> None:
    """A paused kind is not claimed, others are; resumed, it is."""
    bench, handler = Bench(), Scripted()
    await bench.enqueue()
    await bench.enqueue(kind=OTHER)
    runner: Runner
    async with bench.running(handler, kinds=(JOB, OTHER)) as runner:
        await bench.until_state("done", 2)
        await bench.until_state("done", 1)
        runner.pause(JOB)
        assert runner.paused == {JOB}
        await bench.enqueue()
        await bench.enqueue(kind=OTHER)
        runner.wake()
        await bench.until_state("done", 4)
        assert (await bench.job(3)).state == "ready"
        runner.resume(JOB)
        await bench.until_state("done", 3)


async def test_idle_runner_is_idle() -> None:
    """A due job that is not ours to claim does not keep us asking the disk every 2 ms."""
    bench = Bench()
    await bench.enqueue(kind=OTHER)
    async with bench.running(Scripted()):
        await asyncio.sleep(0.05)
        before = bench.store.flushes
        await asyncio.sleep(0.3)
        assert bench.store.flushes - before <= 1


async def test_job_that_comes_due_is_noticed() -> None:
    """A runner that sleeps wakes for the next due job by itself."""
    bench = Bench()
    soon = deposit(jobs=1, run_at_ms=bench.clock.now_ms() + 30)
    await bench.committer.submit(work("a", soon))
    async with bench.running(Scripted()):
        await asyncio.sleep(0.01)
        bench.clock.advance(30)
        async with asyncio.timeout(runner_module.IDLE_POLL_S / 2):
            await bench.until_state("done")


# -- leases -------------------------------------------------------------------------------------------


async def test_heartbeat_keeps_the_lease() -> None:
    """While its handler runs, a job's lease moves on with the clock, and nobody else gets it."""
    bench, handler = Bench(), Scripted("wait")
    await bench.enqueue()
    async with bench.running(handler, FAST_BEAT):
        await handler.started.wait()
        for _ in range(3):
            bench.clock.advance(40)
            until_ms = bench.clock.now_ms() + FAST_BEAT.lease_ms
            await bench.until(lambda job, ms=until_ms: job.lease_until_ms >= ms)  # type: ignore[misc]  # bound
        handler.go.set()
        job = await bench.until_state("done")
    assert (job.lease, job.attempts) == (1, 1)


async def test_zombies_result_is_refused() -> None:
    """A worker that stalled past its lease finds its job taken over; what it brings late is not written."""
    bench = Bench()
    stalled, go = asyncio.Event(), asyncio.Event()
    fenced: list[Conflict] = []

    async def zombie(job: Job) -> None:
        stalled.set()
        await go.wait()
        try:
            await bench.committer.submit(work("a", deposit(1_000), finish=job.done()))
        except Conflict as error:
            fenced.append(error)
            raise

    async def healthy(job: Job) -> None:
        await bench.committer.submit(work("a", deposit(1), finish=job.done()))

    await bench.enqueue()
    async with bench.running(zombie):
        await stalled.wait()
        bench.clock.advance(SLOW_BEAT.lease_ms)
        bench.runners[0].pause(JOB)
        async with bench.running(healthy):
            job = await bench.until_state("done")
        go.set()
        await until(lambda: bool(fenced))
        await until(lambda: bench.runners[0].running == 0)
    assert (job.lease, job.worker) == (2, "worker-1")
    assert fenced[0].code == "job-fenced"
    assert await bench.job() == job
    amounts = [
        msgspec.json.decode(e.data)["amount"] for e in (await audit(bench.store, DECIDERS)).entries
    ]
    assert amounts == [1, 1]


async def test_worker_may_rescue_its_own_stalled_job() -> None:
    """A process that was stopped for longer than its lease claims its job again: the old run is a zombie in
    the same process, and both are kept apart."""
    bench, handler = Bench(), Scripted("wait", "wait")
    await bench.enqueue()
    async with bench.running(handler, FAST_BEAT) as runner:
        await handler.started.wait()
        stolen = await bench.committer.claim(
            Claim(
                worker="thief",
                kinds=(JOB,),
                limit=1,
                now_ms=bench.clock.now_ms() + 10 * FAST_BEAT.lease_ms,
                ttl_ms=-10 * FAST_BEAT.lease_ms,
            )
        )
        assert len(stolen) == 1
        runner.wake()
        await until(lambda: len(handler.jobs) == 2)
        await until(lambda: handler.cancelled == 1)
        assert runner.running == 1
        bench.clock.advance(40)
        until_ms = bench.clock.now_ms() + FAST_BEAT.lease_ms
        await bench.until(lambda job: job.lease_until_ms >= until_ms)
        handler.go.set()
        job = await bench.until_state("done")
    assert [job.row.lease for job in handler.jobs] == [1, 3]
    assert (job.lease, runner.done) == (3, 1)


async def test_handler_is_cancelled_when_its_lease_is_lost() -> None:
    """A heartbeat that is refused ends the handler: whatever it would do now is lost work."""
    bench, handler = Bench(), Scripted("wait")
    await bench.enqueue()
    async with bench.running(handler, FAST_BEAT) as runner:
        await handler.started.wait()
        runner.pause(JOB)
        late_ms = bench.clock.now_ms() + 10_000
        await bench.committer.claim(
            Claim(worker="other", kinds=(JOB,), limit=1, now_ms=late_ms, ttl_ms=60_000)
        )
        await until(lambda: handler.cancelled == 1)
        await until(lambda: runner.running == 0)
    assert (await bench.job()).worker == "other"


async def test_stopped_runner_leaves_its_jobs_to_be_rescued() -> None:
    """Cancelled, a runner cancels its handlers; the job stays leased and is claimed when that runs out."""
    bench, first, second = Bench(), Scripted("wait"), Scripted()
    await bench.enqueue()
    async with bench.running(first):
        await first.started.wait()
    assert first.cancelled == 1
    assert (await bench.job()).state == "leased"
    async with bench.running(second):
        await asyncio.sleep(0.02)
        assert second.jobs == []
        bench.pass_time(SLOW_BEAT.lease_ms)
        job = await bench.until_state("done")
    assert (job.lease, job.attempts, job.worker) == (2, 2, "worker-1")


# -- a store that fails -------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses after failed claims are short."""
    monkeypatch.setattr(runner_module, "CLAIM_RETRY_S", 0.005)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", ["fail-before", "fail-after", "full"])
async def test_claims_go_on_after_the_store_failed(fault: str) -> None:
    """A claim that failed is repeated; one that was written unseen is rescued like any lost lease."""
    bench = Bench()
    await bench.enqueue()
    bench.store.plan(fault, fault)  # type: ignore[arg-type]  # one of FlushFault
    async with bench.running(Scripted()):
        await until(lambda: not bench.store._plan)
        bench.pass_time(SLOW_BEAT.lease_ms)
        await bench.until_state("done")


@pytest.mark.parametrize("error", [Unavailable("x", "y"), Unknown("x", "y"), Refused("x", "y")])
async def test_runner_survives_what_it_cannot_write(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The outcome of a job could not be written, for whatever reason: nothing is lost, the lease runs out."""
    bench, handler = Bench(), Scripted(Unavailable("down", "not now"))
    await bench.enqueue()
    settle, failures = bench.committer.settle, [error]

    async def failing(wish: Settle) -> None:
        if failures:
            raise failures.pop()
        await settle(wish)

    bench.committer.settle = failing  # type: ignore[method-assign, assignment]  # a committer that fails once
    async with bench.running(handler) as runner:
        await until(lambda: not failures)
        await until(lambda: runner.running == 0)
        assert (await bench.job()).state == "leased"
        assert "outcome not written" in caplog.text
        bench.pass_time(SLOW_BEAT.lease_ms)
        await bench.until_state("done")


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("x", "y"),
        Unknown("x", "y"),
        Refused("x", "y"),
        Conflict("storage-conflict", "another flush was faster: the lease is still ours"),
    ],
)
async def test_heartbeats_go_on_after_one_failed(error: Exception) -> None:
    """A heartbeat that could not be written is followed by the next: the handler runs on, its lease is kept."""
    bench, handler = Bench(), Scripted("wait")
    await bench.enqueue()
    settle, failures = bench.committer.settle, [error]

    async def failing(wish: Settle) -> None:
        if failures:
            raise failures.pop()
        await settle(wish)

    bench.committer.settle = failing  # type: ignore[method-assign, assignment]  # a committer that fails once
    async with bench.running(handler, FAST_BEAT):
        await until(lambda: not failures)
        bench.clock.advance(20)
        until_ms = bench.clock.now_ms() + FAST_BEAT.lease_ms
        await bench.until(lambda job: job.lease_until_ms >= until_ms)
        handler.go.set()
        assert (await bench.until_state("done")).lease == 1


async def test_runner_survives_a_read_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not knowing when the next job is due, it looks again soon."""
    monkeypatch.setattr(runner_module, "IDLE_POLL_S", 0.01)
    bench = Bench()
    asked: list[object] = []

    async def failing(kinds: object) -> int | None:
        asked.append(kinds)
        raise Unavailable("storage-error", "not now")

    monkeypatch.setattr(bench.store, "next_due_ms", failing)
    async with bench.running(Scripted()):
        await until(lambda: len(asked) > 1)
        await bench.enqueue()
        await bench.until_state("done")


async def test_job_without_its_own_end_is_not_ended_twice() -> None:
    """A submission refused after ``done()`` leaves the job to be retried, not lost."""
    bench = Bench()
    tries: list[int] = []

    async def handler(job: Job) -> None:
        tries.append(job.row.lease)
        amount = Deposit(at_ms=0, amount=1, jobs=1, job_bytes=20_000 if len(tries) == 1 else 0)
        try:
            await bench.committer.submit(work("b", amount, finish=job.done()))
        except Refused as error:
            raise Unavailable("again", "as if it could help") from error

    await bench.enqueue()
    async with bench.running(handler):
        await bench.until(lambda job: job.state == "ready" and job.attempts == 1)
        bench.pass_time(200)
        await bench.until_state("done")
    assert tries[:2] == [1, 2]
