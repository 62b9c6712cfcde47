"""The site's database, and the keys that go with it: SQLite in the data folder, or PostgreSQL when `[store]` names one.

Where there is a database already, its keys must be there too. SQLite shows that by its file, which is made after the
keys; PostgreSQL, which several nodes share, by entries in its log, and it remembers what the first node's keys were:
a node with others would write what the rest cannot read, and fork the log.

The other way round, a folder with a published log and no entries in the database is a site that lost its database:
nothing is made in its place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from outlast.core.clock import Clock
from outlast.core.envelope import Entropy, RootKeys
from outlast.core.errors import Corrupt, Refused
from outlast.core.log.archive import TileArchive
from outlast.core.log.logkey import LogKey
from outlast.core.store.port import Store
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.core.store.sqlite.side import read_mark
from outlast.core.store.transfer import refuse_if_moved
from outlast.wiring.config import Config
from outlast.wiring.nodes import Sessions
from outlast.wiring.rootkeys import database, load_log_key, load_root_keys, root_key_digest
from outlast.wiring.secrets import read_secret

if TYPE_CHECKING:
    from outlast.core.store.postgres.engine import PostgresStore


class Opened(NamedTuple):
    """An open database and the keys of the site in it. ``sessions`` tells the names of all sessions with it, where
    other processes may have some."""

    store: Store
    root_keys: RootKeys
    log_key: LogKey
    sessions: Sessions | None = None


@asynccontextmanager
async def open_store(
    config: Config, entropy: Entropy, session: str, clock: Clock
) -> AsyncIterator[Opened]:
    """The database that the configuration names, closed at the end; ``session`` is what this process's sessions with
    it are called, ``clock`` what it goes by, which a server's must agree with. Raises Refused and Unavailable as the engines do, and what is wrong with the keys."""
    if config.store.dsn_file:
        async with _open_postgres(config, entropy, session, clock) as opened:
            yield opened
    else:
        async with _open_sqlite(config, entropy) as opened:
            yield opened


@asynccontextmanager
async def _open_sqlite(config: Config, entropy: Entropy) -> AsyncIterator[Opened]:
    # the keys before the database: a database without them is a site that lost them
    begun = database(config).exists()
    if begun:
        refuse_if_moved(read_mark(database(config)))
    else:
        _refuse_if_lost(config, "site.db is missing")
    root_keys, log_key = load_root_keys(config, entropy, begun), load_log_key(config, begun)
    store = await SqliteStore.open(database(config))
    try:
        yield Opened(store, root_keys, log_key)
    finally:
        await store.close()


@asynccontextmanager
async def _open_postgres(
    config: Config, entropy: Entropy, session: str, clock: Clock
) -> AsyncIterator[Opened]:
    need_driver()
    from outlast.core.store.postgres.engine import PostgresStore
    from outlast.core.store.postgres.side import read_mark as read_pinned_mark

    dsn = read_dsn(config.store.dsn_file)
    store = await PostgresStore.open(
        dsn, clock=clock, allow_unsafe=config.store.allow_unsafe, session_name=session
    )
    try:
        refuse_if_moved(await read_pinned_mark(store))
        begun = (await store.head()).size > 0
        if not begun:
            _refuse_if_lost(config, "the database that [store] dsn_file names is empty")
        root_keys, log_key = load_root_keys(config, entropy, begun), load_log_key(config, begun)
        await pin_keys(store, config, log_key)
        yield Opened(store, root_keys, log_key, store.sessions)
    finally:
        await store.close()


def _refuse_if_lost(config: Config, what: str) -> None:
    """Raise Refused ``database-lost`` where this folder's log has entries: a new database would fork it."""
    directory = config.data / "log"
    try:
        size = TileArchive(directory).size
    except (Corrupt, Refused):
        size = 1  # an unreadable checkpoint is one all the same
    if size:
        raise Refused(
            "database-lost",
            f"{what}, and {directory} holds the published log of a site",
            hint="Restore the database from its backup. For a new site under new keys, on purpose: move log and secrets"
            " out of the data folder.",
            scope="site",
        )


def need_driver() -> None:
    """Raise Refused ``store-driver-missing`` where PostgreSQL cannot be spoken to."""
    if find_spec("asyncpg") is None:
        raise Refused(
            "store-driver-missing",
            "a PostgreSQL database is named, and asyncpg is not installed",
            hint="pip install 'outlast[postgres]'",
        )


def read_dsn(file: str) -> str:
    """The address of a database, from its secret file; raises Refused ``store-dsn-invalid`` for what is none."""
    dsn = read_secret(Path(file)).decode(errors="replace")
    if not dsn.startswith(
        ("postgresql://", "postgres://")
    ):  # asyncpg would take defaults for what is missing
        raise Refused(
            "store-dsn-invalid",
            f"{Path(file).name} does not hold the address of a database",
            hint="It looks like postgresql://user:password@host:5432/database (in a password, / is %2F and @ is %40).",
        )
    return dsn


async def pin_keys(store: PostgresStore, config: Config, log_key: LogKey) -> None:
    """Have the database remember what log this is and under which keys; raises Refused ``site-differs``."""
    await store.pin("log name", config.origin)
    await store.pin("log key", " ".join(log_key.vkeys))
    await store.pin("root key", root_key_digest(config))
