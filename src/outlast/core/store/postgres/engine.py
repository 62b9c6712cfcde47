"""The store of a site with several nodes: PostgreSQL through asyncpg.

Each node has one session that writes and a pool that reads. Flushes of all nodes happen one after the other: log
indices are in commit order without gaps, nothing that a plan has seen can change under it, and a job is claimed once
without any lock of its own. There are two ways to that, and a node takes the one that is quicker now:

- **Alone.** Load, plan, write: two round trips, each a transaction of its own. The write is done only if the log
  head's row is the very version that was loaded; otherwise all is done again, under the lock.
- **In turn**, for a while after another node got between: the head's row is locked before anything is looked at, and
  until COMMIT has returned.

What a node pays for that is a share of one commit per flush; group commit makes a flush carry hundreds of commands.

Nothing is cached: another node may have written. A lease belongs to the node that took it: opening the store
leaves the leases of others alone, closing it gives back its own, and those of a node that died run out.

If the power goes, on this side or the server's: a transaction whose COMMIT had returned is on the server's disk
(and on its synchronous standby's); one whose COMMIT had been sent may be, which is Unknown; any other is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg

from outlast.core.clock import Clock, SystemClock
from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.core.store.migration import Migration, schema_newer
from outlast.core.store.port import (
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
from outlast.core.store.postgres import partitions
from outlast.core.store.postgres.failure import RETRY_S, busy, translated, unknown, unreachable
from outlast.core.store.postgres.floors import Floors
from outlast.core.store.postgres.lookup import Lookup
from outlast.core.store.postgres.primary import Primary, Session
from outlast.core.store.postgres.rows import HEAD_COLUMNS, OWN_COLUMNS, snapshot_of
from outlast.core.store.postgres.schema import prepare_schema
from outlast.core.store.postgres.session import (
    connect_reader,
    connect_writer,
)
from outlast.core.store.postgres.skew import refuse_skew
from outlast.core.store.postgres.statements import HeadVersion, Place, Statements
from outlast.core.store.queries import load_queries

log = logging.getLogger("outlast.store")

READERS = 8
"""Most sessions that read at once, per node."""
POOL_WAIT_S = 5.0
"""How long a read waits for one of them."""
FLUSH_LIMIT_S = 30.0
"""After this time without COMMIT's answer the connection is given up."""
ROLLBACK_LIMIT_S = 2.0
CLOSE_LIMIT_S = 5.0
IN_TURN_FLUSHES = 50
"""So many flushes take the head's lock first after one found that another node had got between."""
_AFTER_ALL = "\U0010ffff"
"""Greater than any id."""
_NOT_REPLICATED = "might not have been replicated"
"""Of the warning with which PostgreSQL reports success for a commit that no standby has confirmed."""


async def _leave(_connection: object) -> None:
    """What is done to a reading session when it goes back into the pool: a read leaves nothing behind, and asyncpg's
    own way would be a round trip per read."""


class _Overtaken(Exception):
    """Another node wrote between this flush's load and its write, which therefore wrote nothing."""


