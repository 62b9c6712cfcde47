"""Bugs planted into the real code, each found within a thousand seeds: a simulation that finds nothing may look at
nothing. docs/howto/simulate.md lists after how many seeds each was found.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import pytest

from outlast.core import commit
from outlast.core.commit import Finish, Planner, Submission, needs_of
from outlast.core.errors import Conflict, Refused, Unknown
from outlast.core.publish import Publisher
from outlast.core.store.port import Head, JobRow, Snapshot, WriteSet
from outlast.operations.model import mode as modes
from outlast.signing import attempt, source, work
from outlast.signing.model import request
from outlast.testing.simulation.clients import Crowd
from outlast.testing.simulation.database import Database, Session
from outlast.testing.simulation.door import Door
from outlast.testing.simulation.engine import Sleep
from outlast.testing.simulation.eyes import Eyes
from outlast.testing.simulation.node import Node
from outlast.testing.simulation.run import Result, run_seed

pytestmark = pytest.mark.slow

PLANTED_WITHIN = 1_000
"""Seeds within which a planted bug is found."""


def found_within(seeds: int) -> Result | None:
    """The first seed that fails."""
    return next((result for result in map(run_seed, range(seeds)) if result.failure), None)


# -- the commit ---------------------------------------------------------------------------------------------


def end_job(row: JobRow, finish: Finish) -> JobRow:
    """The job as whoever finishes it wants it."""
    return msgspec.structs.replace(
        row,
        state=finish.state,
        run_at_ms=finish.run_at_ms or row.run_at_ms,
        lease_until_ms=finish.lease_until_ms,
        attempts=row.attempts if finish.expect == "leased" else 0,
        error=finish.error,
    )


def plant_no_fence(patch: pytest.MonkeyPatch) -> None:
    """Whoever says so ends a job, with whatever lease."""

    def finished(self: Any, tenant: str, finish: Finish) -> JobRow:
        return end_job(
            self._write.jobs.get(finish.job) or self._snapshot.jobs.get(finish.job), finish
        )

    patch.setattr(commit._Flush, "_finished", finished)


def plant_fenced_by_name(patch: pytest.MonkeyPatch) -> None:
    """A lease is known by the worker's name instead of its number: who rescues his own job has it twice."""
    plan, asking = Planner.plan, [""]

    def named(self: Planner, batch: Any, snapshot: Snapshot, now_ms: int) -> Any:
        asking[0] = self.__dict__.get("worker", "")
        return plan(self, batch, snapshot, now_ms)

    start = Node.start

    def started(self: Node) -> None:
        start(self)
        self.door.planner.__dict__["worker"] = self.worker_name

    def finished(self: Any, tenant: str, finish: Finish) -> JobRow:
        row = self._write.jobs.get(finish.job) or self._snapshot.jobs.get(finish.job)
        if row is None:
            raise Refused("job-not-found", "it was pruned")
        if row.state != finish.expect or (row.state == "leased" and row.worker != asking[0]):
            raise Conflict("job-fenced", "somebody else has it", retry="never")
        return end_job(row, finish)

    patch.setattr(Planner, "plan", named)
    patch.setattr(Node, "start", started)
    patch.setattr(commit._Flush, "_finished", finished)


def plant_no_idempotency_row(patch: pytest.MonkeyPatch) -> None:
    """The key is not written with the event and the job."""
    patch.setattr(commit._Flush, "_remember", lambda *_: None)


