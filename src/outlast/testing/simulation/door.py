"""The door to the disk of a simulated node: what `Committer` does, on the heap instead of an event loop.

The rules are its: work that arrives during a flush is the next flush, each piece is answered for itself, nobody is
answered before the flush is durable, a caller that gave up before its turn is left out, and a batch that meets what no
plan could foresee is tried again piece by piece. The plan and the deciders are the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from outlast.core.commit import (
    MAX_FLUSH,
    Claim,
    Outcome,
    Planner,
    Receipt,
    Submission,
    Work,
    needs_of,
)
from outlast.core.errors import Corrupt, OutlastError, Unavailable, Unknown
from outlast.core.store.port import Snapshot, WriteSet
from outlast.testing.simulation.database import Session
from outlast.testing.simulation.engine import Asked, Reply, Simulation, Sleep
from outlast.testing.simulation.parts import NodeClock

Answer = Callable[[Any, BaseException | None], None]


class Owner(Protocol):
    """The node a door belongs to, as far as a door knows it."""

    name: str
    untold: bool
    """Something is durable that nobody has been told of."""

    def run(self, work: Any) -> object:
        """A task of this life."""
        ...

    def committed(self, write: WriteSet) -> None:
        """A flush is durable, and its callers are told."""
        ...

    def carried(self, pieces: int) -> None:
        """So many pieces of work were in one flush."""
        ...

    def ending(self, job: int, is_holder: bool) -> None:
        """A job is being ended, moved or extended by whoever holds its newest lease, or not."""
        ...

    def durable(self) -> None:
        """A flush is durable, its callers are not told yet: the process may die here."""
        ...


def _waits() -> bool:
    return False


class Door:
    """One life's queue of work for the disk."""

    def __init__(
        self, sim: Simulation, owner: Owner, store: Session, planner: Planner, clock: NodeClock
    ) -> None:
        self._sim = sim
        self._owner = owner
        self._store = store
        self._clock = clock
        self.planner = planner
        self._queue: deque[tuple[Work, Answer, Callable[[], bool]]] = deque()
        self._flushing = False

    def enqueue(self, work: Work, answer: Answer, given_up: Callable[[], bool] = _waits) -> None:
        """Put work into the queue of the next flush."""
        self._queue.append((work, answer, given_up))
        if not self._flushing:
            self._flushing = True
            self._owner.run(self._flush_all())

    async def commit(self, work: Work) -> Any:
        """Wait for the outcome of a piece of work."""

        def ask(reply: Reply) -> None:
            self.enqueue(work, reply, lambda: reply.given_up)

        return await Asked(ask)

    async def submit(self, work: Submission) -> Receipt:
        """`Committer.submit`."""
        receipt: Receipt = await self.commit(work)
        return receipt

    async def _flush_all(self) -> None:
        await Sleep(self._sim, self._sim.between(0, 1))
        while self._queue:
            if batch := self._next_batch():
                await self._flush(batch)
        self._flushing = False

    def _next_batch(self) -> list[tuple[Work, Answer]]:
        batch: list[tuple[Work, Answer]] = []
        while self._queue and len(batch) < MAX_FLUSH:
            work, answer, given_up = self._queue.popleft()
            if not given_up():
                batch.append((work, answer))
        return batch

    async def _flush(self, batch: list[tuple[Work, Answer]]) -> None:
        works = [work for work, _ in batch]
        outcomes: list[Outcome] = []
        written: list[WriteSet] = []

        def plan(snapshot: Snapshot) -> WriteSet:
            write, outcomes[:] = self.planner.plan(works, snapshot, self._clock.now_ms())
            written[:] = [write]
            self._check_holders(works, outcomes, write)
            return write

        try:
            await self._store.flush(needs_of(works), plan)
        except OutlastError as error:
            await self._failed(batch, error)
            return
        self._owner.durable()
        await Sleep(self._sim, self._sim.between(0.05, 2))
        self._owner.untold = False
        self._owner.carried(len(batch))
        self._owner.committed(written[0])
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            failed = isinstance(outcome, Exception)
            answer(None if failed else outcome, outcome if failed else None)  # type: ignore[arg-type]  # told apart above

    def _check_holders(self, works: list[Work], outcomes: list[Outcome], write: WriteSet) -> None:
        """Only whoever holds the newest lease ends, moves or extends a job."""
        for work, outcome in zip(works, outcomes, strict=True):
            finish = None if isinstance(work, Claim) else work.finish
            if finish is None or isinstance(outcome, Exception):
                continue
            job = write.jobs.get(finish.job)
            self._owner.ending(finish.job, job is not None and job.lease == finish.lease)

    async def _failed(self, batch: list[tuple[Work, Answer]], error: OutlastError) -> None:
        if len(batch) > 1 and not isinstance(error, Unavailable | Unknown | Corrupt):
            for item in batch:
                await self._flush([item])
            return
        for _, answer in batch:
            answer(None, error)
