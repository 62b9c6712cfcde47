"""The partitions that finished jobs go with: made ahead, dropped whole.

A partition is for about three hours of jobs at the rate they come, never fewer than MIN_WIDTH of them, so there are some
ten at any time, or one or two where little happens. Whoever's flush crosses the middle of the newest makes the next.
Nothing depends on it: jobs for which there is no partition go to the default one, and are forgotten row by row.

Both need the tables for themselves for a moment. They take the head's lock first, which no flush then holds, and
give up after 100 ms where a long read is in the way: it is tried again later.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import asyncpg

from previous_store.postgres.statements import Statements

log = logging.getLogger("outlast.store")

SPAN_MS = 3 * 3_600_000
"""How long a partition should last."""
MIN_WIDTH = 100_000
MAX_WIDTH = 20_000_000
"""Jobs in one partition."""
MAX_GROWTH = 8
"""How much wider than the one before."""
MAX_MOVED = 2_000
"""Unfinished jobs that may be left in a partition when it is dropped: they are moved under the head's lock."""
AGE_MARGIN_MS = 10_000
"""A partition's newest job is older by this much than what is to be forgotten: its jobs' times come from clocks of
several nodes, and only the newest is looked at."""


class Partition(NamedTuple):
    """Jobs ``from_id`` to ``to_id - 1``; when it was made, and what the next job's number was then."""

    from_id: int
    to_id: int
    made_ms: int
    made_at: int


def next_ask(newest: Partition) -> int:
    """The job number at which the next partition should be made."""
    return newest.from_id + (newest.to_id - newest.from_id) // 2


def following(newest: Partition, next_job: int, now_ms: int) -> Partition:
    """The partition to make after ``newest``, wide enough for SPAN_MS at the rate since that was made."""
    elapsed_ms = max(1, now_ms - newest.made_ms)
    wanted = (next_job - newest.made_at) * SPAN_MS // elapsed_ms
    most = min(MAX_WIDTH, MAX_GROWTH * (newest.to_id - newest.from_id))
    # what came before there was a partition for it stays in the default one
    start = max(newest.to_id, next_job)
    return Partition(start, start + max(MIN_WIDTH, min(wanted, most)), now_ms, next_job)


async def read_partitions(db: asyncpg.Connection[Any], queries: dict[str, str]) -> list[Partition]:
    """Those there are, the oldest first; never none, as the schema begins with one."""
    rows = await db.fetch(queries["partitions"])
    return [Partition(*row) for row in rows] or [Partition(0, 0, 0, 0)]


async def make_ahead(
    db: asyncpg.Connection[Any], queries: dict[str, str], statements: Statements, now_ms: int
) -> int:
    """Make the next partition unless another node has; returns the job number at which to come again."""
    async with _Alone(db, statements):
        newest = (await read_partitions(db, queries))[-1]
        next_job: int = await db.fetchval(queries["next_job"])
        if next_job >= next_ask(newest):
            made = following(newest, next_job, now_ms)
            await db.execute(queries["make_partition"], *made)
            log.info("jobs %d to %d have a partition of their own", made.from_id, made.to_id - 1)
            newest = made
    return next_ask(newest)


async def forget_old(
    db: asyncpg.Connection[Any], queries: dict[str, str], statements: Statements, before_ms: int
) -> int:
    """Drop the oldest partition of which all is older, and forget rows of the newest and the default one; returns how
    many jobs went."""
    gone: int = await db.fetchval(queries["forget_jobs"], before_ms)
    for partition in (await read_partitions(db, queries))[:-1]:
        dropped = await _drop(db, queries, statements, partition, before_ms - AGE_MARGIN_MS)
        if dropped:
            return gone + dropped
    return gone


async def _drop(
    db: asyncpg.Connection[Any],
    queries: dict[str, str],
    statements: Statements,
    oldest: Partition,
    before_ms: int,
) -> int:
    try:
        async with _Alone(db, statements):
            gone = await db.fetchval(
                queries["drop_partition"], oldest.from_id, before_ms, MAX_MOVED
            )
    except asyncpg.LockNotAvailableError:
        log.info("old jobs from %d on are being read, they are dropped later", oldest.from_id)
        return 0
    if gone is None:
        return 0
    log.info("jobs %d to %d are forgotten", oldest.from_id, oldest.to_id - 1)
    return int(gone)


class _Alone:
    """A transaction that holds the head's lock: no flush is under way."""

    def __init__(self, db: asyncpg.Connection[Any], statements: Statements) -> None:
        self._db, self._statements = db, statements

    async def __aenter__(self) -> None:
        await self._db.execute(self._statements.lock)

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self._db.execute("COMMIT" if error is None else "ROLLBACK")
