"""No-op jobs on Outlast: committer, worker and the log's publisher in one process, as a node runs them.

    python -m bench.jobs_ours STORE SECONDS     STORE: a PostgreSQL address, or a folder for SQLite

Each enqueue is a command of its own, decided on a stream of its own: event, state, job and log entry are one
transaction. The worker claims with a lease, and ends each job under its fence. Tiles and signed checkpoints are written
meanwhile. Commands are submitted one by one by concurrent producers, as requests would be.
"""

from __future__ import annotations

import asyncio
import gc
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import uvloop

from bench.flow import PRODUCERS, Flow
from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Planner, Submission
from outlast.core.decider import Command, Deciders, Decision, Event, NewJob
from outlast.core.ids import Ids, system_random
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.publish import Publisher
from outlast.core.store.port import Store, WriteSet
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.core.work.runner import Job, Kind, Limits, Runner

SITE = "bench"
TASK = "bench.task"
CONCURRENCY = 256


class Enqueued(Event, frozen=True, kw_only=True):
    """Work was asked for."""

    name: ClassVar[str] = "bench.enqueued"
    number: int
    at_ms: int


class Enqueue(Command, frozen=True, kw_only=True):
    """Ask for work."""

    number: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to do."""

    label: str = "asked"
    number: int


class Payload(msgspec.Struct, frozen=True):
    """What the worker is told."""

    number: int


class TaskDecider:
    """`Decider` of tasks."""

    kind = TASK
    state = Task
    events = (Enqueued,)

    def decide(self, command: Any, state: Task | None) -> Decision[Enqueued]:
        """An event and a job."""
        number = command.number
        event = Enqueued(number=number, at_ms=command.at_ms)
        return Decision(events=(event,), jobs=(NewJob(kind=TASK, payload=Payload(number)),))

    def evolve(self, state: Task | None, event: Enqueued) -> Task:
        """As asked."""
        return Task(number=event.number)


_payload = msgspec.json.Decoder(Payload).decode


async def measure(place: str, seconds: float) -> None:
    """Run the flow on a new store."""
    with tempfile.TemporaryDirectory(prefix="outlast-bench-jobs-") as folder:
        store = await _open(place, pathlib.Path(folder))
        try:
            await _Node(store, pathlib.Path(folder)).measure(seconds)
        finally:
            await store.close()


async def _open(place: str, folder: pathlib.Path) -> Store:
    if place.startswith("postgresql:"):
        from outlast.core.store.postgres.engine import PostgresStore

        return await PostgresStore.open(place)
    return await SqliteStore.open(folder / "site.db")


class _Node:
    """The parts of a node that jobs need."""

    def __init__(self, store: Store, folder: pathlib.Path) -> None:
        self._store = store
        self._clock = clock = SystemClock()
        self._flow = Flow()
        key = LogKey.generate(SITE)

        def sign(size: int, root: bytes) -> bytes:
            seconds = clock.now_ms() // 1000
            return sign_checkpoint(SITE, size, root, key.signers, time_s=seconds)

        planner = Planner(Deciders([TaskDecider()]), HybridClock(clock), SITE)
        self._committer = Committer(store, planner, clock, self._committed)
        self._publisher = Publisher(store, TileArchive(folder / "log"), sign, clock)
        self._runner = Runner(
            self._committer,
            store,
            clock,
            {TASK: Kind(self._handle, BackoffPolicy())},
            worker=f"{SITE}/{Ids(clock).new()}",
            rng=system_random(),
            limits=Limits(concurrency=CONCURRENCY),
        )

    def _committed(self, write: WriteSet) -> None:
        if write.entries:
            self._publisher.wake()
        if write.new_jobs:
            self._runner.wake()

    async def _handle(self, job: Job) -> None:
        self._flow.handled(_payload(job.row.payload).number)

    async def _enqueue(self, numbers: Sequence[int]) -> None:
        at_ms = self._clock.now_ms()
        for number in numbers:
            command = Enqueue(at_ms=at_ms, number=number)
            await self._committer.submit(
                Submission(
                    tenant="default", actor=SITE, kind=TASK, stream=str(number), command=command
                )
            )

    async def _left(self) -> int:
        counts = await self._store.job_counts()
        return counts.ready + counts.leased

    async def measure(self, seconds: float) -> None:
        """The flow; at its end the log must have been published in full."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)  # as `outlast serve`
        loops = [asyncio.create_task(part.run()) for part in (self._publisher, self._runner)]
        await self._flow.run(
            self._enqueue, self._left, seconds=seconds, producers=PRODUCERS * 4, batch=1
        )
        head = await self._store.head()
        if not await self._publisher.wait_for(head.size - 1, 10):
            raise RuntimeError("the log was not published")
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(sys.argv[1], float(sys.argv[2])))
