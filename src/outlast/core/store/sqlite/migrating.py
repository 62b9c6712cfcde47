"""Looking at a SQLite file's schema, and changing it, while no site runs over it.

Looking needs nothing; changing takes the file's lock, as a site does, and is refused (``site-in-use``) while one has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from outlast.core.store.migration import Migration, Phase, SchemaState
from outlast.core.store.sqlite import engine
from outlast.core.store.sqlite.schema import migrate, schema_state


def file_state(path: Path, migrations: Sequence[Migration] = ()) -> SchemaState:
    """What the file has had and what is pending. Raises Refused ``schema-newer`` and as the store does."""
    with _translated(path):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            db.set_busy_timeout(engine.BUSY_TIMEOUT_MS)
            return schema_state(db, migrations)
        finally:
            db.close()


def migrate_file(
    path: Path, phases: Sequence[Phase], migrations: Sequence[Migration] = ()
) -> list[Migration]:
    """Run what is pending of these phases; returns what was run. Raises Refused ``site-in-use``, ``schema-newer``."""
    lock = engine.lock_file(path)
    try:
        with _translated(path):
            db = engine.connect_file(path)
            try:
                return migrate(db, phases, migrations)
            finally:
                db.close()
    finally:
        os.close(lock)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        raise engine.translate(error, path) from error
