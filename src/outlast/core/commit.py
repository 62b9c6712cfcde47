"""The one door to the disk.

Everything that changes goes through `Committer.submit`: it loads state, decides, and writes events, new state,
jobs, the finished job, the idempotency record and the log entries in one transaction, and answers after that
transaction is durable. What it promises:

- **Acknowledged is in the log.** An event's entry, its state and its jobs are one transaction: all or nothing.
- **Natural group commit.** Whatever arrives while one flush is under way forms the next; no timer.
- **Each command succeeds or fails alone**, whoever shares its flush.
- **Idempotent.** The same key with the same body gets the first answer again; with another body it is refused.
- **Fenced.** A job is finished only by the holder of its newest lease.

At each durable step, if the power goes now: before COMMIT returns, nothing of the flush happened and nobody was
told that it did; after, all of it happened, and whoever was not told asks again with the same idempotency key.

`plan` is pure; the simulator runs it unchanged on a store that is a dictionary.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from outlast.core.clock import Clock, HybridClock, hlc_text
from outlast.core.decider import Command, Decider, Deciders, Event, NewJob
from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.core.log.entry import Entry, encode_entry
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.store.port import (
    ClaimAsk,
    EntryRow,
    Head,
    IdempotencyRow,
    JobRow,
    JobState,
    Needs,
    Snapshot,
    Store,
    StreamKey,
    StreamRow,
    WriteSet,
)
from outlast.core.telemetry import CommitSpans, Histogram

log = logging.getLogger("outlast.commit")

MAX_FLUSH = 256
"""Most submissions in one transaction: bounds how long it takes, and holds up the event loop (about 20 ms)."""

MAX_FLUSH_WEIGHT = 1_280
"""Events after which a flush takes no further submission in: one with many must not make a flush of hundreds long."""

MAX_WAITING = 8192
"""Most submissions waiting for a flush; more are refused as overloaded."""

FLUSH_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Bounds of the distribution of flushes by duration."""

MAX_JOB_PAYLOAD_BYTES = 16 * 1024
"""A job refers to documents; it does not carry them."""

_EMPTY = msgspec.Raw(b"null")


class Idempotency(msgspec.Struct, frozen=True):
    """A caller's key and the digest of the body it came with (both free-form; hashed before storing)."""

    key: str
    body: bytes


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a leased job. ``lease`` is the number it was claimed with; a newer one wins.

    ``done``; ``ready`` to run again at ``run_at_ms`` (a retry); ``dead`` or ``parked`` until a person acts;
    ``leased`` merely extends the lease to ``lease_until_ms`` (a heartbeat). A person's action names the state
    it found the job in (``expect``); a job so made ready starts with no attempts behind it.
    """

    job: int
    lease: int
    expect: JobState = "leased"
    state: JobState = "done"
    run_at_ms: int = 0
    lease_until_ms: int = 0
    error: str = ""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One command for one stream, and what goes with it.

    ``counters`` names the sequence numbers the command wants (handed to it as ``command.numbers``).
    ``expected_version`` makes it optimistic: Conflict when the stream is elsewhere. ``subject_key`` is kept,
    wrapped, beside the log, so that destroying it makes the stream's personal fields unreadable. ``trace`` (a W3C
    ``traceparent``) goes with the jobs that follow; it is no part of the log. ``weight`` is about how many events it
    leads to.
    """

    tenant: str
    actor: str
    kind: str
    stream: str
    command: Command
    cause: str = ""
    flags: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    idempotency: Idempotency | None = None
    expected_version: int | None = None
    finish: Finish | None = None
    subject_key: bytes | None = None
    trace: str = ""
    weight: int = 1

    @property
    def key(self) -> StreamKey:
        """The stream's full name."""
        return StreamKey(self.tenant, self.kind, self.stream)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Proof that a command was accepted: durable, and in the log at ``index`` .. ``index + count - 1``.

    ``count`` 0: the command changed nothing. ``hlc`` is of the last event. ``reply`` is the decision's reply
    as JSON, or null. ``replayed``: this is the answer given earlier to the same idempotency key.
    """

    stream: str
    version: int
    index: int
    count: int
    hlc: str
    reply: msgspec.Raw = _EMPTY
    replayed: bool = False


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's wish for up to ``limit`` due jobs, held until ``now_ms + ttl_ms``."""

    worker: str
    kinds: tuple[str, ...]
    limit: int
    now_ms: int
    ttl_ms: int


