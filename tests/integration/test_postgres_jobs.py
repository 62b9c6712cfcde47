"""PostgreSQL's job tables: the lease table stays small, old jobs go with their partition, all is found by index."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from outlast.core.clock import HybridClock, ManualClock, SystemClock
from outlast.core.commit import Claim, Finish, Planner, Settle, Work, needs_of
from outlast.core.store.port import (
    ClaimAsk,
    Head,
    JobRow,
    JobState,
    Needs,
    Snapshot,
    StreamKey,
    StreamRow,
    WriteSet,
)
from outlast.core.store.postgres import partitions
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.postgres.partitions import Partition
from outlast.core.store.postgres.session import WRITER_SETTINGS
from outlast.core.store.postgres.statements import HeadVersion
from outlast.testing.ledger import JOB, ledger_deciders
from outlast.testing.postgres import PostgresServer
from outlast.testing.suites.store import deposit, must, work

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000


class Site:
    """One node that makes many jobs quickly, and whose jobs' times are set by hand."""

    def __init__(self, store: PostgresStore) -> None:
        self.store = store
        self.clock = ManualClock(SystemClock().now_ms())
        self._planner = Planner(ledger_deciders(), HybridClock(self.clock), "site")
        self._names = itertools.count()

    async def commit(self, *batch: Work) -> list[object]:
        """One flush."""
        outcomes: list[object] = []

        def plan(snapshot: Snapshot) -> WriteSet:
            write, outcomes[:] = self._planner.plan(batch, snapshot, self.clock.now_ms())
            return write

        await self.store.flush(needs_of(batch), plan)
        return outcomes

    async def make(self, count: int) -> None:
        """New jobs, ready."""
        while count:
            some = min(count, 500)
            await self.commit(work(f"s{next(self._names)}", deposit(jobs=some)))
            count -= some

    async def claim(self, count: int) -> list[JobRow]:
        """Lease some."""
        now_ms = self.clock.now_ms()
        claim = Claim(worker="w", kinds=(JOB,), limit=count, now_ms=now_ms, ttl_ms=60_000)
        (jobs,) = await self.commit(claim)
        return must(jobs, list)

    async def finish(self, jobs: list[JobRow]) -> None:
        """End them."""
        await self.commit(*[Settle(j.tenant, Finish(job=j.id, lease=j.lease)) for j in jobs])


@asynccontextmanager
async def site(dsn: str) -> AsyncIterator[Site]:
    """A site with its store."""
    store = await PostgresStore.open(dsn)
    try:
        yield Site(store)
    finally:
        await store.close()


async def _prune(one: Site, before_ms: int) -> None:
    while await one.store.prune(idempotency_before_ms=0, jobs_before_ms=before_ms):
        pass


