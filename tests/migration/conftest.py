"""The previous release's store, wearing this release's types: what the suites, the planner and the audit speak."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "previous"))

from previous_store import port as old_port
from previous_store.postgres.engine import PostgresStore as OldPostgresStore
from previous_store.sqlite.engine import SqliteStore as OldSqliteStore

from outlast.core.store import port as new_port
from outlast.core.store.port import Needs, Plan

OpenOld = Callable[[Any], Coroutine[Any, Any, "Previous"]]


def as_of(package: Any, value: Any) -> Any:
    """A struct, or a list of them, as the other release's class of that name; fields it does not know are left out."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [as_of(package, item) for item in value]
    fields = getattr(value, "__struct_fields__", None)
    if fields is None:
        return value
    kind = getattr(package, type(value).__name__)
    known = {name: getattr(value, name) for name in fields if name in kind.__struct_fields__}
    return kind(**{name: _inside(package, item) for name, item in known.items()})


def _inside(package: Any, item: Any) -> Any:
    if isinstance(item, dict):
        return {key: as_of(package, row) for key, row in item.items()}
    return as_of(package, item)


class Previous:
    """`Store`, by the previous release's code."""

    def __init__(self, store: Any) -> None:
        self.store = store

    async def flush(self, needs: Needs, plan: Plan) -> None:
        await self.store.flush(needs, lambda old: as_of(old_port, plan(as_of(new_port, old))))

    async def close(self) -> None:
        await self.store.close()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def call(*args: Any, **more: Any) -> Any:
            return as_of(new_port, await method(*args, **more))

        return call


@pytest.fixture
def old_postgres() -> OpenOld:
    """Opens a PostgreSQL database with the previous release's code."""

    async def open_store(dsn: str) -> Previous:
        return Previous(await OldPostgresStore.open(dsn))

    return open_store


@pytest.fixture
def old_sqlite() -> OpenOld:
    """Opens a SQLite file with the previous release's code."""

    async def open_store(path: pathlib.Path) -> Previous:
        return Previous(await OldSqliteStore.open(path))

    return open_store
