"""A node of the simulated site: what `Committer` and `Runner` do, on the heap instead of an event loop.

The rules are theirs: work that arrives during a flush is the next flush, each piece is answered for itself, nobody
is answered before the flush is durable, a caller that gave up is left out; jobs are claimed, heartbeaten, retried by
`judge`, buried on record. The plan, the deciders, the handlers and the routers are the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import HybridClock, SystemClock, hlc_ms
from outlast.core.commit import (
    Claim,
    Finish,
    Outcome,
    Planner,
    Receipt,
    Settle,
    Submission,
    Work,
    needs_of,
)
from outlast.core.decider import Deciders
from outlast.core.envelope import Envelope, LocalRootKey, RootKeys
from outlast.core.errors import Conflict, OutlastError, Unavailable
from outlast.core.ids import Ids
from outlast.core.routing.router import Router
from outlast.core.store.port import JobRow, Snapshot, StreamKey, StreamRow, WriteSet
from outlast.core.work.runner import Job, Kind, burial
from outlast.core.work.verdict import judge
from outlast.signing.classes import DocumentClass
from outlast.signing.work import kinds
from outlast.signing.world import Subjects, World
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.engine import (
    START_MS,
    Asked,
    Simulation,
    Sleep,
    Task,
    Within,
    run_now,
)
from outlast.testing.simulation.parts import Provider, Shelf, StampAuthority, prepare
from outlast.testing.simulation.swarm import Swarm
from outlast.testing.store import FlushFault, MemoryStore

IDLE_POLL_MS = 1_000
CLAIM_RETRY_MS = 500
FEW_ATTEMPTS = 3
"""Tries of a job in seeds that want dead letters."""
ENVELOPE = Envelope(RootKeys(LocalRootKey("simulation", bytes(32))))
"""For personal fields; no simulated request has any."""

_CONFLICTS = {
    "job-fenced": "zombie fenced",
    "attempt-superseded": "late answer after its attempt was closed",
}

Answer = Callable[[Any, BaseException | None], None]


class NodeClock(SystemClock):
    """A machine's clock, which may be set forwards and back; each life of a node has its own."""

    def __init__(self, sim: Simulation, skew_ms: float) -> None:
        super().__init__(self._wall_ns_now, self._steady_ns_now)
        self._sim = sim
        self.skew_ms = skew_ms

    def monotonic_s(self) -> float:
        """Runs evenly, whatever the wall clock does."""
        return self._sim.now_ms / 1000

    def _wall_ns_now(self) -> int:
        return int((START_MS + self._sim.now_ms + self.skew_ms) * 1_000_000)

    def _steady_ns_now(self) -> int:
        return int(self._sim.now_ms * 1_000_000)


class Site:
    """What the nodes share, and what they are made from."""

    def __init__(
        self,
        sim: Simulation,
        swarm: Swarm,
        checks: Checks,
        store: MemoryStore,
        shelf: Shelf,
        deciders: Deciders,
        classes: Mapping[str, DocumentClass],
        providers: Mapping[str, Provider],
        authorities: Mapping[str, StampAuthority],
    ) -> None:
        self.sim = sim
        self.swarm = swarm
        self.checks = checks
        self.store = store
        self.shelf = shelf
        self.deciders = deciders
        self.classes = classes
        self.providers = providers
        self.authorities = authorities
        self.healed = False
        self.disk_full = False

    def flush_fault(self) -> FlushFault | None:
        """What the next flush meets."""
        if self.healed:
            return None
        if self.disk_full:
            self.checks.sometimes("storage full")
            return "full"
        if self.sim.chance(self.swarm.flush_fails):
            return "fail-before"
        if self.sim.chance(self.swarm.flush_lies):
            self.checks.sometimes("written but not told")
            return "fail-after"
        return None