class PostgresStore:
    """`Store` on one PostgreSQL database, shared by the nodes of a site. Open with `PostgresStore.open`."""

    def __init__(
        self,
        dsn: str,
        *,
        clock: Clock | None = None,
        allow_unsafe: bool = False,
        session_name: str = "outlast",
    ) -> None:
        self._primary = Primary(dsn, session_name)
        self._clock = clock or SystemClock()
        self._allow_unsafe = allow_unsafe
        self._q = load_queries("outlast.core.store.postgres", "queries.sql")
        self._statements = Statements(load_queries("outlast.core.store.postgres", "flush.sql"))
        self._schema = 0
        self._in_turn = 0
        self._place: Place | None = None
        self._floors = Floors()
        self._next_partition = 0
        self._writing = asyncio.Lock()
        self._writer: Session | None = None
        self._pool: asyncpg.Pool[Any] | None = None
        self._workers: set[str] = set()
        self._unconfirmed = False
        self._closed = False
        self._streams = Lookup(self._find_streams)

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        clock: Clock | None = None,
        allow_unsafe: bool = False,
        session_name: str = "outlast",
    ) -> PostgresStore:
        """Connect, bring the schema up to date; ``dsn`` is ``postgresql://user:password@host,host:port/database``.

        ``clock`` is what this node's leases go by; it is compared with the server's. ``allow_unsafe`` accepts a
        server that does not sync to its disk. Raises Refused (address, login, rights, settings, schema) or
        Unavailable (not reachable, standbys only, clocks differ), each saying what to do. ``session_name`` (63
        bytes at most) is how `sessions` and the server's own lists show this process.
        """
        store = cls(dsn, clock=clock, allow_unsafe=allow_unsafe, session_name=session_name)
        try:
            await store._prepare()
            with translated():
                store._pool = await asyncpg.create_pool(
                    connect=partial(connect_reader, store._primary),
                    connection_class=Session,
                    min_size=1,
                    max_size=READERS,
                    reset=_leave,
                )
        except BaseException:
            store._abandon()
            raise
        return store

    # -- writing ----------------------------------------------------------------------------------------------

    async def flush(self, needs: Needs, plan: Plan) -> None:
        async with self._writing:
            db = await self._connected()
            # Ends whatever it waits for. A cancelled COMMIT could be reported as done without its standby.
            limit = asyncio.get_running_loop().call_later(FLUSH_LIMIT_S, db.terminate)
            try:
                await self._flush(db, needs, plan)
            except BaseException as error:
                await self._roll_back(db, error)
                raise
            finally:
                limit.cancel()

    async def _prepare(self) -> None:
        """What must be right before anything is read or written: schema, rights, clocks."""
        db = await self._connected()
        state = await prepare_schema(db, self._q, self._statements.all())
        self._schema = state.program
        if state.pending:
            log.info("pending, for when no older program is left: %s", _titles(state.pending))
        await self._load(db, Needs())
        with translated():
            newest = (await partitions.read_partitions(db, self._q))[-1]
        self._next_partition = partitions.next_ask(newest)

    async def _flush(self, db: asyncpg.Connection[Any], needs: Needs, plan: Plan) -> None:
        write = None
        if not self._in_turn:
            try:
                write = await self._flush_alone(db, needs, plan)
            except _Overtaken:
                self._in_turn = IN_TURN_FLUSHES
        if self._in_turn:
            self._in_turn -= 1
            write = await self._flush_in_turn(db, needs, plan)
        if write is None:
            return
        self._workers.update(job.worker for job in write.jobs.values() if job.state == "leased")
        if write.head.next_job >= self._next_partition:
            await self._make_partition(db, write.head.next_job)

    async def _flush_alone(
        self, db: asyncpg.Connection[Any], needs: Needs, plan: Plan
    ) -> WriteSet | None:
        place, self._place = self._place, None
        snapshot, version = await self._load(db, needs, place)
        write = plan(snapshot)
        if not write.changes(snapshot):
            self._place = version.place
            return None
        self._floors.wrote(write.jobs.values())
        sql, arguments = self._statements.write(write, snapshot, version)
        self._place = await self._commit(db, db.fetchval(sql, *arguments))
        if self._place is None:
            raise _Overtaken
        return write

    async def _flush_in_turn(
        self, db: asyncpg.Connection[Any], needs: Needs, plan: Plan
    ) -> WriteSet | None:
        with translated():
            await db.execute(self._statements.lock)
        snapshot, version = await self._load(db, needs)
        # Here, not in a thread: it is short, all Python, and the head's lock is held.
        write = plan(snapshot)
        if not write.changes(snapshot):
            with translated():
                await db.execute("ROLLBACK")  # a claim that found nothing, say: no sync for that
            return None
        self._floors.wrote(write.jobs.values())
        sql, arguments = self._statements.write(write, snapshot, version)
        with translated():
            await db.execute(sql, *arguments)
        if await self._commit(db, db.execute("COMMIT")) != "COMMIT":
            raise Unavailable(
                "storage-error", "the server rolled a commit back", retry_after_s=RETRY_S
            )
        return write

    async def _load(
        self, db: asyncpg.Connection[Any], needs: Needs, place: Place | None = None
    ) -> tuple[Snapshot, HeadVersion]:
        """What there is, and which flush wrote it; raises Unavailable ``clock-skew``, Refused ``schema-newer``."""
        floors = self._floors.of(needs.claims, self._clock.monotonic_s())
        sql, parts, arguments = self._statements.load(needs, floors, place)
        asked_ms = self._clock.now_ms()
        with translated():
            row = await db.fetchrow(sql, *arguments)
        answered_ms = self._clock.now_ms()
        if row is None and place is not None:
            return await self._load(db, needs)  # another node has written since
        if row is None:
            raise Corrupt("database-corrupt", "the row that says where the log stands is gone")
        flush, at, server_ms, oldest = row[HEAD_COLUMNS : HEAD_COLUMNS + OWN_COLUMNS]
        if (oldest or 0) > self._schema:
            raise schema_newer(oldest, self._schema)
        refuse_skew(asked_ms, server_ms, answered_ms)
        snapshot = snapshot_of(row, parts, needs)
        if needs.claims:
            self._floors.learn(needs.claims, snapshot.claimable, self._clock.monotonic_s())
        return snapshot, HeadVersion(flush, at)

    async def _commit(self, db: asyncpg.Connection[Any], sent: Awaitable[Any]) -> Any:
        """The answer to what commits: COMMIT, or a statement that is a transaction of its own."""
        self._unconfirmed = False
        with translated(committing=True):
            commit = asyncio.ensure_future(sent)
            try:
                done = await asyncio.shield(commit)
            except asyncio.CancelledError:
                db.terminate()  # before asyncpg hears of it, which would ask the server to cancel
                await asyncio.wait([commit])
                raise
        if self._unconfirmed:
            raise unknown("no standby has confirmed it")
        return done

    async def _make_partition(self, db: asyncpg.Connection[Any], next_job: int) -> None:
        """After a flush, which stands whatever happens here."""
        self._next_partition = next_job + partitions.MIN_WIDTH // 10
        try:
            self._next_partition = await partitions.make_ahead(
                db, self._q, self._statements, self._clock.now_ms()
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            log.warning("no partition made for the next jobs, they do without: %s", error)
            if db.is_in_transaction():
                self._abandon()

    async def _roll_back(self, db: asyncpg.Connection[Any], error: BaseException) -> None:
        """Make the session fit for the next flush, or have that one open its own."""
        # What is wrong may be the session's: another primary by now, a plan for tables since changed.
        is_lost = isinstance(error, Unavailable | Unknown) and error.code != "clock-skew"
        if is_lost or not isinstance(error, Exception):
            self._abandon()
            return
        try:
            async with asyncio.timeout(ROLLBACK_LIMIT_S):
                if db.is_in_transaction():
                    await db.execute("ROLLBACK")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            self._abandon()
        except BaseException:  # cancelled: nobody knows what the session is in
            self._abandon()
            raise

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._closed:
            raise _closed()
        writer = self._writer
        if writer is None or writer.is_closed() or writer.era != self._primary.era:
            self._abandon()
            writer = await connect_writer(self._primary, self._q, allow_unsafe=self._allow_unsafe)
            writer.add_log_listener(self._heard)
            self._writer = writer
        return writer

    def _heard(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        if _NOT_REPLICATED in f"{message} {getattr(message, 'detail', '')}":
            self._unconfirmed = True

    def _abandon(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.terminate()

    async def prune(self, *, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        gone: int = 0
        async with self._session() as db:
            if not await db.fetchval(self._q["prune_alone"]):
                return 0
            try:
                gone += await db.fetchval(self._q["prune_idempotency"], idempotency_before_ms)
                gone += await partitions.forget_old(db, self._q, self._statements, jobs_before_ms)
            finally:
                if not db.is_closed():
                    await db.execute(self._q["prune_done"])
        return gone

    async def pin(self, name: str, value: str) -> None:
        """Agree with the other nodes on a value, for good; raises Refused ``site-differs``."""
        async with self._session() as db:
            await db.execute(self._q["pin"], name, value)
            pinned = await db.fetchval(self._q["pinned"], name)
        if pinned != value:
            raise Refused(
                "site-differs",
                f"this node's {name} is not that of the site in the database",
                hint="Give every node of a site the same [site] name and a copy of the first node's secrets folder.",
                scope="site",
            )

    async def pinned(self, name: str) -> str | None:
        """The value that was agreed on; None where there is none yet."""
        rows = await self._read("pinned", name)
        return rows[0][0] if rows else None

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """The writing session, for what is no flush."""
        async with self._writing:
            db = await self._connected()
            limit = asyncio.get_running_loop().call_later(FLUSH_LIMIT_S, db.terminate)
            try:
                with translated():
                    yield db
            except Unavailable:
                self._abandon()
                raise
            finally:
                limit.cancel()

    # -- reading ----------------------------------------------------------------------------------------------

    async def head(self) -> Head:
        rows = await self._read("head")
        return Head(*rows[0])

    async def stream(self, key: StreamKey) -> StreamRow | None:
        return await self._streams.get(key)

    async def _find_streams(self, keys: Sequence[StreamKey]) -> dict[StreamKey, StreamRow]:
        if len(keys) == 1:
            rows = await self._read("stream", *keys[0])
            return {keys[0]: StreamRow(*rows[0])} if rows else {}
        rows = await self._read("find_streams", *zip(*keys, strict=True))
        return {StreamKey(*row[:3]): StreamRow(*row[3:]) for row in map(tuple, rows)}

    async def idempotency(self, digest: bytes) -> IdempotencyRow | None:
        rows = await self._read("idempotency", digest)
        return IdempotencyRow(*rows[0]) if rows else None

    async def streams(
        self,
        tenant: str,
        kind: str,
        *,
        label: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[StreamItem]:
        last = before if before is not None else _AFTER_ALL
        if label is None:
            rows = await self._read("list_streams", tenant, kind, last, limit)
        else:
            rows = await self._read("list_streams_labelled", tenant, kind, label, last, limit)
        return [StreamItem(row[0], StreamRow(*row[1:])) for row in rows]

    async def entries(self, start: int, limit: int) -> list[bytes]:
        return [leaf for (leaf,) in await self._read("entries", start, limit)]

    async def stream_entries(self, key: StreamKey, limit: int = 1000) -> list[tuple[int, bytes]]:
        rows = await self._read("stream_entries", *key, limit)
        return [(index, leaf) for index, leaf in rows]

    async def job(self, job_id: int) -> JobRow | None:
        rows = await self._read("job", job_id)
        return JobRow(*rows[0]) if rows else None

    async def jobs(
        self, tenant: str, *, state: JobState | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[JobRow]:
        if state is None:
            rows = await self._read("jobs", tenant, after, limit)
        elif state == "done":
            rows = await self._read("jobs_done", tenant, after, limit)
        else:
            query = "jobs_stuck" if state in ("dead", "parked") else "jobs_in_state"
            rows = await self._read(query, tenant, state, after, limit)
        return [JobRow(*row) for row in rows]

    async def job_counts(self) -> JobCounts:
        rows = await self._read("job_counts")
        return JobCounts(*rows[0])

    async def job_groups(self) -> list[JobGroup]:
        return [JobGroup(*row) for row in await self._read("job_groups")]

    def pool_use(self) -> PoolUse | None:
        if self._pool is None or self._closed:
            return None
        return PoolUse(self._pool.get_size(), self._pool.get_idle_size(), READERS)

    async def count_jobs(self, kind: str) -> int:
        rows = await self._read("count_kind", kind)
        count: int = rows[0][0]
        return count

    async def next_due_ms(self, kinds: Sequence[str]) -> int | None:
        rows = await self._read("next_due", list(kinds))
        due: int | None = rows[0][0]
        return due

    async def subject_key(self, subject: str) -> bytes | None:
        rows = await self._read("subject_key", subject)
        return rows[0][0] if rows else None

    async def counter(self, name: str) -> int:
        rows = await self._read("counter", name)
        return rows[0][0] if rows else 0

    async def sessions(self) -> frozenset[str]:
        """The names of all sessions with this database that its role may see."""
        return frozenset(name for (name,) in await self._read("sessions"))

    async def _read(self, name: str, *args: object) -> list[Any]:
        with translated():
            db = await self._reader()
            era = db.era
            try:
                rows: list[Any] = await db.fetch(self._q[name], *args)
            finally:
                await self._readers().release(db)
        if era != self._primary.era:
            raise unreachable("the server that answered has been replaced")
        return rows

    async def _reader(self) -> Any:
        """A session of the pool with the server that takes writes, as far as we have heard."""
        while True:
            try:
                db = await self._readers().acquire(timeout=POOL_WAIT_S)
            except TimeoutError:
                raise busy(f"no session for reading came free in {POOL_WAIT_S:g} s") from None
            if db.era == self._primary.era:
                return db
            db.terminate()
            await self._readers().release(db)

    def _readers(self) -> asyncpg.Pool[Any]:
        if self._pool is None or self._closed:
            raise _closed()
        return self._pool

    async def close(self) -> None:
        await self._streams.close()
        async with self._writing:
            await self._give_back()
            for part in (self._writer, self._pool):
                if part is None:
                    continue
                try:
                    async with asyncio.timeout(CLOSE_LIMIT_S):
                        await part.close()
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    part.terminate()
            self._writer, self._closed = None, True

    async def _give_back(self) -> None:
        """Void this node's leases, so that others need not wait until they run out."""
        if not self._workers:
            return
        try:
            async with asyncio.timeout(CLOSE_LIMIT_S):
                db = await self._connected()
                await db.execute(self._q["release_leases"], sorted(self._workers))
        except (OutlastError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            log.warning("leases not given back, they run out by themselves: %s", error)


def _titles(migrations: Sequence[Migration]) -> str:
    return ", ".join(one.title for one in migrations)


def _closed() -> Unavailable:
    return Unavailable("storage-closed", "the store is closed", scope="site")
