"""The previous release's code on the schema as this release makes it, beside this release's nodes, and before them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import pathlib
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Claim, Committer, Finish, Planner, Settle
from outlast.core.errors import OutlastError, Refused
from outlast.core.store.migration import Migration
from outlast.core.store.port import Store
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.postgres.schema import migrate, schema_session
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.core.store.sqlite.migrating import migrate_file
from outlast.testing.audit import audit
from outlast.testing.ledger import JOB, Deposit, ledger_deciders
from outlast.testing.postgres import PostgresServer
from outlast.testing.suites.store import Check, StoreBench, deposit, work
from outlast.testing.suites.store_jobs import ALL_CHECKS, makes_jobs_with_their_event

pytestmark = pytest.mark.anyio

OpenOld = Callable[[Any], Coroutine[Any, Any, Any]]
HERE = pathlib.Path(__file__).parent
DECIDERS = ledger_deciders()
NEW_IN_THIS_RELEASE = (makes_jobs_with_their_event,)
"""Checks of what the previous release did not have: a job's trace."""

each_check = pytest.mark.parametrize(
    "check",
    [check for check in ALL_CHECKS if check not in NEW_IN_THIS_RELEASE],
    ids=lambda check: check.__name__,
)
LATER_PRE = Migration(
    9_000, "pre", "later", "ALTER TABLE stream ADD COLUMN later integer NOT NULL DEFAULT 0"
)
LATER_POST = Migration(9_001, "post", "later", "ALTER TABLE stream DROP COLUMN later")


def test_the_copy_is_as_it_was_made() -> None:
    """Nobody edits the previous release; a new one is made by the script."""
    place = HERE.parents[1] / "scripts" / "freeze_store.py"
    spec = importlib.util.spec_from_file_location("freeze_store", place)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    recorded = json.loads((HERE / "previous" / "MANIFEST.json").read_text())
    assert recorded["files"] == script.digests()


@each_check
async def test_previous_code_on_the_new_schema_of_postgresql(
    database: str, old_postgres: OpenOld, check: Check
) -> None:
    """A database that this release made is a store for the previous one, in all that it knew."""
    await (await PostgresStore.open(database)).close()
    await check(StoreBench(lambda: old_postgres(database)))


@each_check
async def test_previous_code_on_the_new_schema_of_sqlite(
    tmp_path: pathlib.Path, old_sqlite: OpenOld, check: Check
) -> None:
    """The same for a file."""
    path = tmp_path / "site.db"
    await (await SqliteStore.open(path)).close()
    await check(StoreBench(lambda: old_sqlite(path)))


class Node:
    """A node: accepts, claims, finishes."""

    def __init__(self, store: Store, name: str) -> None:
        clock = SystemClock()
        self.store, self.name, self.clock = store, name, clock
        self.committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)

    async def accept(self, count: int) -> list[int]:
        """Commands with a job each; their log indices."""
        command = Deposit(at_ms=0, amount=1, jobs=1, counter="n")
        receipts = [
            await self.committer.submit(
                work(f"{self.name}-{i % 3}", command, key=f"{self.name}-{i}", counters=("n",))
            )
            for i in range(count)
        ]
        return [receipt.index for receipt in receipts]

    async def work(self, accepted: asyncio.Event) -> list[tuple[int, int]]:
        """Claim and finish until nothing is left; what was claimed."""
        taken: list[tuple[int, int]] = []
        while True:
            # before the claim, whose time is earlier than that of jobs made while it waited
            is_last = accepted.is_set()
            jobs = await self.committer.claim(
                Claim(worker=self.name, kinds=(JOB,), limit=4, now_ms=self.clock.now_ms(),
                      ttl_ms=60_000)
            )  # fmt: skip
            taken += [(job.id, job.lease) for job in jobs]
            ends = [Settle("t1", Finish(job=job.id, lease=job.lease)) for job in jobs]
            await asyncio.gather(*(self.committer.settle(end) for end in ends))
            if not jobs:
                if is_last:
                    return taken
                await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_old_and_new_nodes_work_on_one_database(database: str, old_postgres: OpenOld) -> None:
    """In the middle of a rolling upgrade: two nodes of each release accept and work at once; no gap, no double."""
    stores = [
        await PostgresStore.open(database),
        await old_postgres(database),
        await PostgresStore.open(database),
        await old_postgres(database),
    ]
    nodes = [Node(store, f"n{number}") for number, store in enumerate(stores)]
    accepted = asyncio.Event()
    working = [asyncio.create_task(node.work(accepted)) for node in nodes]
    each = 20
    indices = await asyncio.gather(*(node.accept(each) for node in nodes))
    accepted.set()
    taken = await asyncio.gather(*working)
    total = each * len(nodes)
    assert sorted(sum(indices, [])) == list(range(total))  # noqa: RUF017 - four short lists
    assert sorted(sum(taken, [])) == [(job, 1) for job in range(1, total + 1)]  # noqa: RUF017
    for store in stores:
        found = await audit(store, DECIDERS)
        numbers = [msgspec.json.decode(bytes(entry.data))["number"] for entry in found.entries]
        assert numbers == list(range(1, total + 1))
        assert {job.state for job in found.jobs.values()} == {"done"}
    for store in stores:
        await store.close()