@pytest.mark.slow
async def test_ten_thousand_jobs_leave_nothing_behind(
    database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 jobs run through: the lease table is no larger than a few hundred jobs need, partitions were made ahead,
    and the old ones are gone as whole tables; bodies of the unfinished stay."""
    monkeypatch.setattr(partitions, "MIN_WIDTH", 2_000)
    monkeypatch.setattr(partitions, "MAX_GROWTH", 1)
    postgres_server.run(
        "DROP TABLE job_body_1, job_done_1; DELETE FROM job_partition;"
        "SELECT job_partition_make(1, 2001, 0, 1)",
        await _made(database),
    )
    async with site(database) as one:
        await one.make(3)
        kept = await one.claim(3)
        await one.commit(
            Settle("t1", Finish(job=kept[0].id, lease=1, state="dead", error="x")),
            Settle("t1", Finish(job=kept[1].id, lease=1, state="parked")),
        )
        pages = []
        for round_ in range(20):
            await one.make(500)
            await one.finish(await one.claim(500))
            if round_ % 4 == 3:  # as autovacuum would
                postgres_server.run("VACUUM job_lease", database)
                pages.append(_pages(postgres_server, database))
        made = _numbers(postgres_server, database)
        assert len(made) >= 5
        assert postgres_server.run("SELECT count(*) FROM job_body_rest", database) == "0"
        assert pages[-1] <= pages[1] + 8 < 128, f"pages of 8 KiB, indexes too: {pages}"
        old_ms = one.clock.now_ms() + partitions.AGE_MARGIN_MS + 1
        one.clock.advance(HOUR_MS)
        await one.make(1)
        await _prune(one, old_ms)
        left = _numbers(postgres_server, database)
        assert left == made[-1:], "all but the newest are dropped"
        tables = postgres_server.run(
            "SELECT count(*) FROM pg_class WHERE relname ~ '^job_(body|done)_[0-9]+$'", database
        )
        assert tables == "2"
        assert [job.id for job in await one.store.jobs("t1")] == [1, 2, 3, 10_004]
        assert [await one.store.job(job.id) for job in kept] == list(
            await one.store.jobs("t1", limit=3)
        )
        again = Settle("t1", Finish(job=1, lease=1, expect="dead", state="ready"))
        await one.commit(again, Settle("t1", Finish(job=3, lease=1)))
        jobs = {job.id: job for job in await one.claim(9)}
        assert set(jobs) == {1, 10_004}
        await one.finish([*jobs.values()])
        later_ms = one.clock.now_ms() + HOUR_MS
        await _prune(one, later_ms)
        assert [job.id for job in await one.store.jobs("t1")] == [2], "the parked one"


async def _made(dsn: str) -> str:
    await (await PostgresStore.open(dsn)).close()
    return dsn


def _pages(server: PostgresServer, dsn: str) -> int:
    return int(server.run("SELECT pg_total_relation_size('job_lease') / 8192", dsn))


def _numbers(server: PostgresServer, dsn: str) -> list[int]:
    return [int(n) for n in server.run("SELECT from_id FROM job_partition ORDER BY 1", dsn).split()]


async def test_a_partition_that_is_being_read_is_dropped_later(
    database: str, postgres_server: PostgresServer
) -> None:
    """A long read of old jobs: nobody waits for it, flushes go on, and the next round drops what this one could not."""
    postgres_server.run(
        "DROP TABLE job_body_1, job_done_1; DELETE FROM job_partition;"
        "SELECT job_partition_make(1, 11, 0, 1); SELECT job_partition_make(11, 100011, 0, 1)",
        await _made(database),
    )
    async with site(database) as one:
        await one.make(12)
        await one.finish(await one.claim(12))
        old_ms = one.clock.now_ms() + partitions.AGE_MARGIN_MS + 1
        reader = await asyncpg.connect(database)
        await reader.execute("BEGIN; SELECT count(*) FROM job_body")
        before = SystemClock().monotonic_s()
        assert await one.store.prune(idempotency_before_ms=0, jobs_before_ms=old_ms) == 2
        assert await one.store.prune(idempotency_before_ms=0, jobs_before_ms=old_ms) == 0
        assert SystemClock().monotonic_s() - before < 5
        await one.make(1)
        assert len(await one.store.jobs("t1", state="done")) == 10
        await reader.close()
        assert await one.store.prune(idempotency_before_ms=0, jobs_before_ms=old_ms) == 10
        assert _numbers(postgres_server, database) == [11]


async def test_jobs_without_a_partition_are_jobs_all_the_same(
    database: str, postgres_server: PostgresServer
) -> None:
    """No partition could be made: the jobs are in the default one, run, finish and are forgotten; the next partition
    begins behind them."""
    postgres_server.run(
        "DROP TABLE job_body_1, job_done_1; DELETE FROM job_partition", await _made(database)
    )
    async with site(database) as one:
        reader = await asyncpg.connect(database)
        await reader.execute("BEGIN; SELECT count(*) FROM job_body")  # in the way of making one
        one.store._next_partition = 0
        await one.make(5)
        await one.finish(await one.claim(4))
        assert postgres_server.run("SELECT count(*) FROM job_body_rest", database) == "5"
        assert _numbers(postgres_server, database) == []
        await reader.close()
        one.store._next_partition = 0
        await one.make(2)
        (start,) = _numbers(postgres_server, database)
        assert start == 8
        await one.make(1)
        assert postgres_server.run("SELECT min(id) FROM job_body_8", database) == "8"
        later_ms = one.clock.now_ms() + HOUR_MS
        await _prune(one, later_ms)
        assert [job.id for job in await one.store.jobs("t1")] == [5, 6, 7, 8]


def test_partitions_are_as_wide_as_jobs_come_quickly() -> None:
    """Three hours' worth at the rate since the last, within bounds, growing eightfold at most; never before next_job."""
    newest = Partition(1, 100_001, 1_000_000, 1)
    assert partitions.next_ask(newest) == 50_001
    slow = partitions.following(newest, 50_001, 1_000_000 + 100 * HOUR_MS)
    assert slow == Partition(100_001, 200_001, 1_000_000 + 100 * HOUR_MS, 50_001)
    steady = partitions.following(newest, 50_001, 1_000_000 + HOUR_MS)
    assert steady.to_id - steady.from_id == 150_000
    rush = partitions.following(newest, 50_001, 1_000_001)
    assert rush.to_id - rush.from_id == 800_000
    assert partitions.following(newest, 500_000, 2_000_000).from_id == 500_000


async def test_every_part_of_a_flush_goes_by_index(database: str) -> None:
    """On tables with 50,000 rows that nobody has analysed, and whose plans were made when they were empty."""
    async with site(database) as one:
        await one.make(1)
        (job,) = await one.claim(1)
        await one.finish([job])
    db = await asyncpg.connect(
        database,
        server_settings={
            **WRITER_SETTINGS, "enable_seqscan": "off", "enable_hashjoin": "off",
            "enable_mergejoin": "off", "jit": "off",
        },
    )  # fmt: skip
    await db.execute(
        """ALTER TABLE job_lease SET (autovacuum_enabled = off); ALTER TABLE stream SET (autovacuum_enabled = off);
        INSERT INTO job_body SELECT i, 't1', 'k', 's', 'x', 0, 0 FROM generate_series(10, 50000) i;
        INSERT INTO job_lease SELECT i, 'k', CASE WHEN i % 2 = 0 THEN 'ready' ELSE 'leased' END, i, 0, '', i, 0, ''
            FROM generate_series(10, 25000) i;
        INSERT INTO job_done SELECT i, 0, 0, '', 0, 0, '' FROM generate_series(25001, 50000) i;
        INSERT INTO stream SELECT 't1', 'k', i::text, 1, '', 'x', 0, 0 FROM generate_series(1, 50000) i;"""
    )
    needs = Needs(
        streams={StreamKey("t1", "k", str(i)) for i in range(100, 164)},
        idempotency={b"x" * 16},
        jobs=set(range(24_970, 25_034)),
        counters={"n"},
        claims=[ClaimAsk(("k",), 64, 40_000)],
    )
    store = PostgresStore(database)
    sql, _, arguments = store._statements.load(needs, (0, 0), None)
    write = WriteSet(Head(9, b"x", 9, 60_000))
    write.streams = dict.fromkeys(needs.streams, StreamRow(2, "", b"y", 0, 0))
    write.jobs = {i: _as(i, "leased") for i in range(100, 164)}
    write.jobs |= {i: _as(i, "done") for i in range(200, 264)}
    snapshot = Snapshot(write.head, {}, {}, {}, {}, [])
    version = HeadVersion(*await db.fetchrow("SELECT xmin, ctid FROM head"))
    written, changes = store._statements.write(write, snapshot, version)
    for statement, values in ((sql, arguments), (written, changes)):
        await db.execute("BEGIN")
        plan = "\n".join(
            row[0] for row in await db.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", *values)
        )
        await db.execute("ROLLBACK")
        assert "Seq Scan on job" not in plan, plan
        assert "Seq Scan on stream" not in plan, plan
        read = [int(part.split()[0]) for part in plan.split("Rows Removed by Filter: ")[1:]]
        assert sum(read) < 1_000, plan
    await db.close()


def _as(number: int, state: JobState) -> JobRow:
    return JobRow(number, "t1", "k", "s", b"x", state, 0, 1, "w", 9, 1, 0, 0, "")
