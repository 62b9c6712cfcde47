"""The store on one machine: SQLite through APSW, write-ahead log, every commit synced.

One connection writes. A flush loads, plans and writes on the caller's thread, which is quick (it stays in memory),
and commits in a thread of its own, which waits for the disk. (All of it in that thread was half as fast: it had to
win the interpreter's lock back from a busy event loop after every statement.) Point reads go through a second
connection, also on the caller's thread; ranges and counts through a third, in worker threads, so that nobody's long
read holds up the event loop. ``synchronous=FULL``
and WAL are set and read back at start: a site that cannot have them does not start. The write-ahead log is copied
into the database by a fourth connection on its own thread, so that a checkpoint does not stand in a commit's way.

If the power goes: a transaction whose COMMIT had returned is in the synced WAL and is there after restart; any
other is not there at all. After a failed sync nobody knows what the disk holds, so ``on_fatal`` ends the
process; the restart first writes again what it finds (`resync`), which may be in memory only.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable
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
from outlast.core.store.queries import load_queries
from outlast.core.store.sqlite.resync import resync
from outlast.core.store.sqlite.rows import execute_rows
from outlast.core.store.sqlite.schema import migrate

BUSY_TIMEOUT_MS = 5_000
"""How long a connection waits for another's lock."""
CHECKPOINT_PAGES = 2_000
"""WAL pages (4 KiB each) after which the checkpoint thread is woken."""
WAL_LIMIT_PAGES = 32_000
"""WAL pages at which the writer itself waits for a checkpoint: bounds the WAL at about 125 MiB."""
WAL_WAIT_MS = 250
"""How long the writer then waits for readers and for the checkpoint thread, at each commit."""
PAGE_CACHE_KIB = 16_384
"""Page cache of each connection that is on everybody's way."""
SCAN_CACHE_KIB = 2_048
"""Page cache of the connection for ranges and counts, which read most pages once."""
FULL_BELOW_BYTES = 256 * 1024
"""With less room than this, a failed write is taken for a full disk."""
CACHED_STREAMS = 8_192
"""Newest states kept in memory, those written last; one is about 1 KiB."""
MIN_SQLITE = (3, 51, 3)
"""Earlier versions can lose a committed WAL on reset (sqlite.org/wal.html#walresetbug)."""

_FSYNC_ERRORS = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})
T = TypeVar("T")


def exit_process(error: BaseException) -> None:
    """What to do after a failed sync: leave at once, without flushing anything more."""
    os.write(2, f"outlast: a disk sync failed, stopping: {error}\n".encode())
    os._exit(74)


def translate(error: apsw.Error, path: Path) -> OutlastError:
    """An APSW error as one of ours."""
    if isinstance(error, apsw.FullError) or (isinstance(error, apsw.IOError) and _is_full(path)):
        return Unavailable(
            "storage-full",
            "the disk that holds the site's database is full",
            hint=f"Free space on the file system of {path.name}; work resumes by itself.",
            retry_after_s=10,
            scope="site",
        )
    if isinstance(error, apsw.ConstraintError):
        return Conflict(
            "storage-conflict",
            f"the write contradicts what is stored: {error}",
            hint="Read again and decide on what is there now.",
        )
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(
            "database-corrupt",
            f"{path.name} is damaged: {error}",
            hint="Stop the site, keep the file, and restore from a mirror.",
            scope="site",
        )
    return Unavailable(
        "storage-error",
        f"SQLite: {type(error).__name__}: {error}",
        hint="Check the disk and the permissions of the site's data folder.",
        retry_after_s=5,
        scope="site",
    )


def _is_full(path: Path) -> bool:
    """Whether there is no room where the file is: SQLite says "disk I/O error" of some writes that found none."""
    return shutil.disk_usage(path.parent).free < FULL_BELOW_BYTES