async def filled(store: Store) -> tuple[Any, list[bytes]]:
    """Some of everything; the head and the leaves."""
    bench = StoreBench(lambda: None)  # type: ignore[arg-type, return-value]  # only its commit is used
    for number in range(6):
        one = work(f"s{number % 2}", deposit(jobs=2), key=f"k{number}", counters=("n",))
        await bench.put(store, one)
    held = await bench.claim(store, 5)
    ends = [
        Finish(job=held[0].id, lease=1),
        Finish(job=held[1].id, lease=1, state="dead", error="x"),
        Finish(job=held[2].id, lease=1, state="parked"),
    ]
    await bench.commit(store, *[Settle("t1", end) for end in ends])
    return await store.head(), await store.entries(0, 100)


async def check_upgraded(store: Store, before: tuple[Any, list[bytes]]) -> None:
    """The same log under the same root, the same jobs, and it goes on."""
    assert (await store.head(), await store.entries(0, 100)) == before
    found = await audit(store, DECIDERS)
    states = [job.state for job in found.jobs.values()]
    assert {state: states.count(state) for state in states} == {
        "done": 1, "dead": 1, "parked": 1, "leased": 2, "ready": 7,
    }  # fmt: skip
    assert {job.trace for job in found.jobs.values()} == {""}
    bench = StoreBench(lambda: None)  # type: ignore[arg-type, return-value]  # only its commit is used
    (again,) = await bench.put(store, work("s0", deposit(jobs=2), key="k0", counters=("n",)))
    assert again.replayed
    await bench.put(store, work("s0", deposit(jobs=1)))
    assert len((await audit(store, DECIDERS)).jobs) == 13


async def test_upgrade_of_postgresql_keeps_everything(database: str, old_postgres: OpenOld) -> None:
    """A database made and filled by the previous release: opened by this one, nothing is lost or changed."""
    old = await old_postgres(database)
    before = await filled(old)
    async with asyncio.timeout(30):
        store = await PostgresStore.open(database)  # while the old node is still there
        await check_upgraded(store, before)
        await StoreBench(lambda: None).put(old, work("s1", deposit(jobs=1)))  # type: ignore[arg-type, return-value]  # as above
    await old.close()
    await store.close()


async def test_upgrade_of_sqlite_keeps_everything(
    tmp_path: pathlib.Path, old_sqlite: OpenOld
) -> None:
    """The same for a file."""
    old = await old_sqlite(tmp_path / "site.db")
    before = await filled(old)
    await old.close()
    store = await SqliteStore.open(tmp_path / "site.db")
    await check_upgraded(store, before)
    await store.close()


async def _refused(call: Coroutine[Any, Any, Any]) -> str:
    # by name: the previous release's own errors are today's
    with pytest.raises(Refused) as caught:
        await call
    assert caught.value.hint
    return caught.value.code


