"""A PostgreSQL store as one side of a move (`previous_store.transfer`).

Reads and marks on a session of its own; rows are written through the store's ``flush`` as always. The mark is a row of
the table ``pin``. The database role must own the tables: a running site never changes or removes a pin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from outlast.core.errors import Refused
from previous_store.postgres.engine import PostgresStore
from previous_store.postgres.failure import translated
from previous_store.postgres.primary import Primary, Session
from previous_store.queries import load_queries
from previous_store.transfer import Mark, Row

SESSION_NAME = "outlast move"
_SETTINGS = {"synchronous_commit": "on", "enable_seqscan": "off", "lock_timeout": "10s"}


@asynccontextmanager
async def postgres_side(dsn: str, *, allow_unsafe: bool = False) -> AsyncIterator[PostgresSide]:
    """The database as a side, its schema made; closed at the end. Raises as ``PostgresStore.open`` does."""
    store = await PostgresStore.open(dsn, allow_unsafe=allow_unsafe, session_name=SESSION_NAME)
    try:
        with translated():
            session = await Primary(dsn, SESSION_NAME).connect(_SETTINGS)
        try:
            yield PostgresSide(store, session, _place(dsn))
        finally:
            session.terminate()
    finally:
        await store.close()


async def read_mark(store: PostgresStore) -> Mark | None:
    """What a database says of having been moved."""
    return _decoded(await store.pinned("move"))


class PostgresSide:
    """`Side` over an open store."""

    def __init__(self, store: PostgresStore, session: Session, name: str) -> None:
        self.store = store
        self.name = name
        self._db = session
        self._q = load_queries("previous_store.postgres", "side.sql")

    async def refuse_if_used(self) -> None:
        """Raise Refused ``site-in-use`` where a node has a session with the database."""
        nodes = sorted(await self.store.sessions())
        if nodes:
            raise Refused(
                "site-in-use",
                f"{self.name} is in use by {', '.join(nodes)}",
                hint="Stop every node of the site first.",
            )

    async def page(self, table: str, after: Row, limit: int) -> list[Row]:
        return await self._rows(f"page_{table}", *after, limit)

    async def last(self, table: str) -> Row | None:
        rows = await self._rows(f"last_{table}")
        return rows[0] if rows else None

    async def count(self, table: str) -> int:
        count: int = (await self._rows(f"count_{table}"))[0][0]
        return count

    async def mark(self) -> Mark | None:
        rows = await self._rows("mark")
        return _decoded(rows[0][0]) if rows else None

    async def set_mark(self, mark: Mark | None) -> None:
        with translated():
            async with self._db.transaction():
                await self._db.execute(self._q["drop_mark"])
                if mark is not None:
                    await self._db.execute(self._q["set_mark"], msgspec.json.encode(mark).decode())

    async def empty(self) -> None:
        with translated():
            async with self._db.transaction():
                tables = await self._db.fetchval(self._q["tables"])
                await self._db.execute(f"TRUNCATE {tables}")
                await self._db.execute(self._q["reset_head"])

    async def _rows(self, query: str, *arguments: Any) -> list[Row]:
        with translated():
            return [tuple(row) for row in await self._db.fetch(self._q[query], *arguments)]


def _decoded(mark: str | None) -> Mark | None:
    return None if mark is None else msgspec.json.decode(mark, type=Mark)


def _place(dsn: str) -> str:
    """Where a database is, without user and password."""
    parts = urlsplit(dsn)
    return f"PostgreSQL {parts.netloc.rpartition('@')[2]}{parts.path}"
