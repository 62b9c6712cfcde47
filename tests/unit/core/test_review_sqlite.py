"""What a large and busy database must not cost: scans, growing caches, a stalled event loop."""

from __future__ import annotations

import asyncio
import pathlib
import re
import stat

import pytest

from outlast.core.commit import Finish, Settle
from outlast.core.errors import Unavailable
from outlast.core.store.port import Store, StreamKey
from outlast.core.store.sqlite import engine
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.ledger import KIND
from outlast.testing.suites.store import StoreBench, deposit, work

pytestmark = pytest.mark.anyio


def bench(path: pathlib.Path) -> StoreBench:
    """A store on one SQLite file."""

    async def open_store() -> Store:
        return await SqliteStore.open(path)

    return StoreBench(open_store)


@pytest.mark.parametrize("name", ["count_dead", "count_parked", "count_kind", "jobs_stuck"])
async def test_no_count_reads_the_whole_job_table(tmp_path: pathlib.Path, name: str) -> None:
    """A day's finished jobs are millions of rows: what is asked every few seconds must not pass over them."""
    store = await SqliteStore.open(tmp_path / "site.db")
    try:
        sql = store._q[name]
        args = {"jobs_stuck": ("t", "dead", 0, 10), "count_kind": ("x",)}.get(name, ())
        plan = [row[3] for row in store._writer.execute(f"EXPLAIN QUERY PLAN {sql}", args)]
        assert not [step for step in plan if step == "SCAN job" or "PRIMARY KEY" in step], plan
    finally:
        await store.close()


async def test_old_jobs_behind_stuck_ones_are_pruned(tmp_path: pathlib.Path) -> None:
    """However many dead letters are older, finished jobs go."""
    many = bench(tmp_path / "site.db")
    async with many.open() as store:
        await many.put(store, work("a", deposit(jobs=40)))
        rows = await many.claim(store, 40)
        dead, done = rows[:35], rows[35:]
        await many.commit(
            store,
            *(Settle("t1", Finish(job=row.id, lease=1, state="dead")) for row in dead),
            *(Settle("t1", Finish(job=row.id, lease=1)) for row in done),
        )
        sqlite = store
        assert isinstance(sqlite, SqliteStore)
        sqlite._q["prune_jobs"] = re.sub(r"LIMIT \d+", "LIMIT 20", sqlite._q["prune_jobs"])
        many.clock.advance(10)
        cut = many.clock.now_ms()
        assert await store.prune(idempotency_before_ms=cut, jobs_before_ms=cut) == 5


async def test_reading_a_range_does_not_hold_up_point_reads(tmp_path: pathlib.Path) -> None:
    """The publisher catches up on a large log in its thread; the event loop's own reads go on meanwhile."""
    many = bench(tmp_path / "site.db")
    async with many.open() as store:
        sqlite = store
        assert isinstance(sqlite, SqliteStore)
        rows = [(index, -1, b"x" * 2_000) for index in range(30_000)]
        sqlite._writer.execute("BEGIN")
        sqlite._writer.executemany(sqlite._q["insert_entry"], rows)
        sqlite._writer.execute("COMMIT")
        now_s = asyncio.get_running_loop().time
        began_s, stall_s = now_s(), 0.0
        reading = asyncio.create_task(store.entries(0, 30_000))
        while not reading.done():
            await asyncio.sleep(0)
            asked_s = now_s()
            await store.stream(StreamKey("t1", KIND, "nobody"))
            stall_s = max(stall_s, now_s() - asked_s)
        assert len(await reading) == 30_000
        assert stall_s < (now_s() - began_s) / 3


async def test_reading_alone_does_not_grow_the_cache(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that is only read from stays within the bound on remembered states."""
    many = bench(tmp_path / "site.db")
    async with many.open() as store:
        for name in "abcdefgh":
            await many.put(store, work(name))
    monkeypatch.setattr(engine, "CACHED_STREAMS", 4)
    async with many.open() as store:
        for name in "abcdefgh":
            assert await store.stream(StreamKey("t1", KIND, name)) is not None
        assert isinstance(store, SqliteStore)
        assert len(store._newest) <= 4


async def test_the_database_is_for_its_user_only(shared_folder: pathlib.Path) -> None:
    """Also in a folder that was there before and that others may enter."""
    many = bench(shared_folder / "site.db")
    async with many.open() as store:
        await many.put(store, work("a"))
        assert not modes(shared_folder) & 0o077


@pytest.fixture
def shared_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder that others may enter."""
    tmp_path.chmod(0o755)
    return tmp_path


def modes(folder: pathlib.Path) -> int:
    """The permissions of all files in it, joined."""
    joined = 0
    for path in folder.iterdir():
        joined |= stat.S_IMODE(path.stat().st_mode)
    return joined


async def test_the_head_is_read_with_the_errors_of_the_port(tmp_path: pathlib.Path) -> None:
    """The publisher and `/metrics` ask for it all the time: an error of SQLite's own would end the site."""
    store = await SqliteStore.open(tmp_path / "site.db")
    try:
        store._reader.close()
        with pytest.raises(Unavailable, match="storage-error"):
            await store.head()
    finally:
        await store.close()