class Settle(msgspec.Struct, frozen=True):
    """A job's end or heartbeat that no stream needs to know of."""

    tenant: str
    finish: Finish


Work = Submission | Claim | Settle
Outcome = Receipt | list[JobRow] | None | Exception

_encode = msgspec.json.Encoder().encode
_decode_receipt = msgspec.json.Decoder(Receipt).decode


def idempotency_digest(tenant: str, key: str) -> bytes:
    """The 16 bytes under which a tenant's idempotency key is remembered."""
    return hashlib.blake2b(f"{tenant}\x00{key}".encode(), digest_size=16).digest()


def body_digest(body: bytes) -> bytes:
    """The 16 bytes under which a request's body is remembered."""
    return hashlib.blake2b(body, digest_size=16).digest()


async def recall(store: Store, tenant: str, idempotency: Idempotency) -> Receipt | None:
    """The answer once given to a tenant's key, without deciding anything; None where there is none.

    For callers that would refuse before they submit: whoever was told "accepted", and lost the answer, must not be
    told "refused" when asking again. Raises Refused ``idempotency-key-reused``.
    """
    known = await store.idempotency(idempotency_digest(tenant, idempotency.key))
    return None if known is None else _replayed(known, idempotency)


def _replayed(known: IdempotencyRow, idempotency: Idempotency) -> Receipt:
    if known.body != body_digest(idempotency.body):
        raise Refused(
            "idempotency-key-reused",
            "this Idempotency-Key came earlier with another body",
            hint="Use a fresh key for a different request.",
        )
    return msgspec.structs.replace(_decode_receipt(known.receipt), replayed=True)


def needs_of(batch: Sequence[Work]) -> Needs:
    """What planning this batch will look at."""
    needs = Needs()
    for work in batch:
        if isinstance(work, Claim):
            needs.claims.append(ClaimAsk(work.kinds, work.limit, work.now_ms))
            continue
        finish = work.finish
        if finish is not None:
            needs.jobs.add(finish.job)
        if isinstance(work, Submission):
            needs.streams.add(work.key)
            needs.counters.update(work.counters)
            if work.idempotency is not None:
                needs.idempotency.add(idempotency_digest(work.tenant, work.idempotency.key))
    return needs


class Planner:
    """Turns a batch and a snapshot into what to write and what to answer. Pure but for the clock it ticks."""

    def __init__(self, deciders: Deciders, hlc: HybridClock, site: str) -> None:
        self._deciders = deciders
        self._hlc = hlc
        self._site = site
        self.replays = 0
        """Commands that got the answer given before to their key."""

    def plan(
        self, batch: Sequence[Work], snapshot: Snapshot, now_ms: int
    ) -> tuple[WriteSet, list[Outcome]]:
        """One outcome per piece of work, in order: its result, or the exception that it alone gets."""
        self._hlc.resume(snapshot.head.hlc)
        flush = _Flush(snapshot, self._deciders, self._hlc, self._site, now_ms)
        outcomes: list[Outcome] = []
        claims = iter(snapshot.claimable)
        for work in batch:
            try:
                if isinstance(work, Submission):
                    outcomes.append(flush.submit(work))
                elif isinstance(work, Claim):
                    outcomes.append(flush.claim(work, next(claims)))
                else:
                    flush.settle(work.tenant, work.finish)
                    outcomes.append(None)
            except OutlastError as error:
                outcomes.append(error)
            except (
                Exception
            ) as error:  # a decider's bug is its command's failure, not its neighbours'
                outcomes.append(error)
        self.replays += flush.replays
        return flush.write_set(), outcomes


