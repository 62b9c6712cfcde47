"""Small blobs, packed into one SQLite file; whoever puts at the same time shares one sync.

Group commit without a timer: a put queues its blob and waits for its turn to write; whoever's turn comes first
writes everything queued by then, the others find theirs done. SQLite in WAL mode with synchronous=FULL (both read
back at start) makes the commit durable. After a failed sync nothing can be known about the file's state in memory
(the kernel may have dropped the dirty pages), so every later write is refused until the process is started anew, and
that one first writes again what it finds (`resync`).
"""

from __future__ import annotations

import hashlib
import pathlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
import apsw

from outlast.adapters.blob.filesystem.disk import Room, storage_failed, storage_full
from outlast.core.blobref import StoredBlob
from outlast.core.errors import Corrupt, OutlastError, Refused
from outlast.core.store.sqlite.resync import resync

MAX_BATCH = 256
"""Most blobs in one transaction."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""A transaction takes no further blob once it has this much: bounds how long the others wait."""

BUSY_TIMEOUT_MS = 5_000
"""How long SQLite waits for a lock that a backup tool may hold."""

_SETUP = """
CREATE TABLE IF NOT EXISTS blob (
  id INTEGER PRIMARY KEY,      -- rowid order is time order: rows append, whatever the names
  name TEXT NOT NULL UNIQUE,
  bytes BLOB NOT NULL,
  sha256 BLOB                  -- of bytes as put; NULL where an earlier release put them
)
"""
_ADD_DIGESTS = "ALTER TABLE blob ADD COLUMN sha256 BLOB"
_GET = "SELECT bytes, sha256 FROM blob WHERE name = ?"
_DIGEST = "SELECT sha256 FROM blob WHERE name = ?"
_PAGE = "SELECT name, length(bytes) FROM blob WHERE name > ? ORDER BY name LIMIT ?"
_FIND = "SELECT bytes FROM blob WHERE name = ?"
_SIZE = "SELECT length(bytes) FROM blob WHERE name = ?"
_ADD = "INSERT INTO blob (name, bytes, sha256) VALUES (?, ?, ?)"
_REMOVE = "DELETE FROM blob WHERE name = ?"

_SYNC_ERRORS = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})

T = TypeVar("T")


class _Entry:
    """One waiting put; ``error`` is set when it alone failed or its batch did."""

    __slots__ = ("data", "done", "error", "name")

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.done = False
        self.error: OutlastError | None = None


