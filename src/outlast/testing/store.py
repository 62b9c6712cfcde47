"""A store that is a handful of dictionaries, and fails exactly as it is told to.

It passes the same suite as the real engines (`testing.suites.store`). Its methods are plain coroutines that never
suspend, so the simulator can drive them without an event loop. What is committed lives in a `MemoryDisk`, which
survives the store that wrote it: crash one, open another on the same disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Literal, TypeVar

import msgspec

from outlast.core.errors import Conflict, Unavailable, Unknown
from outlast.core.log.merkle import CompactRange
from outlast.core.store.port import (
    ClaimAsk,
    Head,
    IdempotencyRow,
    JobCounts,
    JobGroup,
    JobRow,
    JobState,
    Needs,
    Plan,
    PoolUse,
    Snapshot,
    StreamItem,
    StreamKey,
    StreamRow,
    WriteSet,
)

K = TypeVar("K")
V = TypeVar("V")

PRUNE_IDEMPOTENCY = 1_000
PRUNE_JOBS = 2_000
"""Rows looked at by one prune, as in the SQL engines."""

FlushFault = Literal[
    "fail-before",  # Unavailable, nothing written
    "fail-after",  # written, but the answer is lost: Unknown
    "full",  # Unavailable storage-full, nothing written
    "crash-before",  # the store dies, nothing written
    "crash-after",  # the store dies, written
]


class Crashed(BaseException):
    """The process died here. Not an Exception: nothing may handle it and go on."""


class MemoryDisk:
    """What is committed. ``entries[i]`` is (index of the stream's entry before it, leaf)."""

    def __init__(self) -> None:
        self.head = Head(0, CompactRange().encode(), 0, 1)
        self.entries: list[tuple[int, bytes]] = []
        self.streams: dict[StreamKey, StreamRow] = {}
        self.idempotency: dict[bytes, IdempotencyRow] = {}
        self.jobs: dict[int, JobRow] = {}
        self.unfinished: set[int] = set()
        """Jobs that are ready or leased."""
        self.counters: dict[str, int] = {}
        self.subject_keys: dict[str, bytes] = {}

    def release_leases(self) -> None:
        """Void every lease: its holder is gone."""
        for job_id in self.unfinished:
            job = self.jobs[job_id]
            if job.state == "leased":
                self.jobs[job_id] = msgspec.structs.replace(job, lease_until_ms=0)

    def check(self, write: WriteSet) -> None:
        """Refuse what SQL's unique keys would: Conflict ``storage-conflict``, nothing written."""
        indices = [entry.index for entry in write.entries]
        if indices != list(range(len(self.entries), len(self.entries) + len(indices))):
            raise _conflict(f"entries {indices} after {len(self.entries)}")
        digests = {row.digest for row in write.idempotency}
        if len(digests) < len(write.idempotency) or digests & self.idempotency.keys():
            raise _conflict("an idempotency key is known already")
        for what, new, present in (
            ("stream", write.new_streams, self.streams.keys()),
            ("job", write.new_jobs, self.jobs.keys()),
            ("subject key", write.subject_keys.keys(), self.subject_keys.keys()),
        ):
            if clash := new & present:
                raise _conflict(f"{what} {clash} exists already")

    def apply(self, write: WriteSet) -> None:
        """Write everything; cannot fail."""
        self.entries.extend((entry.previous, entry.leaf) for entry in write.entries)
        self.streams.update(write.streams)
        self.idempotency.update((row.digest, row) for row in write.idempotency)
        self.counters.update(write.counters)
        self.subject_keys.update(write.subject_keys)
        for job in write.jobs.values():
            self.jobs[job.id] = job
            if job.state in ("ready", "leased"):
                self.unfinished.add(job.id)
            else:
                self.unfinished.discard(job.id)
        self.head = write.head


class MemoryStore:
    """`Store` on a `MemoryDisk`.

    ``plan(fault, None, fault)`` gives the next flushes their faults (None: none); ``always(fault)`` holds for
    every flush beyond the plan. ``before_flush`` is awaited at the start of each flush: a test may hold it there.
    """

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        *,
        before_flush: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.before_flush = before_flush
        self.flushes = 0
        """Flushes that were committed."""
        self._open = True
        self._plan: deque[FlushFault | None] = deque()
        self._always: FlushFault | None = None
        self.disk.release_leases()

    def plan(self, *faults: FlushFault | None) -> None:
        """Give the next flushes these faults, after those already planned."""
        self._plan.extend(faults)

    def always(self, fault: FlushFault | None) -> None:
        """From now on, whatever is not planned goes this way; None heals."""
        self._always = fault

    def crash(self) -> MemoryDisk:
        """The process is gone, with all that was not committed; what was is on the disk returned."""
        self._open = False
        return self.disk

    # -- writing ----------------------------------------------------------------------------------

    async def flush(self, needs: Needs, plan: Plan) -> None:
        if self.before_flush is not None:
            await self.before_flush()
        self._check_open()
        fault = self._plan.popleft() if self._plan else self._always
        if fault == "fail-before":
            raise Unavailable("storage-error", "the store is told to fail", scope="site")
        write = plan(self._load(needs))
        if fault == "full":
            raise Unavailable("storage-full", "the store is told to be full", scope="site")
        if fault == "crash-before":
            self._open = False
            raise Crashed
        self.disk.check(write)
        self.disk.apply(write)
        self.flushes += 1
        if fault == "crash-after":
            self._open = False
            raise Crashed
        if fault == "fail-after":
            raise Unknown("storage-answer-lost", "the store is told to lose its answer")

    async def prune(self, *, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        self._check_open()
        disk = self.disk
        old = list(disk.idempotency.values())[:PRUNE_IDEMPOTENCY]
        digests = [row.digest for row in old if row.created_ms < idempotency_before_ms]
        finished = (job_id for job_id in sorted(disk.jobs) if disk.jobs[job_id].state == "done")
        done = [
            job_id
            for job_id in islice(finished, PRUNE_JOBS)
            if disk.jobs[job_id].created_ms < jobs_before_ms
        ]
        for digest in digests:
            del disk.idempotency[digest]
        for job_id in done:
            del disk.jobs[job_id]
        return len(digests) + len(done)

    def _load(self, needs: Needs) -> Snapshot:
        disk = self.disk
        return Snapshot(
            head=disk.head,
            streams=_present(disk.streams, needs.streams),
            idempotency=_present(disk.idempotency, needs.idempotency),
            jobs=_present(disk.jobs, needs.jobs),
            counters=_present(disk.counters, needs.counters),
            claimable=[self._claimable(ask) for ask in needs.claims],
        )

    def _claimable(self, ask: ClaimAsk) -> list[JobRow]:
        expired, due = [], []
        for job_id in self.disk.unfinished:
            job = self.disk.jobs[job_id]
            if job.kind not in ask.kinds:
                continue
            if job.state == "leased" and job.lease_until_ms <= ask.now_ms:
                expired.append(job)
            elif job.state == "ready" and job.run_at_ms <= ask.now_ms:
                due.append(job)
        expired.sort(key=lambda job: (job.lease_until_ms, job.id))
        due.sort(key=lambda job: (job.run_at_ms, job.id))
        return expired + due

    # -- reading ----------------------------------------------------------------------------------

    async def head(self) -> Head:
        self._check_open()
        return self.disk.head

    async def stream(self, key: StreamKey) -> StreamRow | None:
        self._check_open()
        return self.disk.streams.get(key)

    async def idempotency(self, digest: bytes) -> IdempotencyRow | None:
        self._check_open()
        return self.disk.idempotency.get(digest)

    async def streams(
        self,
        tenant: str,
        kind: str,
        *,
        label: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[StreamItem]:
        self._check_open()
        found = [
            StreamItem(key.id, row)
            for key, row in self.disk.streams.items()
            if (key.tenant, key.kind) == (tenant, kind)
            and (label is None or row.label == label)
            and (before is None or key.id < before)
        ]
        return sorted(found, key=lambda item: item.id, reverse=True)[:limit]

    async def entries(self, start: int, limit: int) -> list[bytes]:
        self._check_open()
        return [leaf for _, leaf in self.disk.entries[start : start + limit]]

    async def stream_entries(self, key: StreamKey, limit: int = 1000) -> list[tuple[int, bytes]]:
        self._check_open()
        row = self.disk.streams.get(key)
        index = -1 if row is None else row.last_index
        found: list[tuple[int, bytes]] = []
        while index >= 0 and len(found) < limit:
            previous, leaf = self.disk.entries[index]
            found.append((index, leaf))
            index = previous
        return found[::-1]

    async def job(self, job_id: int) -> JobRow | None:
        self._check_open()
        return self.disk.jobs.get(job_id)

    async def jobs(
        self, tenant: str, *, state: JobState | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[JobRow]:
        self._check_open()
        found = [
            job
            for job in self.disk.jobs.values()
            if job.tenant == tenant and job.id > after and state in (None, job.state)
        ]
        return sorted(found, key=lambda job: job.id)[:limit]

    async def job_counts(self) -> JobCounts:
        self._check_open()
        states = [job.state for job in self.disk.jobs.values()]
        return JobCounts(
            states.count("ready"),
            states.count("leased"),
            states.count("dead"),
            states.count("parked"),
        )

    async def job_groups(self) -> list[JobGroup]:
        self._check_open()
        found: dict[tuple[str, JobState], list[JobRow]] = {}
        for job in self.disk.jobs.values():
            if job.state != "done":
                found.setdefault((job.kind, job.state), []).append(job)
        return [
            JobGroup(
                *key, len(jobs), min(j.created_ms for j in jobs), min(j.run_at_ms for j in jobs)
            )
            for key, jobs in found.items()
        ]

    def pool_use(self) -> PoolUse | None:
        return None

    async def count_jobs(self, kind: str) -> int:
        self._check_open()
        return sum(self.disk.jobs[job_id].kind == kind for job_id in self.disk.unfinished)

    async def next_due_ms(self, kinds: Sequence[str]) -> int | None:
        self._check_open()
        jobs = [self.disk.jobs[job_id] for job_id in self.disk.unfinished]
        times = [
            job.run_at_ms if job.state == "ready" else job.lease_until_ms
            for job in jobs
            if job.kind in kinds
        ]
        return min(times, default=None)

    async def subject_key(self, subject: str) -> bytes | None:
        self._check_open()
        return self.disk.subject_keys.get(subject)

    async def counter(self, name: str) -> int:
        self._check_open()
        return self.disk.counters.get(name, 0)

    async def close(self) -> None:
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable("storage-closed", "the store is closed", scope="site")


def _conflict(detail: str) -> Conflict:
    return Conflict("storage-conflict", detail, scope="site")


def _present(table: dict[K, V], keys: set[K]) -> dict[K, V]:
    return {key: table[key] for key in keys if key in table}
