"""Listing unfinished jobs reads unfinished jobs only, however many finished ones there are, on both engines."""

from __future__ import annotations

from pathlib import Path

import apsw
import asyncpg
import pytest

from outlast.core.store.port import JobRow, JobState, Needs, WriteSet
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
    """The server looks for them among the unfinished only, with the settings that a node's sessions have."""
    store = await PostgresStore.open(database)
    jobs = {row[0]: JobRow(*row) for row in rows()}  # type: ignore[arg-type]  # its fields, in order
    await store.flush(
        Needs(), lambda snapshot: WriteSet(snapshot.head, jobs=jobs, new_jobs=set(jobs))
    )
    db = await asyncpg.connect(database)
    await db.execute(
        "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
    )
    queries = load_queries("outlast.core.store.postgres", "queries.sql")
    sql = queries["jobs_in_state"].replace("$1", "'t'").replace("$3", "0").replace("$4", "5")
    for state in UNFINISHED:
        (job,) = await store.jobs("t", state=state)
        assert job == jobs[job.id]
        assert await store.jobs("t", state=state, after=job.id) == []
        plan = "\n".join(
            row[0] for row in await db.fetch("EXPLAIN " + sql.replace("$2", f"'{state}'"))
        )
        assert "Seq Scan" not in plan, plan
        assert "job_done" not in plan, plan
    await db.close()
    await store.close()