class Node:
    """One process of the site, through all of its lives."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.sim = site.sim
        self.name = name
        self.life = 0
        self.stalled_until_ms = 0.0
        self.up = False
        self.skew_ms = 0.0
        self.asking = 0
        """Providers being asked right now."""
        self._tasks: set[Task] = set()

    # -- lives ------------------------------------------------------------------------------------

    def start(self) -> None:
        """A fresh process: nothing is remembered, and its worker's name is new."""
        site, sim = self.site, self.sim
        self.life += 1
        self.up = True
        self.worker = f"{self.name}#{self.life}"
        self.clock = NodeClock(sim, self.skew_ms)
        self.clock.resume(hlc_ms(site.store.disk.head.hlc))
        self.ids = Ids(self.clock, sim.rng.randbytes)
        self.planner = Planner(site.deciders, HybridClock(self.clock), "sim")
        self.signers = Router(self.clock)
        self.stampers = Router(self.clock)
        self.kinds: dict[str, Kind] = {
            name: msgspec.structs.replace(kind, backoff=self._backoff(kind))
            for name, kind in kinds(self._world()).items()
        }
        self.running: dict[tuple[int, int], tuple[Job, Task]] = {}
        self._queue: deque[tuple[Work, Answer]] = deque()
        self._flushing = False
        self._untold = False
        self._sleeper: Callable[[], None] | None = None
        if site.swarm.nodes == 1:
            site.store.disk.release_leases()  # as an embedded store does when it opens
        sim.note(f"{self.worker} starts")
        self.run(self._work())
        self.run(self._heartbeat())

    def _backoff(self, kind: Kind) -> BackoffPolicy:
        few = self.site.swarm.few_attempts
        return msgspec.structs.replace(kind.backoff, attempts=FEW_ATTEMPTS) if few else kind.backoff

    def start_again(self) -> None:
        """Start, unless somebody did already."""
        if not self.up:
            self.start()

    def stall(self, for_ms: float) -> None:
        """Nothing of this process goes on for so long; the rest of the world does."""
        self.stalled_until_ms = max(self.stalled_until_ms, self.sim.now_ms + for_ms)
        if for_ms > self.site.swarm.lease_ms and self.up and self.running:
            self.site.checks.sometimes("node stalled beyond its lease")
        self.sim.note(f"{self.name} stalls for {for_ms:.0f} ms")

    def crash(self) -> None:
        """The process is gone, with everything that was not committed."""
        self.sim.note(f"{self.worker} crashes")
        if self.asking:
            self.site.checks.sometimes("crashed while a provider was asked")
        if self._untold:
            self.site.checks.sometimes("crashed between commit and acknowledgement")
        self.life += 1
        self.up = False
        self.stalled_until_ms = 0.0
        self.asking = 0
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()

    def run(
        self,
        work: Coroutine[Any, Any, Any],
        done: Callable[[BaseException | None], None] | None = None,
    ) -> Task:
        """A task of this life."""

        def ended(_: Any, error: BaseException | None) -> None:
            self._tasks.discard(task)
            if done is not None:
                done(error)
            elif error is not None:
                raise error

        task = self.sim.spawn(work, of=self, done=ended)
        self._tasks.add(task)
        return task

    # -- the commit path --------------------------------------------------------------------------

    def enqueue(self, work: Work, answer: Answer) -> None:
        """Put work into the queue of the next flush."""
        self._queue.append((work, answer))
        if not self._flushing:
            self._flushing = True
            self.sim.after(self.sim.between(0, 1), self._begin, of=self)

    async def commit(self, work: Work) -> Any:
        """Wait for the outcome of a piece of work."""
        return await Asked(lambda answer: self.enqueue(work, answer))

    async def submit(self, work: Submission) -> Receipt:
        """`Committer.submit`."""
        receipt: Receipt = await self.commit(work)
        return receipt

    def _begin(self) -> None:
        batch = list(self._queue)
        self._queue.clear()
        self.sim.after(
            self.sim.between(0.1, self.site.swarm.slow_disk_ms), self._flush, batch, of=self
        )

    def _flush(self, batch: list[tuple[Work, Answer]]) -> None:
        """The moment of the commit: it happens now, whole, or not at all."""
        works = [work for work, _ in batch]
        outcomes: list[Outcome] = []
        made = False

        def plan(snapshot: Snapshot) -> WriteSet:
            nonlocal made
            write, planned = self.planner.plan(works, snapshot, self.clock.now_ms())
            outcomes[:] = planned
            made = bool(write.new_jobs)
            return write

        self.site.store.plan(self.site.flush_fault())
        size = self.site.store.disk.head.size
        error: OutlastError | None = None
        try:
            run_now(self.site.store.flush(needs_of(works), plan))
        except OutlastError as raised:
            error = raised
        said = error.code if error else "committed"
        self.sim.note(
            f"{self.worker} flush of {len(works)} {said}: {size}..{self.site.store.disk.head.size}"
        )
        self._written(batch, outcomes, error)
        if made and error is None:
            self.sim.after(1.0, self.wake, of=self)

    def _written(
        self, batch: list[tuple[Work, Answer]], outcomes: list[Outcome], error: Exception | None
    ) -> None:
        """Durable; between here and the acknowledgement the process may still die."""
        self._untold = error is None
        if self._untold and not self.site.healed and self.sim.chance(self.site.swarm.crash_untold):
            self.crash()
            self.sim.after(self.sim.between(20, 2_000), self.start_again)
        self.sim.after(
            self.sim.between(0.05, 2), self._acknowledge, batch, outcomes, error, of=self
        )

    def _acknowledge(
        self, batch: list[tuple[Work, Answer]], outcomes: list[Outcome], error: Exception | None
    ) -> None:
        self._flushing = self._untold = False
        for at, (_, answer) in enumerate(batch):
            outcome = error or outcomes[at]
            if isinstance(outcome, Exception):
                answer(None, outcome)
            else:
                answer(outcome, None)
        if self._queue and not self._flushing:
            self._flushing = True
            self._begin()

    # -- jobs -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """There may be something to claim."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            sleeper()

    async def _work(self) -> None:
        while True:
            room = self.site.swarm.concurrency - len(self.running)
            claimed: list[JobRow] = []
            if room > 0:
                try:
                    claimed = await self.commit(self._claim(room))
                except OutlastError:
                    await Sleep(self.sim, CLAIM_RETRY_MS)
                    continue
            for row in claimed:
                self._take(row)
            if not claimed:
                await self._idle()

    def _claim(self, room: int) -> Claim:
        return Claim(
            worker=self.worker,
            kinds=tuple(sorted(self.kinds)),
            limit=room,
            now_ms=self.clock.now_ms(),
            ttl_ms=self.site.swarm.lease_ms,
        )

    async def _idle(self) -> None:
        due_ms = run_now(self.site.store.next_due_ms(tuple(self.kinds)))
        wait_ms = float(IDLE_POLL_MS)
        if due_ms is not None:
            wait_ms = min(wait_ms, max(2.0, due_ms - self.clock.now_ms()))

        def ask(answer: Answer) -> None:
            self._sleeper = lambda: answer(None, None)
            self.sim.after(wait_ms, answer, None, None, of=self)

        await Asked(ask)
        self._sleeper = None

    def _take(self, row: JobRow) -> None:
        job = Job(row)
        if row.lease > 1 and not row.error:
            self.site.checks.sometimes("rescued after expiry")
        self.sim.note(f"{self.worker} takes job {row.id} ({row.kind}) lease {row.lease}")
        key = (row.id, row.lease)

        def ended(error: BaseException | None) -> None:
            self.running.pop(key, None)
            self.wake()
            if error is not None:
                raise error

        self.running[key] = (job, self.run(self._handle(job), ended))

    async def _handle(self, job: Job) -> None:
        kind = self.kinds[job.row.kind]
        try:
            await kind.handler(job)
            if not job.finished:
                await self.commit(Settle(job.tenant, job.done()))
            self.sim.note(f"{self.worker} ends job {job.row.id}")
        except Exception as error:
            await self._failed(job, error, kind)

    async def _failed(self, job: Job, error: Exception, kind: Kind) -> None:
        checks, row = self.site.checks, job.row
        checks.always(isinstance(error, OutlastError), f"job {row.id} ({row.kind}): {error!r}")
        self.sim.note(f"{self.worker} job {row.id} fails: {error}")
        if isinstance(error, Conflict):
            checks.sometimes(_CONFLICTS.get(error.code, "handler raised a conflict"))
        verdict = judge(row, error, kind.backoff, self.clock.now_ms(), self.sim.rng.random())
        if verdict.finish is None:
            return
        try:
            if verdict.finish.state == "dead":
                dead = burial(row, verdict.finish, verdict.reason, self.clock.now_ms(), self.worker)
                await self.commit(dead)
                checks.sometimes("job buried")
            else:
                await self.commit(Settle(job.tenant, verdict.finish))
        except OutlastError as unwritten:
            self.sim.note(f"{self.worker} job {row.id}: outcome not written: {unwritten.code}")

    async def _heartbeat(self) -> None:
        while True:
            await Sleep(self.sim, self.site.swarm.lease_ms / 3)
            until_ms = self.clock.now_ms() + self.site.swarm.lease_ms
            for job, task in list(self.running.values()):
                if not job.finished:
                    self.run(self._beat(job, task, until_ms))

    async def _beat(self, job: Job, task: Task, until_ms: int) -> None:
        row = job.row
        extend = Finish(job=row.id, lease=row.lease, state="leased", lease_until_ms=until_ms)
        try:
            await self.commit(Settle(row.tenant, extend))
        except Conflict:
            if not job.finished and not task.ended:
                self.sim.note(f"{self.worker} lost job {row.id}: its handler is cancelled")
                task.cancel()
                self._tasks.discard(task)
                self.running.pop((row.id, row.lease), None)
        except OutlastError as error:
            self.sim.note(f"{self.worker} heartbeat of job {row.id} not written: {error.code}")

    # -- the handlers' world ------------------------------------------------------------------------

    def _world(self) -> World:
        site, sim = self.site, self.sim

        async def within(timeout_ms: int, work: Any) -> Any:
            self.asking += 1
            if not site.healed and sim.chance(site.swarm.stall_asking):
                sim.after(1.0, self.stall, sim.between(0.8, 4) * site.swarm.lease_ms, of=self)
            try:
                return await Within(sim, timeout_ms, work)
            finally:
                self.asking -= 1

        async def prepared(document: bytes, options: Any) -> Any:
            await Sleep(sim, sim.between(1, 10))
            return prepare(document, options)

        return World(
            clock=self.clock,
            door=self,
            streams=self,
            deciders=site.deciders,
            bodies=site.shelf,
            envelope=ENVELOPE,
            subjects=Subjects(self, ENVELOPE),
            within=within,
            prepare=prepared,
            denied=lambda *_: "",
            classes=site.classes,
            signers=site.providers,
            authorities=site.authorities,
            regions={},
            signer_router=self.signers,
            authority_router=self.stampers,
            actor=self.worker,
        )

    async def stream(self, key: StreamKey) -> StreamRow | None:
        """The newest state of a stream, by the time it is read."""
        await Sleep(self.sim, self.sim.between(0, 1))
        return await self.site.store.stream(key)

    async def subject_key(self, subject: str) -> bytes | None:
        """No personal fields here."""
        raise Unavailable("none", "the simulation seals nothing")