async def test_post_migration_shuts_older_programs_out_of_postgresql(
    database: str, old_postgres: OpenOld
) -> None:
    """After a pre migration of a later release both releases go on; after a post one neither starts, and a node that
    still runs writes nothing more."""
    store, old = await PostgresStore.open(database), await old_postgres(database)
    nodes = [Node(store, "new"), Node(old, "old")]
    async with schema_session(database) as (session, queries):
        assert await migrate(session, queries, ("pre",), [LATER_PRE, LATER_POST]) == [LATER_PRE]
        for node in nodes:
            await node.accept(2)
        await (await PostgresStore.open(database)).close()
        await (await old_postgres(database)).close()
        ran = await migrate(session, queries, ("pre", "post"), [LATER_PRE, LATER_POST])
        assert ran == [LATER_POST]
    head = await store.head()
    for node in nodes:
        assert await _refused(node.accept(1)) == "schema-newer"
    assert await store.head() == head
    assert await _refused(PostgresStore.open(database)) == "schema-newer"
    assert await _refused(old_postgres(database)) == "schema-newer"
    await store.close()
    await old.close()


async def test_flush_that_had_loaded_before_a_post_migration_writes_nothing(
    database: str,
) -> None:
    """The migration comes between a flush's load and its write: the write does not happen."""
    store = await PostgresStore.open(database)
    node = Node(store, "n")
    await node.accept(1)
    ready, go = asyncio.Event(), asyncio.Event()
    real = store._commit

    async def late(db: Any, sent: Any) -> Any:
        ready.set()
        await go.wait()
        return await real(db, sent)

    store._commit = late  # type: ignore[method-assign]  # the moment that the test is about
    flush = asyncio.create_task(node.accept(2))
    await ready.wait()
    async with schema_session(database) as (session, queries):
        await migrate(session, queries, ("pre", "post"), [LATER_PRE, LATER_POST])
    go.set()
    assert await _refused(_ended(flush)) == "schema-newer"
    assert (await store.head()).size == 1
    await store.close()


async def _ended(task: asyncio.Task[Any]) -> Any:
    return await task


async def test_post_migration_shuts_older_programs_out_of_a_file(
    tmp_path: pathlib.Path, old_sqlite: OpenOld
) -> None:
    """The same rule for SQLite, where the site is stopped meanwhile."""
    path = tmp_path / "site.db"
    store = await SqliteStore.open(path)
    with pytest.raises(OutlastError, match="site-in-use"):
        migrate_file(path, ("pre",), [LATER_PRE])
    await store.close()
    assert migrate_file(path, ("pre",), [LATER_PRE, LATER_POST]) == [LATER_PRE]
    await (await SqliteStore.open(path)).close()
    await (await old_sqlite(path)).close()
    assert migrate_file(path, ("pre", "post"), [LATER_PRE, LATER_POST]) == [LATER_POST]
    assert await _refused(SqliteStore.open(path)) == "schema-newer"
    assert await _refused(old_sqlite(path)) == "schema-newer"


async def test_migrations_wait_for_a_table_in_use_and_give_up(
    database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody reads a table for long: Unavailable after the tries, nothing half-done; afterwards it works."""
    from outlast.core.store.postgres import schema

    monkeypatch.setattr(schema, "LOCK_TRIES", 2)
    monkeypatch.setattr(schema, "LOCK_PAUSE_S", 0.01)
    await (await PostgresStore.open(database)).close()
    async with schema_session(database) as (reader, _):
        await reader.execute("BEGIN; SELECT * FROM stream")
        async with schema_session(database) as (session, queries):
            patient = {**queries, "migrate_patience": "SET LOCAL lock_timeout = '100ms'"}
            with pytest.raises(OutlastError, match="storage-busy"):
                await migrate(session, patient, ("pre",), [LATER_PRE])
            await reader.execute("ROLLBACK")
            assert await migrate(session, patient, ("pre",), [LATER_PRE]) == [LATER_PRE]