class PackedFile:
    """The small blobs in ``path``. ``taken(name)`` says whether the name belongs to a large blob."""

    def __init__(self, path: pathlib.Path, room: Room, taken: Callable[[str], bool]) -> None:
        self._room = room
        self._taken = taken
        try:
            resync(path)
            self._writer = _connect(path)
            self._writer.execute(_SETUP)
            columns = [row[1] for row in self._writer.execute("PRAGMA table_info(blob)")]
            if "sha256" not in columns:
                self._writer.execute(_ADD_DIGESTS)
            self._reader = _connect(path)
        except apsw.Error as error:
            raise storage_failed(str(error)) from error
        self._reading = threading.Lock()
        self._waiting: deque[_Entry] = deque()
        self._turn = anyio.Lock()
        self._write_thread = anyio.CapacityLimiter(1)
        # asyncio's own cancellation ends the wait for a thread, not the thread: the limiter alone would let the
        # next transaction begin inside the one still under way
        self._writing = threading.Lock()
        self._failed: OutlastError | None = None

    async def put(self, name: str, data: bytes) -> None:
        """Durable when it returns; raises Refused ``blob-differs``, Unavailable.

        A caller cancelled while its batch is being written may find the blob stored; before that, never.
        """
        entry = _Entry(name, data)
        self._waiting.append(entry)
        try:
            async with self._turn:
                while not entry.done:
                    batch = self._next_batch()
                    await self._in_writer(lambda: self._write(batch))  # noqa: B023 - awaited here
        except BaseException:
            if entry in self._waiting:  # cancelled before anybody took it: it must not appear later
                self._waiting.remove(entry)
            raise
        if entry.error is not None:
            raise entry.error

    async def get(self, name: str) -> bytes | None:
        """The bytes, or None where there is no small blob of that name; raises Corrupt ``blob-corrupt``."""
        return await anyio.to_thread.run_sync(self._get, name)

    async def digest(self, name: str) -> str | None:
        """SHA-256 of what was put (hex), or None."""
        row = await anyio.to_thread.run_sync(self._read, _DIGEST, name)
        return row.hex() if isinstance(row, bytes) else None

    async def page(self, after: str, limit: int) -> list[StoredBlob]:
        """The first ``limit`` blobs after that name, in order."""
        return await anyio.to_thread.run_sync(self._page, after, limit)

    def check(self) -> None:
        """Raises Unavailable once the file has failed."""
        if self._failed is not None:
            raise self._failed

    async def size(self, name: str) -> int | None:
        """Size in bytes, or None."""
        row = await anyio.to_thread.run_sync(self._read, _SIZE, name)
        return row if isinstance(row, int) else None

    async def delete(self, name: str) -> None:
        """Remove durably, if there."""
        if await self.size(name) is None:
            return
        async with self._turn:
            await self._in_writer(lambda: self._guarded(lambda: self._remove(name)))

    def close(self) -> None:
        """Close the file; waits for what is under way."""
        with self._reading:
            self._reader.close()
        with self._writing:
            self._writer.close()

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._write_thread)

    def _get(self, name: str) -> bytes | None:
        row = self._read(_GET, name)
        if not isinstance(row, tuple):
            return None
        data: bytes = row[0]
        if row[1] is not None and hashlib.sha256(data).digest() != row[1]:
            raise Corrupt(
                "blob-corrupt",
                f"blob {name} is not what was put",
                hint="See the system log for disk errors, and restore the blob from a copy.",
            )
        return data

    def _page(self, after: str, limit: int) -> list[StoredBlob]:
        with self._reading:
            try:
                return [StoredBlob(*row) for row in self._reader.execute(_PAGE, (after, limit))]
            except apsw.Error as error:
                raise _unreadable(error) from error

    def _read(self, query: str, name: str) -> object:
        with self._reading:
            try:
                return self._reader.execute(query, (name,)).get
            except apsw.Error as error:
                raise _unreadable(error) from error

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        room = MAX_BATCH_BYTES
        while self._waiting and len(batch) < MAX_BATCH and room > 0:
            batch.append(self._waiting.popleft())
            room -= len(batch[-1].data)
        return batch

    def _write(self, batch: list[_Entry]) -> None:
        error: OutlastError | None = storage_failed("the write was interrupted")
        try:
            self._guarded(lambda: self._add(batch))
            error = None
        except OutlastError as failed:
            error = failed
        finally:
            for entry in batch:
                entry.error = error or entry.error
                entry.done = True

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a transaction; raises Unavailable, for ever once the file itself has failed."""
        with self._writing:
            self._transact(work)

    def _transact(self, work: Callable[[], None]) -> None:
        if self._failed is not None:
            raise self._failed
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            work()
            self._writer.execute("COMMIT")
        except apsw.FullError:
            self._roll_back()
            raise storage_full() from None
        except apsw.Error as error:
            if self._found_no_room(error):
                self._roll_back()
                raise storage_full() from error
            self._failed = storage_failed(str(error))
            self._roll_back()
            raise self._failed from error
        except BaseException:
            self._roll_back()
            raise

    def _found_no_room(self, error: apsw.Error) -> bool:
        """SQLite says "disk I/O error" of some writes to a full disk. A failed sync is another matter."""
        is_sync = getattr(error, "extendedresult", 0) in _SYNC_ERRORS
        return isinstance(error, apsw.IOError) and not is_sync and self._room.is_exhausted()

    def _roll_back(self) -> None:
        if self._writer.in_transaction:  # SQLite has left it by itself after some errors
            self._writer.execute("ROLLBACK")

    def _add(self, batch: list[_Entry]) -> None:
        self._room.require(sum(len(entry.data) for entry in batch))
        for entry in batch:
            found = self._writer.execute(_FIND, (entry.name,)).get
            if found is None and not self._taken(entry.name):
                digest = hashlib.sha256(entry.data).digest()
                self._writer.execute(_ADD, (entry.name, entry.data, digest))
            elif found != entry.data:
                entry.error = Refused("blob-differs", f"blob {entry.name} exists with other bytes")

    def _remove(self, name: str) -> None:
        self._writer.execute(_REMOVE, (name,))


def _unreadable(error: apsw.Error) -> Corrupt:
    return Corrupt("blob-unreadable", f"small blobs cannot be read: {error}")


def _connect(path: pathlib.Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    mode = connection.execute("PRAGMA journal_mode = WAL").get
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # a deleted blob leaves no bytes in free pages
    if mode != "wal" or connection.execute("PRAGMA synchronous").get != 2:
        raise storage_failed("the file system does not support SQLite's WAL mode")
    return connection