def plant_idempotency_apart(patch: pytest.MonkeyPatch) -> None:
    """The key is written in a second transaction, a moment after the first: a crash between them loses it."""
    plan, remember, committed = Planner.plan, commit._Flush._remember, Node.committed
    pending: dict[int, list[Any]] = defaultdict(list)
    planning = [0]

    def planned(self: Planner, batch: Any, snapshot: Snapshot, now_ms: int) -> Any:
        planning[0] = id(self)
        pending[id(self)] = []
        return plan(self, batch, snapshot, now_ms)

    def remembered(self: Any, *args: Any) -> None:
        remember(self, *args)
        pending[planning[0]].append(self._write.idempotency.pop())

    def afterwards(self: Node, write: WriteSet) -> None:
        committed(self, write)
        for row in pending.pop(id(self.door.planner), ()):
            keys = self.site.store.disk.idempotency
            self.sim.after(2.0, keys.setdefault, row.digest, row, of=self)

    patch.setattr(Planner, "plan", planned)
    patch.setattr(commit._Flush, "_remember", remembered)
    patch.setattr(Node, "committed", afterwards)


def plant_early_answer(patch: pytest.MonkeyPatch) -> None:
    """Answered when it is planned, before the commit that makes it durable."""

    async def flush(self: Door, batch: Any) -> None:
        works = [item for item, _ in batch]

        def plan(snapshot: Snapshot) -> WriteSet:
            write, outcomes = self.planner.plan(works, snapshot, self._clock.now_ms())
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                failed = isinstance(outcome, Exception)
                told = (None, outcome) if failed else (outcome, None)
                self._sim.after(0.0, answer, *told)
            return write

        try:
            await self._store.flush(needs_of(works), plan)
        except Exception as error:
            for _, answer in batch:
                answer(None, error)
        await Sleep(self._sim, 1.0)

    patch.setattr(Door, "_flush", flush)


def plant_shared_claims(patch: pytest.MonkeyPatch) -> None:
    """A claim does not raise the lease: two holders under one number."""
    claim = commit._Flush.claim

    def same_lease(self: Any, wish: commit.Claim, claimable: list[JobRow]) -> list[JobRow]:
        lower = [msgspec.structs.replace(j, lease=j.lease - 1) if j.lease else j for j in claimable]
        return claim(self, wish, lower)

    patch.setattr(commit._Flush, "claim", same_lease)


def plant_leaky_numbers(patch: pytest.MonkeyPatch) -> None:
    """A number is used up by a command that is refused."""
    number = commit._Flush._number

    def used_up(self: Any, order: Submission) -> Any:
        numbered, numbers = number(self, order)
        self._write.counters.update(numbers)
        return numbered, numbers

    patch.setattr(commit._Flush, "_number", used_up)


def plant_lost_job(patch: pytest.MonkeyPatch) -> None:
    """A job is not written when its event shares the flush with others."""
    add = commit._Flush._add_job

    def forgets(self: Any, *args: Any) -> None:
        if len(self._write.entries) < 2:
            add(self, *args)

    patch.setattr(commit._Flush, "_add_job", forgets)


def plant_unknown_is_no(patch: pytest.MonkeyPatch) -> None:
    """Unknown is taken for "not committed": the caller's library asks again, as if it never had, without its key."""
    call = Crowd.call

    async def again(self: Crowd, order: Submission) -> Any:
        try:
            return await call(self, order)
        except Unknown:
            stream = f"{order.stream}-again" if order.idempotency else order.stream
            return await call(self, msgspec.structs.replace(order, stream=stream, idempotency=None))

    patch.setattr(Crowd, "call", again)


