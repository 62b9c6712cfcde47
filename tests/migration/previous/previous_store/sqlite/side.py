"""A SQLite store as one side of a move (`previous_store.transfer`).

Reads and marks on a connection of its own, in a thread; rows are written through the store's ``flush`` as always. The
mark is a table that only a moved store has, so it stays with the file wherever that is copied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from previous_store.queries import load_queries
from previous_store.sqlite.engine import BUSY_TIMEOUT_MS, SqliteStore, translate
from previous_store.transfer import Mark, Row

T = TypeVar("T")


def read_mark(path: Path) -> Mark | None:
    """What a database file says of having been moved. It must be there; nothing is locked or made."""
    try:
        db = _connect(path)
        try:
            return _mark(db, load_queries("previous_store.sqlite", "side.sql"))
        finally:
            db.close()
    except apsw.Error as error:
        raise translate(error, path) from error


class SqliteSide:
    """`Side` over an open store. ``close`` ends its own connection, not the store."""

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self.store = store
        self.name = str(path)
        self._path = path
        self._db = _connect(path)
        self._q = load_queries("previous_store.sqlite", "side.sql")

    async def page(self, table: str, after: Row, limit: int) -> list[Row]:
        return await self._rows(f"page_{table}", (*after, limit))

    async def last(self, table: str) -> Row | None:
        rows = await self._rows(f"last_{table}")
        return rows[0] if rows else None

    async def count(self, table: str) -> int:
        count: int = (await self._rows(f"count_{table}"))[0][0]
        return count

    async def mark(self) -> Mark | None:
        return await self._in_thread(lambda: _mark(self._db, self._q))

    async def set_mark(self, mark: Mark | None) -> None:
        def work() -> None:
            with self._db:
                self._db.execute(self._q["drop_mark"])
                if mark is not None:
                    self._db.execute(self._q["make_mark"])
                    self._db.execute(self._q["set_mark"], (msgspec.json.encode(mark),))

        await self._in_thread(work)

    async def empty(self) -> None:
        def work() -> None:
            with self._db:
                self._db.execute(self._q["empty"])

        await self._in_thread(work)

    async def close(self) -> None:
        """Close."""
        self._db.close()

    async def _rows(self, query: str, arguments: Sequence[object] = ()) -> list[Row]:
        return await self._in_thread(lambda: list(self._db.execute(self._q[query], arguments)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except apsw.Error as error:
            raise translate(error, self._path) from error


def _connect(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    db.set_busy_timeout(BUSY_TIMEOUT_MS)
    db.execute("PRAGMA synchronous=FULL")
    return db


def _mark(db: apsw.Connection, queries: dict[str, str]) -> Mark | None:
    if not next(db.execute(queries["has_mark"]))[0]:
        return None
    return msgspec.json.decode(next(db.execute(queries["mark"]))[0], type=Mark)
