"""The walk over every copy: reads all of them, compares each with its digest, mends what can be mended, and says what
cannot.

Each step is one durable job over at most STEP_BLOBS names, so a scrub survives restarts, moves between nodes, and
rests when it is told to. A store that refuses it for good (a wrong bucket, say) makes its job a dead letter: the scrub
has failed then, and goes on when the job is replayed, or makes way for the next. It reads at a bounded rate, and a store that cannot be reached is waited for: what it has is
not called missing. Copies that are owed on record are the debt's affair and no finding here, except that a debt whose
store has been taken out of the configuration is of no interest any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import Clock
from outlast.core.commit import Finish, Idempotency, Receipt, Submission
from outlast.core.decider import Command, Deciders
from outlast.core.errors import OutlastError, Unavailable
from outlast.core.replicas.debts import TENANT, DebtLedger, Door, Streams
from outlast.core.replicas.health import StoreHealth
from outlast.core.replicas.mend import Looked, look
from outlast.core.replicas.references import Compared, Log, age_of
from outlast.core.replicas.scrubmodel import (
    KIND,
    MIN_ORPHAN_AGE_S,
    REFERENCES_JOB,
    STEP_JOB,
    STREAM,
    BeginScrub,
    Finding,
    NoteReferences,
    NoteStep,
    Outcome,
    PauseScrub,
    ResumeScrub,
    Scrub,
    ScrubOptions,
    StepJob,
    StopScrub,
    Tally,
)
from outlast.core.replicas.store import CALL_S, One, merged
from outlast.core.store.port import JobGroup, JobRow, JobState, StreamKey
from outlast.core.work.runner import Job, Kind

log = logging.getLogger("outlast.blobs")

STEP_BLOBS = 100
"""Blobs in one step."""
STEP_S = 20.0
"""A step ends after so long even if it has not seen STEP_BLOBS: what it found is then on record."""
YOUNG_S = 5.0
"""A blob named so lately may still be on its way into a store, and is left for the next scrub."""
SCRUB_BACKOFF = BackoffPolicy(initial_ms=1_000, max_ms=60_000, attempts=1_000_000)
"""A store that is away is waited for."""

DEAD_PAGE = 200
DEAD_PAGES = 20
"""How many of the site's dead jobs are looked through for a scrub's."""
_JOBS = frozenset({STEP_JOB, REFERENCES_JOB})
DISCARDED = "its job was discarded"

_job = msgspec.json.Decoder(StepJob)


class Kept(Streams, Protocol):
    """`outlast.core.store.port.Store`, as far as it is needed here."""

    async def jobs(
        self, tenant: str, *, state: JobState | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[JobRow]: ...

    async def job_groups(self) -> list[JobGroup]: ...


class Failed(NamedTuple):
    """A scrub that is said to run and has no job that could go on. ``job`` is the dead one; None: it was discarded."""

    run: int
    error: str
    job: JobRow | None

    @property
    def finish(self) -> Finish | None:
        """Ends the dead job, for who ends the scrub: it must not run then."""
        if self.job is None:
            return None
        return Finish(job=self.job.id, lease=self.job.lease, expect="dead", error=self.job.error)


class Scrubber:
    """The scrub of one site: what people may do about it, and the handlers of its jobs."""

    def __init__(
        self,
        stores: Mapping[str, One],
        health: StoreHealth,
        ledger: DebtLedger,
        door: Door,
        streams: Kept,
        log_: Log,
        deciders: Deciders,
        clock: Clock,
        actor: str,
        bytes_per_s: int,
    ) -> None:
        self._stores = stores
        self._health = health
        self._ledger = ledger
        self._door = door
        self._streams = streams
        self._log = log_
        self._deciders = deciders
        self._clock = clock
        self._actor = actor
        self._bytes_per_s = bytes_per_s

    # -- by hand ----------------------------------------------------------------------------------------------

    async def begin(
        self, actor: str, options: ScrubOptions, idempotency: Idempotency | None = None
    ) -> Receipt:
        """Begin a scrub, instead of one that has failed; raises Conflict ``scrub-running``, Refused
        ``orphans-too-young``."""
        failed = await self.failure()
        command = BeginScrub(
            at_ms=self._clock.now_ms(),
            actor=actor,
            options=options,
            failed_run=failed.run if failed else 0,
        )
        finish = failed.finish if failed else None
        return await self._submit(command, actor, finish, idempotency)

    async def begin_if_idle_since(self, since_ms: int) -> None:
        """Begin one unless one has begun after ``since_ms``, or still runs."""
        if (await self.state()).begun_ms > since_ms:
            return
        failed = await self.failure()
        command = BeginScrub(
            at_ms=self._clock.now_ms(),
            actor=self._actor,
            idle_since_ms=since_ms,
            failed_run=failed.run if failed else 0,
        )
        await self._submit(command, finish=failed.finish if failed else None)

    async def pause(self, actor: str, idempotency: Idempotency | None = None) -> Receipt:
        """Let it rest after the step under way."""
        command = PauseScrub(at_ms=self._clock.now_ms(), actor=actor)
        return await self._submit(command, actor, idempotency=idempotency)

    async def resume(self, actor: str, idempotency: Idempotency | None = None) -> Receipt:
        """Let it go on; raises Conflict ``scrub-not-running``."""
        command = ResumeScrub(at_ms=self._clock.now_ms(), actor=actor)
        return await self._submit(command, actor, idempotency=idempotency)

    async def stop(self, actor: str, idempotency: Idempotency | None = None) -> Receipt:
        """Give it up, and its job where that is dead."""
        failed = await self.failure()
        command = StopScrub(at_ms=self._clock.now_ms(), actor=actor)
        return await self._submit(command, actor, failed.finish if failed else None, idempotency)

    async def state(self) -> Scrub:
        """The newest scrub."""
        row = await self._streams.stream(StreamKey(TENANT, KIND, STREAM))
        if row is None:
            return Scrub()
        scrub: Scrub = self._deciders.decode_state(KIND, row.state)
        return scrub

    async def failure(self) -> Failed | None:
        """Why the scrub cannot go on by itself although it is said to run; None: it can, or there is none."""
        before = await self.state()
        if before.label != "running":
            return None
        groups = [g for g in await self._streams.job_groups() if g.kind in _JOBS]
        if any(g.state != "dead" for g in groups) or await self.state() != before:
            return None  # a step is recorded together with the next one's job
        job = await self._dead(before.run) if groups else None
        return Failed(before.run, job.error if job is not None else DISCARDED, job)

    async def _dead(self, run: int) -> JobRow | None:
        after = 0
        for _ in range(DEAD_PAGES):
            rows = await self._streams.jobs(TENANT, state="dead", after=after, limit=DEAD_PAGE)
            for row in rows:
                if row.kind in _JOBS and _job.decode(row.payload).run == run:
                    return row
            if len(rows) < DEAD_PAGE:
                break
            after = rows[-1].id
        return None

    # -- jobs -------------------------------------------------------------------------------------------------

    def kinds(self) -> dict[str, Kind]:
        """For the runner."""
        return {
            STEP_JOB: Kind(self.step, SCRUB_BACKOFF, self._all_in_use),
            REFERENCES_JOB: Kind(self.references, SCRUB_BACKOFF, self._all_in_use),
        }

    async def step(self, job: Job) -> None:
        """Look at the next blobs."""
        task, now = _job.decode(job.row.payload), await self.state()
        if now.run != task.run or now.label != "running" or now.after != task.after:
            return
        found, is_end = await self._names(task.after)
        tally, findings, after = Tally(), list[Finding](), task.after
        until_s = self._clock.monotonic_s() + STEP_S
        done = 0
        for blob in found:
            part, new = await self._one(blob, now.options.mend)
            tally, after, done = tally.plus(part), blob, done + 1
            findings += new
            if self._clock.monotonic_s() >= until_s:
                break
        note = NoteStep(
            at_ms=self._clock.now_ms(),
            run=task.run,
            before=task.after,
            after=after,
            last=is_end and done == len(found),
            tally=tally,
            findings=tuple(findings),
        )
        await self._finish(job, note)

    async def references(self, job: Job) -> None:
        """The last part: what the log refers to."""
        task, now = _job.decode(job.row.payload), await self.state()
        if now.run != task.run or now.label != "running":
            return
        compared = Compared(self._log, self._stores, self._clock.now_ms())
        found = await compared.run(now.options.delete_orphans_s, MIN_ORPHAN_AGE_S)
        note = NoteReferences(at_ms=self._clock.now_ms(), run=task.run, references=found)
        await self._finish(job, note)

    # -- inside -----------------------------------------------------------------------------------------------

    def _all_in_use(self) -> bool:
        return all(self._health.in_use(name) for name in self._stores)

    async def _names(self, after: str) -> tuple[list[str], bool]:
        pages = {}
        for name, store in self._stores.items():
            try:
                async with asyncio.timeout(CALL_S):
                    pages[name] = await store.page(after, STEP_BLOBS)
            except TimeoutError:
                raise Unavailable("unreachable", f"store {name} does not answer") from None
        found, is_end = merged(pages, STEP_BLOBS)
        names = list(found)
        return names[:STEP_BLOBS], is_end and len(names) <= STEP_BLOBS

    async def _one(self, blob: str, mend: bool) -> tuple[Tally, list[Finding]]:
        """Judge and mend one blob. Raises Unavailable where a store does not answer: the step is done again."""
        age_s = age_of(blob, self._clock.now_ms())
        if age_s is not None and age_s < YOUNG_S:
            return Tally(blobs=1), []
        record = await self._ledger.known(blob)
        if record is not None and record.want == "deleted":
            return Tally(blobs=1), []
        owed = record.owed if record is not None else ()
        read = _Read()
        try:
            looked = await look(self._stores, blob, skip=owed, mend=mend, passed=read.add)
        except OutlastError as error:
            log.warning("blob %s cannot be mended now: %s", blob, error)
            looked = await look(self._stores, blob, skip=owed, mend=False)
        if looked.unasked:
            raise Unavailable("unreachable", f"no answer from {', '.join(looked.unasked)}")
        await asyncio.sleep(read.size / self._bytes_per_s)
        findings = _findings(blob, looked)
        for store in owed:
            if store not in self._stores:
                await self._ledger.settled(blob, store, "kept")
        return _tally(looked, findings, read.size), findings

    async def _finish(self, job: Job, command: Command) -> None:
        finish = Finish(job=job.row.id, lease=job.row.lease)
        await self._submit(command, finish=finish)
        job.finished = True

    async def _submit(
        self,
        command: Command,
        actor: str = "",
        finish: Finish | None = None,
        idempotency: Idempotency | None = None,
    ) -> Receipt:
        return await self._door.submit(
            Submission(
                tenant=TENANT,
                actor=actor or self._actor,
                kind=KIND,
                stream=STREAM,
                command=command,
                finish=finish,
                idempotency=idempotency,
            )
        )


class _Read:
    """Counts bytes."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, size: int) -> None:
        """So many more."""
        self.size += size


def _findings(blob: str, looked: Looked) -> list[Finding]:
    found = []
    for store, problem in looked.judgement.bad.items():
        outcome: Outcome = "mended" if store in looked.mended else "open"
        if looked.judgement.dead:
            outcome = "dead"
        found.append(Finding(blob, store, problem, outcome))
    return found


def _tally(looked: Looked, findings: list[Finding], read_bytes: int) -> Tally:
    return Tally(
        blobs=1,
        read_bytes=read_bytes,
        missing=sum(f.problem == "missing" for f in findings),
        corrupt=sum(f.problem != "missing" for f in findings),
        mended=len(looked.mended),
        dead=int(looked.judgement.dead),
    )
