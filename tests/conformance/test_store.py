"""Every store engine passes the one suite of its port (`outlast.testing.suites.store`)."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import apsw
import pytest

from outlast.core.errors import Conflict, OutlastError, Refused, Unavailable, Unknown
from outlast.core.store.port import Needs, Snapshot, Store, WriteSet
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.sqlite import engine
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.ledger import Withdraw
from outlast.testing.store import Crashed, MemoryDisk, MemoryStore
from outlast.testing.suites.store import Check, StoreBench, work
from outlast.testing.suites.store_jobs import ALL_CHECKS

pytestmark = pytest.mark.anyio

each_check = pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.__name__)


def memory_bench() -> StoreBench:
    """A store of dictionaries; what is committed outlives it."""
    disk = MemoryDisk()

    async def open_store() -> Store:
        return MemoryStore(disk)

    return StoreBench(open_store)


def sqlite_bench(path: pathlib.Path) -> StoreBench:
    """A store on one SQLite file."""

    async def open_store() -> Store:
        return await SqliteStore.open(path)

    return StoreBench(open_store)


def postgres_bench(dsn: str) -> StoreBench:
    """A store on one PostgreSQL database."""

    async def open_store() -> Store:
        return await PostgresStore.open(dsn)

    return StoreBench(open_store)


@each_check
async def test_memory(check: Check) -> None:
    """The dictionary is a store."""
    await check(memory_bench())


@each_check
async def test_sqlite(tmp_path: pathlib.Path, check: Check) -> None:
    """SQLite is a store."""
    await check(sqlite_bench(tmp_path / "site.db"))


@each_check
async def test_postgres(database: str, check: Check) -> None:
    """PostgreSQL is a store."""
    await check(postgres_bench(database))


# -- the dictionary's faults --------------------------------------------------------------------------


async def test_memory_fails_before_and_after_the_effect() -> None:
    """Told to fail before, nothing is written; told to fail after, it is, and the caller cannot know."""
    disk = MemoryDisk()
    store = MemoryStore(disk)

    async def open_store() -> Store:
        return store

    bench = StoreBench(open_store)
    store.plan("fail-before", "full", "fail-after")
    for kind, code, size in (
        (Unavailable, "storage-error", 0),
        (Unavailable, "storage-full", 0),
        (Unknown, "storage-answer-lost", 1),
    ):
        with pytest.raises(kind) as caught:
            await bench.put(store, work("a"))
        assert (caught.value.code, disk.head.size) == (code, size)
    await bench.put(store, work("a"))
    assert disk.head.size == 2


async def test_memory_crashes_at_either_side_of_the_commit() -> None:
    """A crash loses what was not committed and keeps what was; the dead store answers nobody."""
    disk = MemoryDisk()
    for fault, size in (("crash-before", 0), ("crash-after", 1)):
        store = MemoryStore(disk)
        bench = StoreBench(MemoryStore)  # type: ignore[arg-type]  # only its commit is used
        store.plan(fault)  # type: ignore[arg-type]  # both are FlushFaults
        with pytest.raises(Crashed):
            await bench.put(store, work("a"))
        with pytest.raises(Unavailable, match="storage-closed"):
            await store.head()
        assert MemoryStore(disk).disk.head.size == size


# -- what only a file has ---------------------------------------------------------------------------------


async def test_sqlite_file_is_for_one_process(tmp_path: pathlib.Path) -> None:
    """While a store is open, another process and another store in this one are refused; afterwards not."""
    path = tmp_path / "site.db"
    store = await SqliteStore.open(path)
    with pytest.raises(Refused, match="site-in-use"):
        await SqliteStore.open(path)
    assert "site-in-use" in _open_elsewhere(path)
    await store.close()
    assert _open_elsewhere(path) == "opened\n"
    await (await SqliteStore.open(path)).close()


def _open_elsewhere(path: pathlib.Path) -> str:
    program = (
        "import sys, pathlib\n"
        "from outlast.core.errors import Refused\n"
        "from outlast.core.store.sqlite.engine import SqliteStore\n"
        "try:\n"
        "    SqliteStore(pathlib.Path(sys.argv[1]))._close()\n"
        "    print('opened')\n"
        "except Refused as error:\n"
        "    print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


async def test_sqlite_refuses_a_schema_for_newer_programs(tmp_path: pathlib.Path) -> None:
    """A file that had a post migration we do not know is left alone, and not locked."""
    path = tmp_path / "site.db"
    await (await SqliteStore.open(path)).close()
    db = apsw.Connection(str(path))
    db.execute("INSERT INTO schema_migration (number, phase) VALUES (9999, 'post')")
    for _ in range(2):
        with pytest.raises(Refused, match="schema-newer"):
            await SqliteStore.open(path)
    db.execute("UPDATE schema_migration SET phase = 'pre' WHERE number = 9999")
    db.close()
    await (await SqliteStore.open(path)).close()


async def test_sqlite_says_what_is_wrong_with_a_file(tmp_path: pathlib.Path) -> None:
    """A file that is no database is Corrupt, and the lock is given back."""
    path = tmp_path / "site.db"
    path.write_bytes(b"this is no database" * 1_000)
    with pytest.raises(OutlastError, match="database-corrupt"):
        await SqliteStore.open(path)
    path.unlink()
    await (await SqliteStore.open(path)).close()


async def test_sqlite_syncs_every_commit(tmp_path: pathlib.Path) -> None:
    """Write-ahead log and full sync are really on, on both connections that write."""
    store = await SqliteStore.open(tmp_path / "site.db")
    assert store._writer.pragma("journal_mode") == "wal"
    assert store._writer.pragma("synchronous") == 2
    assert store._checkpoints._db.pragma("synchronous") == 2
    await store.close()


async def test_sqlite_syncs_nothing_for_nothing(tmp_path: pathlib.Path) -> None:
    """An idle worker asks for jobs every second: finding none, refused commands and repeats write nothing."""
    path = tmp_path / "site.db"
    store = await SqliteStore.open(path)
    bench = sqlite_bench(path)
    await bench.put(store, work("a", key="k", body=b""))
    written = path.with_name("site.db-wal").stat().st_size
    assert await bench.claim(store) == []
    await bench.put(store, work("a", key="k", body=b""))
    await bench.commit(store, work("b", Withdraw(at_ms=0, amount=1)))
    assert path.with_name("site.db-wal").stat().st_size == written
    await bench.put(store, work("a"))
    assert path.with_name("site.db-wal").stat().st_size > written
    await store.close()


async def test_sqlite_commit_stands_when_the_checkpoint_after_it_cannot_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that fails after COMMIT is no failure of the commit: it happened, and is said to have."""
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 1)
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 1)
    path = tmp_path / "site.db"
    store = await SqliteStore.open(path)
    bench = sqlite_bench(path)
    await bench.put(store, work("a"))
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN; SELECT * FROM entry")  # holds the write-ahead log
    for _ in range(3):
        await bench.put(store, work("a"))
    assert (await store.head()).size == 4
    reader.close()
    await bench.put(store, work("a"))
    await store.close()


async def test_sqlite_reads_go_on_while_a_flush_is_under_way(tmp_path: pathlib.Path) -> None:
    """A reader sees the state before a flush that is still planning, and does not wait for it."""
    store = await SqliteStore.open(tmp_path / "site.db")
    bench = sqlite_bench(tmp_path / "site.db")
    await bench.put(store, work("a"))
    sizes: list[int] = []

    def plan(_: Snapshot) -> WriteSet:  # runs on the writer's thread
        with store._read_lock:
            sizes.append(store._head(store._reader).size)
        raise Conflict("enough", "seen")

    with pytest.raises(Conflict):
        await store.flush(Needs(), plan)
    assert sizes == [1]
    await store.close()
