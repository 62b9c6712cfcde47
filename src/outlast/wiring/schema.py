"""The schema of the site's database, for `outlast migrate`: what it has had, what is pending, running it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import msgspec

from outlast.core.errors import Refused
from outlast.core.store.migration import Migration, Phase, SchemaState
from outlast.core.store.sqlite.migrating import file_state, migrate_file
from outlast.wiring.config import Config
from outlast.wiring.rootkeys import database
from outlast.wiring.storage import need_driver, read_dsn


class SchemaReport(msgspec.Struct, frozen=True, kw_only=True):
    """``program``, ``newest`` and ``oldest`` as in `SchemaState`; migrations by their titles.

    ``ran`` are those that were run just now.
    """

    engine: Literal["sqlite", "postgresql"]
    program: int
    newest: int
    oldest: int
    pending_pre: list[str]
    pending_post: list[str]
    ran: list[str]


async def read_schema(config: Config) -> SchemaReport:
    """How the database stands; changes nothing. Raises Refused ``database-missing``, ``schema-newer``, and as opening
    the store does."""
    return _report(config, await _state(config), [])


async def run_migrations(config: Config, phases: Sequence[Phase]) -> SchemaReport:
    """Run what is pending of these phases. Raises as `read_schema` does, and Refused ``site-in-use`` (SQLite, while the
    site runs), Unavailable ``storage-busy`` (PostgreSQL, while a table stays locked)."""
    ran = await _run(config, phases)
    return _report(config, await _state(config), ran)


async def _state(config: Config) -> SchemaState:
    if not config.store.dsn_file:
        _need_file(config)
        return await asyncio.to_thread(file_state, database(config))
    need_driver()
    from outlast.core.store.postgres.schema import schema_session, schema_state

    dsn = read_dsn(config.store.dsn_file)
    async with schema_session(dsn, allow_unsafe=config.store.allow_unsafe) as (session, queries):
        return await schema_state(session, queries)


async def _run(config: Config, phases: Sequence[Phase]) -> list[Migration]:
    if not config.store.dsn_file:
        _need_file(config)
        return await asyncio.to_thread(migrate_file, database(config), phases)
    need_driver()
    from outlast.core.store.postgres.schema import migrate, schema_session

    dsn = read_dsn(config.store.dsn_file)
    async with schema_session(dsn, allow_unsafe=config.store.allow_unsafe) as (session, queries):
        return await migrate(session, queries, phases)


def _need_file(config: Config) -> None:
    if not database(config).exists():
        raise Refused(
            "database-missing",
            f"there is no database in {config.data}",
            hint="Name the site's folder with --data; the first `outlast serve` makes a new site.",
        )


def _report(config: Config, state: SchemaState, ran: Sequence[Migration]) -> SchemaReport:
    return SchemaReport(
        engine="postgresql" if config.store.dsn_file else "sqlite",
        program=state.program,
        newest=state.newest,
        oldest=state.oldest,
        pending_pre=[one.title for one in state.of("pre")],
        pending_post=[one.title for one in state.of("post")],
        ran=[one.title for one in ran],
    )
