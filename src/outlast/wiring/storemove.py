"""Moves a site's store: from SQLite in its data folder to PostgreSQL, or back.

The site is stopped: on SQLite the data folder's lock says so, on PostgreSQL the server's list of sessions. Only the
database moves. Documents, tiles, keys and secrets stay in the data folder, which the site keeps using.

The side that was moved from is kept, and marked: a site started on it by mistake is refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from outlast.core.clock import SystemClock
from outlast.core.envelope import Entropy
from outlast.core.errors import Refused
from outlast.core.ids import EntropyPool, Ids
from outlast.core.log.archive import TileArchive
from outlast.core.log.logkey import LogKey
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.core.store.sqlite.side import SqliteSide
from outlast.core.store.transfer import (
    Mark,
    Progress,
    Published,
    Side,
    Verified,
    begin,
    cancel,
    copy,
    finish,
    start_over,
    verify,
)
from outlast.wiring.config import Config
from outlast.wiring.rootkeys import database, load_log_key, load_root_keys
from outlast.wiring.site import data_log
from outlast.wiring.storage import need_driver, pin_keys, read_dsn

if TYPE_CHECKING:
    from outlast.core.store.postgres.side import PostgresSide


class StoreMove(msgspec.Struct, frozen=True):
    """Which way: ``dsn_file`` holds the database's address, ``back``: from there to SQLite. ``start_over`` empties a
    half-filled target before."""

    dsn_file: str
    back: bool = False
    start_over: bool = False


class Moved(msgspec.Struct, frozen=True):
    """A move that is done. ``verified`` is None where an earlier run had come to its end already."""

    source: str
    target: str
    verified: Verified | None


async def move_store(config: Config, wish: StoreMove, progress: Progress) -> Moved:
    """Carry the store over and verify it; may be repeated after any failure, and then goes on.

    Raises Refused (``site-in-use``, ``store-not-found``, ``store-not-empty``, ``store-moved``, ``store-target-taken``,
    what is wrong with the address or the keys), Unavailable as the engines do, Corrupt where the sides differ.
    """
    log_key = _keys(config)
    async with _sides(config, wish) as (source, target):
        if wish.start_over:
            await start_over(target)
        mark = Mark(
            Ids(SystemClock(), EntropyPool()).new(), "source", "moving", target.name, _now_ms()
        )
        verified = None
        is_unfinished = await begin(source, target, mark)
        # again: a node may have started before the marks were there, and have read that nothing is being moved
        await _postgres(source if wish.back else target).refuse_if_used()
        if is_unfinished:
            await copy(source, target, progress)
            verified = await verify(source, target, _published(config), progress)
        if not wish.back:
            await pin_keys(_postgres(target).store, config, log_key)
        await finish(source, target)
        return Moved(source.name, target.name, verified)


async def cancel_move(config: Config, wish: StoreMove) -> str:
    """Undo a move, finished or not, as long as no site has started on the target; returns the source's name."""
    async with _sides(config, wish) as (source, target):
        await cancel(source, target)
        return source.name


def _now_ms() -> int:
    return SystemClock().now_ms()


def _keys(config: Config) -> LogKey:
    """The site's keys must be there: what is moved cannot be read without them."""
    entropy: Entropy = EntropyPool()
    load_root_keys(config, entropy, begun=True)
    return load_log_key(config, begun=True)


def _published(config: Config) -> Published | None:
    checkpoint = TileArchive(data_log(config)).published()
    return None if checkpoint is None else Published(checkpoint.size, checkpoint.root)


@asynccontextmanager
async def _sides(config: Config, wish: StoreMove) -> AsyncIterator[tuple[Side, Side]]:
    need_driver()
    async with (
        _sqlite(config, is_source=not wish.back) as here,
        _postgres_at(config, wish) as there,
    ):
        yield (there, here) if wish.back else (here, there)


@asynccontextmanager
async def _sqlite(config: Config, *, is_source: bool) -> AsyncIterator[SqliteSide]:
    path = database(config)
    if is_source and not path.exists():
        raise Refused(
            "store-not-found",
            f"there is no database in {config.data}",
            hint="--data or --config names the site that is to be moved.",
        )
    store = await SqliteStore.open(path)  # takes the lock: the site is stopped
    try:
        side = SqliteSide(store, path)
        try:
            yield side
        finally:
            await side.close()
    finally:
        await store.close()


@asynccontextmanager
async def _postgres_at(config: Config, wish: StoreMove) -> AsyncIterator[PostgresSide]:
    from outlast.core.store.postgres.side import postgres_side

    dsn = read_dsn(wish.dsn_file)
    async with postgres_side(dsn, allow_unsafe=config.store.allow_unsafe) as side:
        await side.refuse_if_used()
        yield side


def _postgres(side: Side) -> PostgresSide:
    from outlast.core.store.postgres.side import PostgresSide

    assert isinstance(side, PostgresSide)
    return side
