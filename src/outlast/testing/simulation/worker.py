"""A simulated node's worker: what `Runner` does, on the heap instead of an event loop.

Jobs are claimed, heartbeaten, retried by the real `judge`, buried on record; a handler whose job is somebody else's by
now is cancelled; nothing is claimed while the log's publisher has found a fork. The handlers are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from outlast.core.commit import Claim, Finish, Settle
from outlast.core.errors import Conflict, OutlastError
from outlast.core.store.port import JobRow
from outlast.core.work.runner import Job, Kind, burial, check_attempts
from outlast.core.work.verdict import judge
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.door import Door
from outlast.testing.simulation.engine import Asked, Life, Reply, Simulation, Sleep, Task
from outlast.testing.simulation.parts import NodeClock

IDLE_POLL_MS = 1_000
CLAIM_RETRY_MS = 500

_CONFLICTS = {
    "job-fenced": "zombie fenced",
    "attempt-superseded": "late answer after its attempt was closed",
}


class Owner(Life, Protocol):
    """The node a worker belongs to, as far as a worker knows it."""

    worker_name: str
    clock: NodeClock
    door: Door

    @property
    def held(self) -> bool:
        """Nothing may be started now; what runs goes on."""
        ...

    @property
    def concurrency(self) -> int:
        """Most jobs at once."""
        ...

    @property
    def lease_ms(self) -> int:
        """How long a lease lasts."""
        ...

    def pause_ms(self, usual_ms: float) -> float:
        """How long whoever has nothing to do sleeps."""
        ...

    def run(
        self,
        work: Coroutine[Any, Any, Any],
        done: Callable[[BaseException | None], None] | None = None,
    ) -> Task:
        """A task of this life."""
        ...

    def drop(self, task: Task) -> None:
        """Cancel a task of this life."""
        ...

    async def next_due_ms(self) -> int | None:
        """When the next job comes due."""
        ...


class Worker:
    """One life's worker."""

    def __init__(
        self, sim: Simulation, checks: Checks, owner: Owner, kinds: Mapping[str, Kind]
    ) -> None:
        self._sim = sim
        self._checks = checks
        self._owner = owner
        self.kinds = kinds
        self.running: dict[tuple[int, int], tuple[Job, Task]] = {}
        self._sleeper: Callable[[], None] | None = None
        self._beating = False

    def wake(self) -> None:
        """There may be something to claim."""
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            sleeper()

    async def work(self) -> None:
        """Claim what is due, for ever."""
        owner = self._owner
        while True:
            room = owner.concurrency - len(self.running)
            claimed: list[JobRow] = []
            if room > 0 and not owner.held:
                try:
                    claimed = await owner.door.commit(self._claim(room))
                except OutlastError:
                    await Sleep(self._sim, CLAIM_RETRY_MS)
                    continue
            for row in claimed:
                self._take(row)
            if not claimed:
                await self._idle()

    def _claim(self, room: int) -> Claim:
        return Claim(
            worker=self._owner.worker_name,
            kinds=tuple(sorted(name for name, kind in self.kinds.items() if kind.open())),
            limit=room,
            now_ms=self._owner.clock.now_ms(),
            ttl_ms=self._owner.lease_ms,
        )

    async def _idle(self) -> None:
        owner, sim = self._owner, self._sim
        wait_ms = owner.pause_ms(IDLE_POLL_MS)
        due_ms = None if owner.held else await owner.next_due_ms()
        if due_ms is not None:
            wait_ms = min(wait_ms, max(2.0, due_ms - owner.clock.now_ms()))

        def ask(reply: Reply) -> None:
            self._sleeper = lambda: reply(None, None)
            sim.after(wait_ms, reply, None, None, of=owner)

        await Asked(ask)
        self._sleeper = None

    def _take(self, row: JobRow) -> None:
        owner, job = self._owner, Job(row)
        if row.lease > 1 and not row.error:
            self._checks.reachable("rescued after expiry")
        self._sim.note(f"{owner.worker_name} takes job {row.id} ({row.kind}) lease {row.lease}")
        key = (row.id, row.lease)

        def ended(error: BaseException | None) -> None:
            self.running.pop(key, None)
            self.wake()
            if error is not None:
                raise error

        self.running[key] = (job, owner.run(self._handle(job), ended))
        if not self._beating:
            self._beating = True
            owner.run(self._heartbeat())

    async def _handle(self, job: Job) -> None:
        owner, kind = self._owner, self.kinds[job.row.kind]
        try:
            check_attempts(job.row, kind.backoff)
            await kind.handler(job)
            if not job.finished:
                await owner.door.commit(Settle(job.tenant, job.done()))
            self._sim.note(f"{owner.worker_name} ends job {job.row.id}")
        except Exception as error:
            await self._failed(job, error, kind)

    async def _failed(self, job: Job, error: Exception, kind: Kind) -> None:
        checks, row, owner = self._checks, job.row, self._owner
        checks.always(isinstance(error, OutlastError), f"job {row.id} ({row.kind}): {error!r}")
        self._sim.note(f"{owner.worker_name} job {row.id} fails: {error}")
        if isinstance(error, Conflict):
            checks.reachable(_CONFLICTS.get(error.code, "handler raised a conflict"))
        elif isinstance(error, OutlastError) and error.code == "job-exhausted":
            checks.reachable("exhausted without an exception")
        verdict = judge(row, error, kind.backoff, owner.clock.now_ms(), self._sim.rng.random())
        if verdict.finish is None:
            return
        try:
            if verdict.finish.state == "dead":
                now_ms, name = owner.clock.now_ms(), owner.worker_name
                await owner.door.commit(burial(row, verdict.finish, verdict.reason, now_ms, name))
                checks.reachable("job buried")
            else:
                await owner.door.commit(Settle(job.tenant, verdict.finish))
        except OutlastError as unwritten:
            name = owner.worker_name
            self._sim.note(f"{name} job {row.id}: outcome not written: {unwritten.code}")

    async def _heartbeat(self) -> None:
        owner = self._owner
        while self.running:  # the real one never ends; without work it has nothing to do
            await Sleep(self._sim, owner.lease_ms / 3)
            until_ms = owner.clock.now_ms() + owner.lease_ms
            for job, task in list(self.running.values()):
                if not job.finished:
                    owner.run(self._beat(job, task, until_ms))
        self._beating = False

    async def _beat(self, job: Job, task: Task, until_ms: int) -> None:
        owner, row = self._owner, job.row
        extend = Finish(job=row.id, lease=row.lease, state="leased", lease_until_ms=until_ms)
        try:
            await owner.door.commit(Settle(row.tenant, extend))
        except Conflict as error:
            if error.code == "job-fenced" and not job.finished and not task.ended:
                self._sim.note(f"{owner.worker_name} lost job {row.id}: its handler is cancelled")
                owner.drop(task)
                self.running.pop((row.id, row.lease), None)
                self.wake()
        except OutlastError as error:
            name = owner.worker_name
            self._sim.note(f"{name} heartbeat of job {row.id} not written: {error.code}")