class _Flush:
    """The state of one flush while it is being planned: the snapshot, overlaid by what is already decided."""

    def __init__(
        self, snapshot: Snapshot, deciders: Deciders, hlc: HybridClock, site: str, now_ms: int
    ) -> None:
        self._snapshot = snapshot
        self._deciders = deciders
        self._hlc = hlc
        self._site = site
        self._now_ms = now_ms
        self._tree = CompactRange.decode(snapshot.head.edge)
        self._next_job = snapshot.head.next_job
        self._last_hlc = snapshot.head.hlc
        self._known = dict(snapshot.idempotency)
        self._states: dict[StreamKey, Any] = {}
        self._write = WriteSet(head=snapshot.head)
        self.replays = 0

    def write_set(self) -> WriteSet:
        """All that the flush writes."""
        self._write.head = Head(
            self._tree.size, self._tree.encode(), self._last_hlc, self._next_job
        )
        return self._write

    def submit(self, work: Submission) -> Receipt:
        """Decide one command and stage what follows; stages nothing when it raises."""
        digest = None
        if work.idempotency is not None:
            digest = idempotency_digest(work.tenant, work.idempotency.key)
            if (known := self._known.get(digest)) is not None:
                self.replays += 1
                return _replayed(known, work.idempotency)
        finished = self._finished(work.tenant, work.finish) if work.finish is not None else None
        decider, key = self._deciders.of(work.kind), work.key
        row = self._row(key)
        self._check_version(work, row)
        state = self._state(key, row)
        command, numbers = self._number(work)
        decision = decider.decide(command, state)
        jobs = [self._job_payload(job) for job in decision.jobs]
        reply = _EMPTY if decision.reply is None else msgspec.Raw(_encode(decision.reply))
        staged = self._stage_events(work, decider, decision.events, state, row)
        # nothing below can fail: from here on the command is in
        self._write.counters.update(numbers if decision.events else {})
        for leaf, entry in staged.entries:
            self._tree.append(leaf)
            self._write.entries.append(entry)
        if decision.events:
            self._last_hlc = staged.hlc
            if row is None and key not in self._write.streams:
                self._write.new_streams.add(key)
            self._write.streams[key] = staged.row
            self._states[key] = staged.state
        for job, payload in zip(decision.jobs, jobs, strict=True):
            self._add_job(work, job, payload, staged.row.last_index)
        if finished is not None:
            self._write.jobs[finished.id] = finished
        if work.subject_key is not None:
            self._write.subject_keys[work.stream] = work.subject_key
        receipt = Receipt(
            stream=work.stream,
            version=staged.row.version,
            index=staged.row.last_index - max(0, len(decision.events) - 1),
            count=len(decision.events),
            hlc=hlc_text(staged.hlc),
            reply=reply,
        )
        if digest is not None and work.idempotency is not None:
            self._remember(digest, work.idempotency, receipt)
        return receipt

    def claim(self, work: Claim, claimable: Sequence[JobRow]) -> list[JobRow]:
        """Lease what is claimable and not already taken in this flush."""
        taken: list[JobRow] = []
        for row in claimable:
            if len(taken) == work.limit:
                break
            if row.id in self._write.jobs:
                continue
            leased = msgspec.structs.replace(
                row,
                state="leased",
                lease=row.lease + 1,
                worker=work.worker,
                lease_until_ms=work.now_ms + work.ttl_ms,
                attempts=row.attempts + 1,
            )
            self._write.jobs[row.id] = leased
            taken.append(leased)
        return taken

    def settle(self, tenant: str, finish: Finish) -> None:
        """End, retry or extend a job that its holder still holds."""
        row = self._finished(tenant, finish)
        self._write.jobs[row.id] = row

    def _finished(self, tenant: str, finish: Finish) -> JobRow:
        row = self._write.jobs.get(finish.job) or self._snapshot.jobs.get(finish.job)
        if row is None or row.tenant != tenant:
            raise Refused(
                "job-not-found", f"there is no job {finish.job}", scope=f"job/{finish.job}"
            )
        if row.state != finish.expect or row.lease != finish.lease:
            raise Conflict(
                "job-fenced",
                f"job {finish.job} is {row.state} under lease {row.lease}, not {finish.lease}",
                hint="Somebody else has taken the job over; drop this result.",
                retry="never",
                scope=f"job/{finish.job}",
            )
        return msgspec.structs.replace(
            row,
            state=finish.state,
            run_at_ms=finish.run_at_ms or row.run_at_ms,
            lease_until_ms=finish.lease_until_ms,
            attempts=row.attempts if finish.expect == "leased" else 0,
            error=finish.error,
        )

    def _row(self, key: StreamKey) -> StreamRow | None:
        return self._write.streams.get(key) or self._snapshot.streams.get(key)

    def _state(self, key: StreamKey, row: StreamRow | None) -> Any:
        if key in self._states:
            return self._states[key]
        return None if row is None else self._deciders.decode_state(key.kind, row.state)

    def _check_version(self, work: Submission, row: StreamRow | None) -> None:
        version = 0 if row is None else row.version
        if work.expected_version is not None and work.expected_version != version:
            raise Conflict(
                "version-conflict",
                f"{work.kind}/{work.stream} is at version {version}, not {work.expected_version}",
                hint="Read it again and decide on what it says now.",
                scope=f"{work.kind}/{work.stream}",
            )

    def _number(self, work: Submission) -> tuple[Command, dict[str, int]]:
        if not work.counters:
            return work.command, {}
        numbers = {}
        for name in work.counters:
            last = self._write.counters.get(name)
            if last is None:
                last = self._snapshot.counters.get(name, 0)
            numbers[name] = last + 1
        return msgspec.structs.replace(work.command, numbers=numbers), numbers

    def _stage_events(
        self,
        work: Submission,
        decider: Decider[Any, Any],
        events: Sequence[Event],
        state: Any,
        row: StreamRow | None,
    ) -> _Staged:
        version = 0 if row is None else row.version
        last_index = -1 if row is None else row.last_index
        if not events:
            unchanged = row or StreamRow(0, "", b"", -1, self._now_ms)
            return _Staged([], state, unchanged, self._last_hlc)
        entries: list[tuple[bytes, EntryRow]] = []
        stream = f"{work.kind}/{work.stream}"
        hlc = 0
        for event in events:
            version += 1
            hlc = self._hlc.tick()
            entry = Entry(
                type=event.name,
                site=self._site,
                hlc=hlc_text(hlc),
                vec={self._site: version},
                tenant=work.tenant,
                stream=stream,
                seq=version,
                epoch=1,
                actor=work.actor,
                cause=work.cause,
                flags=work.flags,
                data=msgspec.Raw(_encode(event)),
            )
            leaf = encode_entry(entry)
            index = self._tree.size + len(entries)
            entries.append((leaf_hash(leaf), EntryRow(index, last_index, leaf)))
            last_index = index
            state = decider.evolve(state, event)
        new = StreamRow(version, state.label, _encode(state), last_index, self._now_ms)
        return _Staged(entries, state, new, hlc)

    def _job_payload(self, job: NewJob) -> bytes:
        payload = _encode(job.payload)
        if len(payload) > MAX_JOB_PAYLOAD_BYTES:
            raise Refused(
                "job-too-large",
                f"a {job.kind} job of {len(payload)} bytes exceeds {MAX_JOB_PAYLOAD_BYTES}",
            )
        return payload

    def _add_job(self, work: Submission, job: NewJob, payload: bytes, cause: int) -> None:
        job_id = self._next_job
        self._next_job += 1
        self._write.new_jobs.add(job_id)
        self._write.jobs[job_id] = JobRow(
            job_id, work.tenant, job.kind, f"{work.kind}/{work.stream}", payload, "ready",
            job.run_at_ms or self._now_ms, 0, "", 0, 0, cause, self._now_ms, "", work.trace,
        )  # fmt: skip

    def _remember(self, digest: bytes, idempotency: Idempotency, receipt: Receipt) -> None:
        row = IdempotencyRow(digest, body_digest(idempotency.body), _encode(receipt), self._now_ms)
        self._known[digest] = row
        self._write.idempotency.append(row)


