"""What the commit path needs of a database: one write, a few reads.

``flush`` is the only way to write: in one transaction it loads what ``needs`` names (set-based, a statement per
table), calls the function ``plan`` on it, writes the ``WriteSet`` it returns (a statement per table) and commits
durably. Where another node has written meanwhile, ``plan`` is called again on what there is now, and only its last
answer counts. Engines therefore know nothing of commands or events, and the planning is written and tested once; the
simulator's engine is a dictionary.

After ``flush`` returns, its writes survive a power cut. When it raises, nothing was written, except that
``Unknown`` (connection lost during commit) says that it may have been. A write that contradicts what is stored (a
second row for a unique key) is ``Conflict`` ``storage-conflict``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

JobState = Literal["ready", "leased", "done", "dead", "parked"]


class StreamKey(NamedTuple):
    """Names a stream. ``id`` is a UUIDv7 or a natural name, 200 characters at most."""

    tenant: str
    kind: str
    id: str


class StreamRow(msgspec.Struct, frozen=True):
    """A stream's newest state. ``version`` counts its events; ``last_index`` is its newest log entry."""

    version: int
    label: str
    state: bytes
    last_index: int
    updated_ms: int


class EntryRow(msgspec.Struct, frozen=True):
    """A log entry: its bytes as first written, and the index of the stream's entry before it (-1: none)."""

    index: int
    previous: int
    leaf: bytes


class IdempotencyRow(msgspec.Struct, frozen=True):
    """The answer once given to an idempotency key. ``digest`` (16 bytes) is of tenant and key, ``body`` (16
    bytes) of the request it came with."""

    digest: bytes
    body: bytes
    receipt: bytes
    created_ms: int


class JobRow(msgspec.Struct, frozen=True):
    """Durable work. ``lease`` grows at every claim and fences whoever held the job before. ``stream``
    (``kind/id``) is whose event made it, at log index ``cause``; ``trace`` is the W3C ``traceparent`` of the request
    that led to it, or empty."""

    id: int
    tenant: str
    kind: str
    stream: str
    payload: bytes
    state: JobState
    run_at_ms: int
    lease: int
    worker: str
    lease_until_ms: int
    attempts: int
    cause: int
    created_ms: int
    error: str
    trace: str = ""


class Head(msgspec.Struct, frozen=True):
    """Where the site's log stands: entries, the tree's right edge (`CompactRange.encode`), the newest hybrid
    timestamp, the next job number."""

    size: int
    edge: bytes
    hlc: int
    next_job: int


class ClaimAsk(NamedTuple):
    """A worker's wish for jobs that are due, or whose lease has run out, at ``now_ms``."""

    kinds: tuple[str, ...]
    limit: int
    now_ms: int


class Needs(msgspec.Struct):
    """What a plan will look at."""

    streams: set[StreamKey] = msgspec.field(default_factory=set)
    idempotency: set[bytes] = msgspec.field(default_factory=set)
    jobs: set[int] = msgspec.field(default_factory=set)
    counters: set[str] = msgspec.field(default_factory=set)
    claims: list[ClaimAsk] = msgspec.field(default_factory=list)


class Snapshot(msgspec.Struct):
    """What there is of what was needed; absent keys are absent. ``claimable[i]`` answers ``claims[i]``; a job
    may be in several answers."""

    head: Head
    streams: dict[StreamKey, StreamRow]
    idempotency: dict[bytes, IdempotencyRow]
    jobs: dict[int, JobRow]
    counters: dict[str, int]
    claimable: list[list[JobRow]]