def plant_prune_unfinished(patch: pytest.MonkeyPatch) -> None:
    """Pruning goes by age alone, and takes jobs that are still to be done."""

    async def prune(self: Database, *, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        old = [job.id for job in self.disk.jobs.values() if job.created_ms < jobs_before_ms]
        for job in old:
            del self.disk.jobs[job]
            self.disk.unfinished.discard(job)
        return len(old)

    patch.setattr(Database, "prune", prune)


# -- the log --------------------------------------------------------------------------------------------------


def plant_checkpoint_from_memory(patch: pytest.MonkeyPatch) -> None:
    """A node signs what it has planned itself, instead of what the store holds."""
    plan, head, entries = Planner.plan, Session.head, Session.entries

    def planned(self: Planner, batch: Any, snapshot: Snapshot, now_ms: int) -> Any:
        write, outcomes = plan(self, batch, snapshot, now_ms)
        if write.entries:
            self.__dict__["newest"] = write
        return write, outcomes

    def newest(session: Any) -> WriteSet | None:
        found: WriteSet | None = session.owner.door.planner.__dict__.get("newest")
        return found

    async def remembered_head(self: Session) -> Head:
        there, write = await head(self), newest(self)
        return write.head if write is not None and write.head.size > there.size else there

    async def remembered_entries(self: Session, start: int, limit: int) -> list[bytes]:
        found, write = await entries(self, start, limit), newest(self)
        more = [] if write is None else [e.leaf for e in write.entries if e.index >= start]
        return (found + more[-(limit - len(found)) :])[:limit] if len(found) < limit else found

    patch.setattr(Planner, "plan", planned)
    patch.setattr(Session, "head", remembered_head)
    patch.setattr(Session, "entries", remembered_entries)


def plant_any_history(patch: pytest.MonkeyPatch) -> None:
    """Nobody compares the store with the log that is published."""

    async def unasked(_self: Publisher, _head: Head) -> None:
        return None

    patch.setattr(Publisher, "_check_history", unasked)


def plant_shorter_only(patch: pytest.MonkeyPatch) -> None:
    """An older store is known by being shorter only, although it may have been written to."""
    check = Publisher._check_history

    async def shorter(self: Publisher, head: Head) -> None:
        if head.size < self.published:
            await check(self, head)

    patch.setattr(Publisher, "_check_history", shorter)


def plant_not_held(patch: pytest.MonkeyPatch) -> None:
    """Work goes on although the log's publisher has found a fork."""
    patch.setattr(Node, "held", False)


def plant_open_door(patch: pytest.MonkeyPatch) -> None:
    """New work is let in although the publisher has found a fork, until the mode is on record."""

    def by_mode(self: Eyes) -> Any:
        return modes.refusal(self.mode.label, "accept")

    patch.setattr(Eyes, "refusal", by_mode)


# -- signing --------------------------------------------------------------------------------------------------


def plant_no_pin_check(patch: pytest.MonkeyPatch) -> None:
    """A late value is taken although its attempt was closed."""
    record = request._record_signature

    def taken(order: request.RecordSignature, state: request.Request) -> Any:
        pin = state.signatures[order.place].pin
        known = order if pin is None else msgspec.structs.replace(order, attempt=pin.attempt)
        return record(known, state)

    patch.setitem(request._DECIDE, request.RecordSignature, taken)


def plant_blind_trust(patch: pytest.MonkeyPatch) -> None:
    """What a provider returns is not verified."""
    patch.setattr(attempt, "verify_signature", lambda *_: None)


def plant_second_on_original(patch: pytest.MonkeyPatch) -> None:
    """A second signature goes on the original instead of the first's file."""
    load = source.load_source

    async def original(world: Any, tenant: str, state: request.Request, place: int) -> Any:
        bare = [msgspec.structs.replace(s, revision=None) for s in state.signatures]
        unsigned = msgspec.structs.replace(state, signatures=tuple(bare))
        return await load(world, tenant, unsigned, place)

    patch.setattr(work, "load_source", original)


PLANTS = [
    plant_no_fence,
    plant_fenced_by_name,
    plant_no_idempotency_row,
    plant_idempotency_apart,
    plant_early_answer,
    plant_shared_claims,
    plant_leaky_numbers,
    plant_lost_job,
    plant_unknown_is_no,
    plant_prune_unfinished,
    plant_checkpoint_from_memory,
    plant_any_history,
    plant_shorter_only,
    plant_not_held,
    plant_open_door,
    plant_no_pin_check,
    plant_blind_trust,
    plant_second_on_original,
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__.removeprefix("plant_"))
def test_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these bugs breaks a promise within a thousand seeds."""
    plant(monkeypatch)
    found = found_within(PLANTED_WITHIN)
    assert found is not None, "not found"
    print(f"{plant.__name__}: found by seed {found.seed}: {found.failure[:200]}")
