"""The schema of a SQLite file: brought up to date by whoever has the file's lock.

Each migration is a transaction with its own record in ``schema_migration``. ``user_version`` repeats the newest
number, for people and tools; files of before that table have nothing else, and had all migrations up to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from previous_store.migration import Migration, Phase, SchemaState, assess, load_migrations

SCHEMA_PACKAGE = "previous_store.migrations"

_CREATE = """
CREATE TABLE schema_migration (
    number INTEGER PRIMARY KEY,
    phase TEXT NOT NULL CHECK (phase IN ('pre', 'post')),
    applied TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) STRICT
"""
_EXISTS = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migration'"
_APPLIED = "SELECT number, phase FROM schema_migration"
_ADD = "INSERT INTO schema_migration (number, phase) VALUES (?, ?)"


def schema_state(db: apsw.Connection, migrations: Sequence[Migration] = ()) -> SchemaState:
    """What the file has had and what is pending; changes nothing. Raises Refused ``schema-newer``."""
    migrations = migrations or load_migrations(SCHEMA_PACKAGE)
    return assess(migrations, _applied(db, migrations))


def migrate(
    db: apsw.Connection,
    phases: Sequence[Phase] = ("pre",),
    migrations: Sequence[Migration] = (),
) -> list[Migration]:
    """Run what is pending of these phases, each in a transaction; returns what was run.

    Raises Refused ``schema-newer``, and as APSW does.
    """
    migrations = migrations or load_migrations(SCHEMA_PACKAGE)
    applied = _applied(db, migrations)
    state = assess(migrations, applied)
    if not db.execute(_EXISTS).fetchone():
        with db:
            db.execute(_CREATE)
            db.executemany(_ADD, sorted(applied.items()))
    chosen = [one for one in state.pending if one.phase in phases]
    newest = state.newest
    for one in chosen:
        newest = max(newest, one.number)
        with db:
            db.execute(one.sql)
            db.execute(_ADD, (one.number, one.phase))
            db.pragma("user_version", newest)
    return chosen


def _applied(db: apsw.Connection, migrations: Sequence[Migration]) -> dict[int, str]:
    if db.execute(_EXISTS).fetchone():
        return dict(db.execute(_APPLIED))
    version = db.pragma("user_version")
    return {one.number: one.phase for one in migrations if one.number <= version}