class WriteSet(msgspec.Struct):
    """Everything one transaction writes. ``jobs`` are new or changed; ``new_jobs`` tells which are new."""

    head: Head
    streams: dict[StreamKey, StreamRow] = msgspec.field(default_factory=dict)
    new_streams: set[StreamKey] = msgspec.field(default_factory=set)
    entries: list[EntryRow] = msgspec.field(default_factory=list)
    idempotency: list[IdempotencyRow] = msgspec.field(default_factory=list)
    jobs: dict[int, JobRow] = msgspec.field(default_factory=dict)
    new_jobs: set[int] = msgspec.field(default_factory=set)
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    subject_keys: dict[str, bytes] = msgspec.field(default_factory=dict)

    def changes(self, snapshot: Snapshot) -> bool:
        """Whether there is anything to write at all."""
        rows = (self.streams, self.entries, self.idempotency, self.jobs, self.counters)
        return any(rows) or bool(self.subject_keys) or self.head != snapshot.head


Plan = Callable[[Snapshot], WriteSet]


class JobCounts(msgspec.Struct, frozen=True):
    """Jobs by state; ``due`` are ready ones whose time has come."""

    ready: int
    leased: int
    dead: int
    parked: int


class JobGroup(msgspec.Struct, frozen=True):
    """The unfinished jobs of one kind in one state: how many, when the oldest was made, and when the first of them came
    or comes due."""

    kind: str
    state: JobState
    count: int
    oldest_made_ms: int
    oldest_due_ms: int


class PoolUse(msgspec.Struct, frozen=True):
    """Sessions with a database server: open ones, of these idle ones, and how many there may be."""

    open: int
    idle: int
    most: int


class StreamItem(msgspec.Struct, frozen=True):
    """A row of a listing."""

    id: str
    row: StreamRow


class Store(Protocol):
    """A site's database. All methods may raise Unavailable; ``flush`` also Unavailable ``storage-full``."""

    async def flush(self, needs: Needs, plan: Plan) -> None:
        """Load, plan, write, commit. An exception from ``plan`` rolls back and is raised."""
        ...

    async def head(self) -> Head:
        """Where the log stands."""
        ...

    async def stream(self, key: StreamKey) -> StreamRow | None:
        """The newest state of a stream."""
        ...

    async def idempotency(self, digest: bytes) -> IdempotencyRow | None:
        """The answer once given to an idempotency key, by its digest."""
        ...

    async def streams(
        self,
        tenant: str,
        kind: str,
        *,
        label: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[StreamItem]:
        """Streams of a kind, newest id first, those with an id less than ``before``, ``limit`` at most."""
        ...

    async def entries(self, start: int, limit: int) -> list[bytes]:
        """Leaves from index ``start`` on, in order, ``limit`` at most."""
        ...

    async def stream_entries(self, key: StreamKey, limit: int = 1000) -> list[tuple[int, bytes]]:
        """A stream's newest entries, oldest first, as (index, leaf)."""
        ...

    async def job(self, job_id: int) -> JobRow | None:
        """One job."""
        ...

    async def jobs(
        self, tenant: str, *, state: JobState | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[JobRow]:
        """Jobs by growing id."""
        ...

    async def job_counts(self) -> JobCounts:
        """How much work there is."""
        ...

    async def job_groups(self) -> list[JobGroup]:
        """All that is not done, by kind and state; a scan, not for hot paths."""
        ...

    def pool_use(self) -> PoolUse | None:
        """How busy the sessions for reading are; None where there is no pool of them."""
        ...

    async def count_jobs(self, kind: str) -> int:
        """How many jobs of a kind are ready or leased; a scan, not for hot paths."""
        ...

    async def next_due_ms(self, kinds: Sequence[str]) -> int | None:
        """When the next ready job of these kinds comes due or its lease runs out; None when there is neither."""
        ...

    async def subject_key(self, subject: str) -> bytes | None:
        """The wrapped key of a subject, or None when it never was or has been destroyed."""
        ...

    async def counter(self, name: str) -> int:
        """The last number a counter gave out; 0 when none."""
        ...

    async def prune(self, *, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        """Forget idempotency records and finished jobs older than given, a bounded number; returns how many."""
        ...

    async def close(self) -> None:
        """Finish what is under way and close."""
        ...