class SqliteStore:
    """`Store` on one SQLite file. Open with `SqliteStore.open`; one process at a time."""

    def __init__(
        self, path: Path, on_fatal: Callable[[BaseException], None] = exit_process
    ) -> None:
        self._path = path
        self._on_fatal = on_fatal
        self._q = load_queries("outlast.core.store.sqlite", "queries.sql")
        self._lock_fd = lock_file(path)
        try:
            resync(path)
            self._connect()
        except apsw.Error as error:
            os.close(self._lock_fd)
            raise translate(error, path) from error
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._read_lock = threading.Lock()
        self._scan_lock = threading.Lock()
        # What was written last is what is there: this process is the only writer. A row that a reader fetched
        # is kept only if nothing was committed meanwhile. (Ordered: the first item of a plain dict costs a walk over
        # all those removed before it.)
        self._newest: OrderedDict[StreamKey, StreamRow] = OrderedDict()
        self._newest_lock = threading.Lock()
        self._commits = 0
        self._turn = asyncio.Lock()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._checkpoints = _Checkpointer(path, self._writer)

    def _connect(self) -> None:
        _private(self._path)
        self._writer = connect_file(self._path)
        migrate(self._writer)
        _verify_settings(self._writer)
        # Only this process may hold leases on an embedded store; an earlier one's are void.
        self._writer.execute(self._q["release_leases"])
        self._reader, self._scanner = connect_file(self._path), connect_file(self._path)
        for connection in (self._reader, self._scanner):
            connection.execute("PRAGMA query_only=ON")
        self._scanner.execute(f"PRAGMA cache_size=-{SCAN_CACHE_KIB}")

    @classmethod
    async def open(
        cls, path: Path, on_fatal: Callable[[BaseException], None] = exit_process
    ) -> SqliteStore:
        """Open or create the file; raises Refused (in use, schema newer than this program, unsafe settings)."""
        return await asyncio.to_thread(cls, path, on_fatal)

    # -- writing ----------------------------------------------------------------------------------------------

    async def flush(self, needs: Needs, plan: Plan) -> None:
        async with self._turn:
            try:
                write = self._stage(needs, plan)
                if write is not None:
                    await self._in_writer(partial(self._commit, write))
            except apsw.Error as error:
                raise self._failure(error) from error

    async def prune(self, *, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        def work() -> int:
            before = self._writer.total_changes()
            with self._writer:
                self._writer.execute(self._q["prune_idempotency"], (idempotency_before_ms,))
                self._writer.execute(self._q["prune_jobs"], (jobs_before_ms,))
            return self._writer.total_changes() - before

        async with self._turn:
            try:
                return await self._in_writer(work)
            except apsw.Error as error:
                raise self._failure(error) from error

    async def _in_writer(self, work: Callable[[], T]) -> T:
        """Run in the writer's thread, to the end: the connection is not free before, whoever gives up waiting."""
        future = asyncio.get_running_loop().run_in_executor(self._writing, work)
        given_up: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                given_up = error
        if given_up is not None:
            raise given_up
        return future.result()

    def _failure(self, error: apsw.Error) -> OutlastError:
        if getattr(error, "extendedresult", 0) in _FSYNC_ERRORS:
            self._on_fatal(error)
        return translate(error, self._path)

    def _stage(self, needs: Needs, plan: Plan) -> WriteSet | None:
        """All of a flush but its COMMIT; None, and no transaction left open, where there is nothing to write."""
        db = self._writer
        db.execute("BEGIN IMMEDIATE")
        try:
            snapshot = self._load(needs)
            write = plan(snapshot)
            if write.changes(snapshot):
                self._write(write)
                return write
            db.execute("ROLLBACK")  # a claim that found nothing, say: no sync for that
            return None
        except BaseException:
            self._roll_back()
            raise

    def _commit(self, write: WriteSet) -> None:
        try:
            self._writer.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        self._remember(write.streams)
        self._checkpoints.after_commit()

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _remember(self, streams: Mapping[StreamKey, StreamRow]) -> None:
        with self._newest_lock:
            self._commits += 1
            for key, row in streams.items():
                self._newest[key] = row
                self._newest.move_to_end(key)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        for _ in range(len(self._newest) - CACHED_STREAMS):
            self._newest.popitem(last=False)

    def _load(self, needs: Needs) -> Snapshot:
        db, q = self._writer, self._q
        streams = {key: row for key in needs.streams if (row := self._newest.get(key)) is not None}
        unknown = [key for key in needs.streams if key not in streams]
        for row in execute_rows(db, q["find_streams"], unknown):
            streams[StreamKey(*row[:3])] = StreamRow(*row[3:])
        known = execute_rows(db, q["find_idempotency"], [(d,) for d in needs.idempotency])
        jobs = execute_rows(db, q["find_jobs"], [(job_id,) for job_id in needs.jobs])
        counters = execute_rows(db, q["find_counters"], [(name,) for name in needs.counters])
        return Snapshot(
            head=self._head(db),
            streams=streams,
            idempotency={row[0]: IdempotencyRow(*row) for row in known},
            jobs={row[0]: JobRow(*row) for row in jobs},
            counters=dict(counters),
            claimable=self._claimable(needs),
        )

    def _claimable(self, needs: Needs) -> list[list[JobRow]]:
        # Claims of one flush share the due jobs, so each is offered as many as all of them want.
        wanted = sum(ask.limit for ask in needs.claims)
        answers = []
        for ask in needs.claims:
            args = (ask.now_ms, json.dumps(ask.kinds), wanted)
            rows = [*self._writer.execute(self._q["expired_jobs"], args)]
            rows += self._writer.execute(self._q["due_jobs"], args)
            answers.append([JobRow(*row) for row in rows])
        return answers

    def _write(self, write: WriteSet) -> None:
        entries = [(e.index, e.previous, e.leaf) for e in write.entries]
        known = [(r.digest, r.body, r.receipt, r.created_ms) for r in write.idempotency]
        self._rows("insert_entry", entries)
        self._write_streams(write)
        self._rows("insert_idempotency", known)
        self._write_jobs(write)
        self._rows("write_counter", list(write.counters.items()))
        self._rows("insert_subject_key", list(write.subject_keys.items()))
        head = write.head
        values = (head.size, head.edge, head.hlc, head.next_job)
        self._writer.execute(self._q["write_head"], values)

    def _rows(self, query: str, rows: Sequence[Sequence[Any]]) -> None:
        execute_rows(self._writer, self._q[query], rows)

    def _write_streams(self, write: WriteSet) -> None:
        new: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        for key, row in write.streams.items():
            fields = (*key, row.version, row.label, row.state, row.last_index, row.updated_ms)
            (new if key in write.new_streams else changed).append(fields)
        self._rows("insert_stream", new)
        self._rows("update_stream", changed)

    def _write_jobs(self, write: WriteSet) -> None:
        new: list[tuple[Any, ...]] = []
        changed: list[tuple[Any, ...]] = []
        for job in write.jobs.values():
            if job.id in write.new_jobs:
                new.append(msgspec.structs.astuple(job))
            else:
                changed.append(
                    (job.id, job.state, job.run_at_ms, job.lease, job.worker, job.lease_until_ms,
                     job.attempts, job.error)
                )  # fmt: skip
        self._rows("insert_job", new)
        self._rows("update_job", changed)

    # -- reading ----------------------------------------------------------------------------------------------
    # Point reads and bounded pages take well under a millisecond, less than a thread hop; what may be long is a `_scan`.

    async def head(self) -> Head:
        return Head(*self._read("head", ())[0])

    async def stream(self, key: StreamKey) -> StreamRow | None:
        known = self._newest.get(key)
        if known is not None:
            return known
        commits = self._commits
        rows = self._read("stream", key)
        if not rows:
            return None
        row = StreamRow(*rows[0])
        with self._newest_lock:
            if self._commits == commits:
                self._newest[key] = row
                self._forget_oldest()
        return row

    async def idempotency(self, digest: bytes) -> IdempotencyRow | None:
        rows = self._read("idempotency", (digest,))
        return IdempotencyRow(digest, *rows[0]) if rows else None

    async def streams(
        self,
        tenant: str,
        kind: str,
        *,
        label: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[StreamItem]:
        last = before if before is not None else "\U0010ffff"
        if label is None:
            rows = self._read("list_streams", (tenant, kind, last, limit))
        else:
            rows = self._read("list_streams_labelled", (tenant, kind, label, last, limit))
        return [StreamItem(row[0], StreamRow(*row[1:])) for row in rows]

    async def entries(self, start: int, limit: int) -> list[bytes]:
        rows = await asyncio.to_thread(self._scan, "entries", (start, limit))
        return [leaf for (leaf,) in rows]

    async def stream_entries(self, key: StreamKey, limit: int = 1000) -> list[tuple[int, bytes]]:
        return await asyncio.to_thread(self._stream_entries, key, limit)

    def _stream_entries(self, key: StreamKey, limit: int) -> list[tuple[int, bytes]]:
        rows = self._scan("stream", key)
        index = StreamRow(*rows[0]).last_index if rows else -1
        found: list[tuple[int, bytes]] = []
        while index >= 0 and len(found) < limit:
            ((previous, leaf),) = self._scan("entry", (index,))
            found.append((index, leaf))
            index = previous
        return found[::-1]

    async def job(self, job_id: int) -> JobRow | None:
        rows = self._read("job", (job_id,))
        return JobRow(*rows[0]) if rows else None

    async def jobs(
        self, tenant: str, *, state: JobState | None = None, after: int = 0, limit: int = 100
    ) -> Sequence[JobRow]:
        if state is None:
            rows = await asyncio.to_thread(self._scan, "jobs", (tenant, after, limit))
        elif state in ("dead", "parked"):
            rows = await asyncio.to_thread(self._scan, "jobs_stuck", (tenant, state, after, limit))
        else:
            rows = await asyncio.to_thread(self._scan, f"jobs_{state}", (tenant, after, limit))
        return [JobRow(*row) for row in rows]

    async def job_counts(self) -> JobCounts:
        return await asyncio.to_thread(self._job_counts)

    def _job_counts(self) -> JobCounts:
        counts = [
            self._scan(name, ())[0][0]
            for name in ("count_ready", "count_leased", "count_dead", "count_parked")
        ]
        return JobCounts(*counts)

    async def job_groups(self) -> list[JobGroup]:
        rows = await asyncio.to_thread(self._scan, "job_groups", ())
        return [JobGroup(*row) for row in rows]

    def pool_use(self) -> PoolUse | None:
        return None

    async def count_jobs(self, kind: str) -> int:
        rows = await asyncio.to_thread(self._scan, "count_kind", (kind,))
        count: int = rows[0][0]
        return count

    async def next_due_ms(self, kinds: Sequence[str]) -> int | None:
        names = json.dumps(list(kinds))
        rows = [*self._read("next_ready", (names,)), *self._read("next_expiry", (names,))]
        return min((time for (time,) in rows), default=None)

    async def subject_key(self, subject: str) -> bytes | None:
        rows = self._read("subject_key", (subject,))
        return rows[0][0] if rows else None

    async def counter(self, name: str) -> int:
        rows = self._read("counter", (name,))
        return rows[0][0] if rows else 0

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writing.shutdown(wait=True)
        self._checkpoints.close()
        with self._read_lock, self._scan_lock:
            self._reader.close()
            self._scanner.close()
        self._writer.close()
        os.close(self._lock_fd)

    def _read(self, name: str, args: Sequence[Any]) -> list[Any]:
        try:
            with self._read_lock:
                return list(self._reader.execute(self._q[name], args))
        except apsw.Error as error:
            raise translate(error, self._path) from error

    def _scan(self, name: str, args: Sequence[Any]) -> list[Any]:
        """A read that may be long: for worker threads only."""
        try:
            with self._scan_lock:
                return list(self._scanner.execute(self._q[name], args))
        except apsw.Error as error:
            raise translate(error, self._path) from error

    def _head(self, db: apsw.Connection) -> Head:
        ((size, edge, hlc, next_job),) = db.execute(self._q["head"])
        return Head(size, edge, hlc, next_job)


class _Checkpointer:
    """Copies the write-ahead log into the database, off the writer's thread."""

    def __init__(self, path: Path, writer: apsw.Connection) -> None:
        self._writer = writer
        self._pages = 0
        self._db = connect_file(path)
        self._wake = threading.Event()
        self._closing = False
        writer.set_wal_hook(self._on_wal)
        self._thread = threading.Thread(target=self._run, name="store-checkpoint", daemon=True)
        self._thread.start()

    def _on_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    def after_commit(self) -> None:
        """Called by the writer between transactions."""
        if self._pages > WAL_LIMIT_PAGES:
            self._restart_wal()
        elif self._pages > CHECKPOINT_PAGES:
            self._wake.set()

    def _restart_wal(self) -> None:
        self._writer.set_busy_timeout(WAL_WAIT_MS)
        try:
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.Error as error:
            # The commit before it stands, so it must not be reported as failed; the next one tries again.
            if getattr(error, "extendedresult", 0) in _FSYNC_ERRORS:
                raise
        finally:
            self._writer.set_busy_timeout(BUSY_TIMEOUT_MS)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if self._closing:
                return
            self._wake.clear()
            try:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                # Nothing is lost: the WAL keeps everything and the next commit asks again.
                if getattr(error, "extendedresult", 0) in _FSYNC_ERRORS:
                    exit_process(error)

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._db.close()


def lock_file(path: Path) -> int:
    """Take the file's lock for this process, or refuse: two writers would fork the log."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Refused(
            "site-in-use",
            f"another process is using {path.parent.name}/{path.name}",
            hint="Stop the other `outlast` process, or give this one its own --data folder.",
        ) from None
    return fd


def _private(path: Path) -> None:
    """Make the file, if need be, for its user only; SQLite gives its journals the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect_file(path: Path) -> apsw.Connection:
    """A connection with the settings of a site's store; raises Refused ``sqlite-too-old`` and as APSW does."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < MIN_SQLITE:
        raise Refused(
            "sqlite-too-old", f"SQLite {apsw.sqlite_lib_version()} can lose a WAL; upgrade apsw"
        )
    db = apsw.Connection(str(path), statementcachesize=100)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "wal_autocheckpoint=0",
        "foreign_keys=ON",
        f"cache_size=-{PAGE_CACHE_KIB}",
    ):
        db.execute(f"PRAGMA {pragma}")
    return db


def _verify_settings(db: apsw.Connection) -> None:
    journal, synchronous = db.pragma("journal_mode"), db.pragma("synchronous")
    if journal != "wal" or synchronous != 2:
        raise Refused(
            "unsafe-storage",
            f"SQLite runs with journal_mode={journal}, synchronous={synchronous}; wal and 2 are needed",
            hint="Keep the data folder on a local file system that supports shared memory.",
        )
