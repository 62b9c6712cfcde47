"""Listing unfinished jobs reads unfinished jobs only, however many finished ones there are, on both engines."""

from __future__ import annotations

from pathlib import Path

import apsw
import asyncpg
import pytest

from outlast.core.store.port import JobState
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.queries import load_queries
from outlast.core.store.sqlite.engine import SqliteStore

pytestmark = pytest.mark.anyio

FINISHED = 5_000
UNFINISHED: tuple[JobState, ...] = ("ready", "leased")
INDEX = {"ready": "job_due", "leased": "job_leased"}
_COLUMNS = (
    "(id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms,"
    " attempts, cause, created_ms, error)"
)


def rows() -> list[tuple[object, ...]]:
    """Many finished jobs, and behind them one of each unfinished state."""
    states = ["done"] * FINISHED + list(UNFINISHED)
    return [
        (i, "t", "k", "a/b", b"{}", state, i, 0, "", i, 0, 0, i, "")
        for i, state in enumerate(states, 1)
    ]


async def test_sqlite(tmp_path: Path) -> None:
    """The plan walks the index of that state, not the jobs in their order."""
    store = await SqliteStore.open(tmp_path / "site.db")
    await store.close()
    with apsw.Connection(str(tmp_path / "site.db")) as db:
        db.executemany(f"INSERT INTO job {_COLUMNS} VALUES ({','.join('?' * 14)})", rows())
        queries = load_queries("outlast.core.store.sqlite", "queries.sql")
        for state in UNFINISHED:
            plan = [
                row[3]
                for row in db.execute(f"EXPLAIN QUERY PLAN {queries[f'jobs_{state}']}", ("t", 0, 5))
            ]
            assert any(INDEX[state] in step for step in plan), plan
    store = await SqliteStore.open(tmp_path / "site.db")
    for state in UNFINISHED:
        (job,) = await store.jobs("t", state=state)
        assert job.state == state
        assert await store.jobs("t", state=state, after=job.id) == []
    await store.close()


async def test_postgresql(database: str) -> None:
    """The server reads a handful of rows for them, with the settings that a node's sessions have."""
    store = await PostgresStore.open(database)
    db = await asyncpg.connect(database)
    places = ",".join(f"${i}" for i in range(1, 15))
    await db.executemany(f"INSERT INTO job {_COLUMNS} VALUES ({places})", rows())
    await db.execute(
        "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
    )
    queries = load_queries("outlast.core.store.postgres", "queries.sql")
    for state in UNFINISHED:
        (job,) = await store.jobs("t", state=state)
        assert job.state == state
        assert await store.jobs("t", state=state, after=job.id) == []
        sql = queries[f"jobs_{state}"].replace("$1", "'t'").replace("$2", "0").replace("$3", "5")
        plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {sql}"))
        assert INDEX[state] in plan, plan
    await db.close()
    await store.close()
