"""The schema of a PostgreSQL database: brought up to date, checked for rights and for what was changed by hand.

Pre migrations run under an advisory lock, all in one transaction, so many nodes may start at once. They give up soon
where somebody holds a table (who waits for a table lock stands in everybody's way) and try again. A post migration
also changes the head's version: a flush that loaded before it cannot write after it, and the next load of a program
that does not know it is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from outlast.core.errors import Refused, Unavailable
from previous_store.migration import Migration, Phase, SchemaState, assess, load_migrations
from previous_store.port import Head, IdempotencyRow, JobRow, StreamRow
from previous_store.postgres.failure import translated
from previous_store.postgres.primary import Primary, Session
from previous_store.postgres.session import connect_writer
from previous_store.queries import load_queries

log = logging.getLogger("outlast.store")

SESSION_NAME = "outlast migrate"
SCHEMA_PACKAGE = "previous_store.postgres.migrations"
LOCK_TRIES = 5
"""How often migrations try to get their locks, which each time they wait 2 s for (``migrate_patience``)."""
LOCK_PAUSE_S = 1.0
"""Between two tries: whoever queued behind us goes first."""

_NOT_PREPARED = frozenset({"lock", "schema_create", "migrate_patience"})
"""Several statements each, or none that can be prepared."""

_ROWS: dict[str, type[msgspec.Struct]] = {
    "head": Head,
    "stream": StreamRow,
    "idempotency": IdempotencyRow,
    "job": JobRow,
}
"""Queries whose columns are the fields of a row."""
_TYPES = {int: "int8", bytes: "bytea"}
"""What PostgreSQL calls them; all others are text."""

Queries = Mapping[str, str]


async def schema_state(
    connection: asyncpg.Connection[Any], queries: Queries, migrations: Sequence[Migration] = ()
) -> SchemaState:
    """What the database has had and what is pending; changes nothing. Raises Refused ``schema-newer``."""
    migrations = migrations or load_migrations(SCHEMA_PACKAGE)
    with translated():
        if not await connection.fetchval(queries["schema_exists"]):
            return assess(migrations, {})
        return assess(migrations, dict(await connection.fetch(queries["schema_applied"])))


async def migrate(
    connection: asyncpg.Connection[Any],
    queries: Queries,
    phases: Sequence[Phase] = ("pre",),
    migrations: Sequence[Migration] = (),
) -> list[Migration]:
    """Run what is pending of these phases, all or nothing; returns what was run.

    Raises Refused ``schema-newer``, ``storage-forbidden``; Unavailable ``storage-busy`` where a table stays locked.
    """
    migrations = migrations or load_migrations(SCHEMA_PACKAGE)
    for left in reversed(range(LOCK_TRIES)):
        try:
            with translated():
                async with connection.transaction():
                    return await _migrate(connection, queries, phases, migrations)
        except Unavailable as error:
            if error.code != "storage-busy" or not left:
                raise
            log.info("a migration waits for a table that is in use: %s", error)
            await asyncio.sleep(LOCK_PAUSE_S)
    raise AssertionError("the last try returns or raises")


async def _migrate(
    connection: asyncpg.Connection[Any],
    queries: Queries,
    phases: Sequence[Phase],
    migrations: Sequence[Migration],
) -> list[Migration]:
    await connection.execute(queries["migrate_alone"])
    await connection.execute(queries["migrate_patience"])
    if not await connection.fetchval(queries["schema_exists"]):
        await connection.execute(queries["schema_create"])
    state = await schema_state(connection, queries, migrations)
    chosen = [one for one in state.pending if one.phase in phases]
    for one in chosen:
        await connection.execute(one.sql)
        await connection.execute(queries["schema_add"], one.number, one.phase)
    if any(one.phase == "post" for one in chosen):
        await connection.execute(queries["fence"])
    return chosen


@asynccontextmanager
async def schema_session(
    dsn: str, *, allow_unsafe: bool = False
) -> AsyncIterator[tuple[Session, dict[str, str]]]:
    """A session for `schema_state` and `migrate`, and their queries; raises as ``PostgresStore.open``."""
    queries = load_queries("previous_store.postgres", "queries.sql")
    session = await connect_writer(Primary(dsn, SESSION_NAME), queries, allow_unsafe=allow_unsafe)
    try:
        yield session, queries
    finally:
        session.terminate()


async def prepare_schema(
    connection: asyncpg.Connection[Any], queries: Queries, statements: Iterable[str]
) -> SchemaState:
    """Bring the schema up to date as far as a start may, and check it; what is left is for `outlast migrate post`.

    ``statements`` are checked beside the queries. Raises Refused ``schema-newer``, ``schema-drift``,
    ``storage-forbidden``.
    """
    with translated():
        state = await schema_state(connection, queries)
        if state.of("pre"):
            await migrate(connection, queries)
            state = await schema_state(connection, queries)
        for query in ("missing_rights", "missing_functions"):
            _refuse_without(await connection.fetchval(queries[query]))
        await _verify_schema(connection, queries, statements)
    return state


def _refuse_without(missing: str | None) -> None:
    if missing:
        raise Refused(
            "storage-forbidden",
            f"the database user lacks {missing}",
            hint="Make it the owner of the database, or GRANT what docs/howto/postgresql.md lists.",
            scope="site",
        )


async def _verify_schema(
    connection: asyncpg.Connection[Any], queries: Queries, statements: Iterable[str]
) -> None:
    """Have the server look at every query: a table or column that is not there is an error. It converts much to text and
    back without a word, so what rows are made of is looked at here."""
    for sql in statements:
        await connection.prepare(sql)
    for name, sql in queries.items():
        if name not in _NOT_PREPARED:
            prepared = await connection.prepare(sql)
            if name in _ROWS:
                _verify_types(name, _ROWS[name], prepared.get_attributes())


def _verify_types(query: str, row: type[msgspec.Struct], columns: Sequence[Any]) -> None:
    for field, column in zip(msgspec.structs.fields(row), columns, strict=True):
        wanted = _TYPES.get(field.type, "text")
        if column.type.name != wanted:
            raise Refused(
                "schema-drift",
                f"the database's tables are not those of this program: {column.name} of a {query} is"
                f" {column.type.name}, not {wanted}",
                hint="Undo what was changed by hand, or give the site a database of its own.",
                scope="site",
            )