class _Staged(msgspec.Struct):
    """A command's events, encoded and folded, not yet part of the flush."""

    entries: list[tuple[bytes, EntryRow]]
    state: Any
    row: StreamRow
    hlc: int


class Committer:
    """Queues work, flushes it in groups, and answers when it is durable.

    ``on_commit`` is called on the event loop after each flush with what was written (new jobs to wake workers,
    entries to wake the log's publisher); it must be quick and must not raise.
    """

    def __init__(
        self,
        store: Store,
        planner: Planner,
        clock: Clock,
        on_commit: Callable[[WriteSet], None] | None = None,
    ) -> None:
        self._store = store
        self._planner = planner
        self._clock = clock
        self._on_commit = on_commit
        self._waiting: deque[tuple[Work, asyncio.Future[Any]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self.flushes = 0
        self.committed = 0
        self.failed: dict[str, int] = {}
        """Commands that were not committed, by kind of error."""
        self.flush_seconds = Histogram(FLUSH_S)
        self.spans: CommitSpans | None = None

    @property
    def waiting(self) -> int:
        """How many submissions wait for the next flush."""
        return len(self._waiting)

    @property
    def replays(self) -> int:
        """Commands that got the answer given before to their key."""
        return self._planner.replays

    async def submit(self, work: Submission) -> Receipt:
        """Decide, write durably, answer. Raises Refused, Conflict, Unavailable, Unknown."""
        if self.spans is not None:
            return await self.spans.submit(work, self._enqueue)
        receipt: Receipt = await self._enqueue(work)
        return receipt

    async def claim(self, work: Claim) -> list[JobRow]:
        """Lease due jobs."""
        jobs: list[JobRow] = await self._enqueue(work)
        return jobs

    async def settle(self, work: Settle) -> None:
        """End, retry or extend a leased job; Conflict ``job-fenced`` when it is held no longer."""
        await self._enqueue(work)

    async def drain(self) -> None:
        """Wait until everything queued so far is flushed."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _enqueue(self, work: Work) -> asyncio.Future[Any]:
        if len(self._waiting) >= MAX_WAITING:
            error = Unavailable(
                "overloaded",
                f"{MAX_WAITING} commands already wait for the disk",
                hint="Send fewer at once, or retry after the given time.",
                retry_after_s=1.0,
                scope="site",
            )
            raise self._counted(error)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((work, future))
        if self._task is None:
            self._task = loop.create_task(self._flush_all(), name="committer")
        return future

    async def _flush_all(self) -> None:
        try:
            while self._waiting:
                if batch := self._next_batch():
                    await self._flush(batch)
        finally:
            self._task = None

    def _next_batch(self) -> list[tuple[Work, asyncio.Future[Any]]]:
        batch: list[tuple[Work, asyncio.Future[Any]]] = []
        waiting, weight = self._waiting, 0
        while waiting and len(batch) < MAX_FLUSH and weight < MAX_FLUSH_WEIGHT:
            work, future = waiting.popleft()
            if future.done():  # a caller that gave up before its turn is not committed
                continue
            batch.append((work, future))
            weight += work.weight if isinstance(work, Submission) else 1
        return batch

    async def _flush(self, batch: list[tuple[Work, asyncio.Future[Any]]]) -> None:
        works = [work for work, _ in batch]
        outcomes: list[Outcome] = []
        written: WriteSet | None = None

        def plan(snapshot: Snapshot) -> WriteSet:
            nonlocal outcomes, written
            written, outcomes = self._planner.plan(works, snapshot, self._clock.now_ms())
            return written

        began_s = self._clock.monotonic_s()
        span = None if self.spans is None else self.spans.flush(works)
        failure: Exception | None = None
        try:
            await self._store.flush(needs_of(works), plan)
        except Exception as error:
            failure = error
        self.flush_seconds.observe(self._clock.monotonic_s() - began_s, span)
        if span is not None:
            span.over(failure)
        if failure is not None:
            await self._flush_failed(batch, failure)
            return
        self.flushes += 1
        self.committed += len(works)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(self._counted(outcome))
            else:
                future.set_result(outcome)
        if self._on_commit is not None and written is not None:
            self._tell(self._on_commit, written)

    def _tell(self, listener: Callable[[WriteSet], None], written: WriteSet) -> None:
        try:
            listener(written)
        except Exception:
            # The commit stands and the queue must go on: a listener's bug costs a wake-up, not the site.
            log.exception("a listener of the commit path raised")

    async def _flush_failed(
        self, batch: list[tuple[Work, asyncio.Future[Any]]], error: Exception
    ) -> None:
        # Something in the batch that the plan could not foresee (a constraint): alone, each gets its own answer.
        if len(batch) > 1 and not isinstance(error, Unavailable | Unknown | Corrupt):
            for item in batch:
                await self._flush([item])
            return
        for _, future in batch:
            if not future.done():
                future.set_exception(self._counted(error))

    def _counted(self, error: Exception) -> Exception:
        kind = type(error).__name__.lower() if isinstance(error, OutlastError) else "internal"
        self.failed[kind] = self.failed.get(kind, 0) + 1
        return error
