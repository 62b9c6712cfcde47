"""A store carried over from SQLite to PostgreSQL and back: every row, the tree, marks on both sides, kills in the middle."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from outlast.core.clock import SystemClock
from outlast.core.commit import Claim, Finish, Settle
from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.store import transfer
from outlast.core.store.port import Needs, WriteSet
from outlast.core.store.postgres.side import PostgresSide, postgres_side
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.core.store.sqlite.side import SqliteSide
from outlast.core.store.transfer import Mark, Published, Side
from outlast.testing.audit import audit
from outlast.testing.crowd import Node, command_of
from outlast.testing.ledger import JOB, ledger_deciders
from outlast.testing.postgres import PostgresServer
from outlast.testing.suites.store import work

pytestmark = pytest.mark.anyio

MARK = Mark("m1", "source", "moving", "there", 0)
COMMANDS = 60
DECIDERS = ledger_deciders()


@asynccontextmanager
async def sqlite_side(path: pathlib.Path) -> AsyncIterator[SqliteSide]:
    """A SQLite store as a side."""
    store = await SqliteStore.open(path)
    side = SqliteSide(store, path)
    try:
        yield side
    finally:
        await side.close()
        await store.close()


async def fill(side: Side) -> None:
    """Commands of two tenants, jobs in every state, counters, a subject key, idempotency records."""
    node, clock = Node(side.store, "filler"), SystemClock()
    await asyncio.gather(*(node.committer.submit(command_of(f"k{n}")) for n in range(COMMANDS)))
    await node.committer.submit(work("ünïcode/stream", key="other", subject_key=b"wrapped"))
    claim = Claim(worker="w", kinds=(JOB,), limit=4, now_ms=clock.now_ms(), ttl_ms=60_000)
    done, dead, parked, _held = await node.committer.claim(claim)
    for job, state in ((done, "done"), (dead, "dead"), (parked, "parked")):
        finish = Finish(job=job.id, lease=job.lease, state=state, error="why")  # type: ignore[arg-type]  # of three
        await node.committer.settle(Settle(job.tenant, finish))


def quiet(_what: str, _done: int, _total: int) -> None:
    """No bar."""


async def published(side: Side, size: int) -> Published:
    """The checkpoint that a site would have published at a size."""
    tree = CompactRange()
    for leaf in await side.store.entries(0, size):
        tree.append(leaf_hash(leaf))
    return Published(size, tree.root())


@asynccontextmanager
async def sides(tmp_path: pathlib.Path, database: str) -> AsyncIterator[tuple[Side, Side]]:
    """A filled SQLite store and an empty database."""
    path = tmp_path / "site.db"
    if not path.exists():
        async with sqlite_side(path) as begun:
            await fill(begun)
    async with sqlite_side(path) as source, postgres_side(database) as target:
        yield source, target


async def moved(source: Side, target: Side) -> transfer.Verified:
    """A whole move."""
    assert await transfer.begin(source, target, MARK)
    await transfer.copy(source, target, quiet)
    verified = await transfer.verify(source, target, await published(source, 7), quiet)
    await transfer.finish(source, target)
    return verified


async def code_of(call: object) -> str:
    """The code with which it is refused."""
    with pytest.raises(OutlastError) as caught:
        await call  # type: ignore[misc]  # a coroutine
    return caught.value.code


async def test_everything_arrives_and_goes_on(tmp_path: pathlib.Path, database: str) -> None:
    """Every row of every table is there; keys replay, jobs of all states are what they were, and the log grows on."""
    async with sides(tmp_path, database) as (source, target):
        verified = await moved(source, target)
        assert verified.rows["entry"] == verified.size == COMMANDS + 1
        assert all(verified.rows.values()), verified
        assert await target.store.head() == await source.store.head()
        before, after = await audit(source.store, DECIDERS), await audit(target.store, DECIDERS)
        assert before.entries == after.entries
        assert before.jobs == after.jobs
        assert {job.state for job in after.jobs.values()} == {
            "ready", "leased", "done", "dead", "parked"
        }  # fmt: skip
        assert await target.store.subject_key("ünïcode/stream") == b"wrapped"
        node = Node(target.store, "n")
        again = await node.committer.submit(command_of("k3"))
        assert again.replayed
        new = await node.committer.submit(command_of("new"))
        assert new.index == verified.size
        assert await target.store.counter("numbers") == COMMANDS + 1
        claim = Claim(worker="w2", kinds=(JOB,), limit=99, now_ms=SystemClock().now_ms(), ttl_ms=9)
        claimed = await node.committer.claim(claim)
        assert len(claimed) == COMMANDS + 1 - 3, "the void lease is claimed again too"
        assert not await transfer.begin(source, target, MARK), "there is nothing left to do"
        await transfer.finish(source, target)
        assert (await target.store.head()).size == new.index + 1, "done again, it undoes nothing"


async def test_way_back(tmp_path: pathlib.Path, database: str) -> None:
    """The same code moves it back; then the database is the one that no site may start on."""
    async with sides(tmp_path, database) as (source, target):
        await moved(source, target)
        (tmp_path / "back").mkdir()
        async with sqlite_side(tmp_path / "back" / "site.db") as home:
            assert await transfer.begin(target, home, msgspec.structs.replace(MARK, move="m2"))
            await transfer.copy(target, home, quiet)
            await transfer.verify(target, home, None, quiet)
            await transfer.finish(target, home)
            assert (await audit(home.store, DECIDERS)).jobs
            transfer.refuse_if_moved(await home.mark())
            for side in (source, target):
                with pytest.raises(Refused, match="store-moved"):
                    transfer.refuse_if_moved(await side.mark())


@pytest.mark.parametrize("flushes", [0, 2, 5])
async def test_killed_in_the_middle_it_goes_on(
    tmp_path: pathlib.Path, database: str, flushes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of pages: both sides refuse a site, the same move goes on, another one is refused."""
    monkeypatch.setattr(transfer, "PAGE_ROWS", 40)

    class Power(BaseException):
        pass

    async with sides(tmp_path, database) as (source, target):
        left, real = flushes, target.store.flush

        async def dying(needs: Needs, plan: object) -> None:
            nonlocal left
            if not left:
                raise Power
            left -= 1
            await real(needs, plan)  # type: ignore[arg-type]  # handed on

        monkeypatch.setattr(target.store, "flush", dying)
        await transfer.begin(source, target, MARK)
        with pytest.raises(Power):
            await transfer.copy(source, target, quiet)
        monkeypatch.setattr(target.store, "flush", real)
    async with sides(tmp_path, database) as (source, target):
        for side in (source, target):
            with pytest.raises(Refused, match="store-move-unfinished"):
                transfer.refuse_if_moved(await side.mark())
        assert (await target.store.head()).size == 0
        (tmp_path / "other").mkdir()
        async with sqlite_side(tmp_path / "other" / "site.db") as other:
            await fill(other)
            assert await code_of(transfer.begin(other, target, MARK)) == "store-target-taken"
        await moved(source, target)
        transfer.refuse_if_moved(await target.mark())
        assert len((await audit(target.store, DECIDERS)).entries) == COMMANDS + 1


async def test_starting_over_and_undoing(tmp_path: pathlib.Path, database: str) -> None:
    """A half-filled target is emptied when asked to; a move is undone, also a finished one, unless the target was used."""
    async with sides(tmp_path, database) as (source, target):
        await transfer.begin(source, target, MARK)
        await transfer.copy(source, target, quiet)
        await transfer.start_over(target)
        assert await transfer.is_empty(target)
        await moved(source, target)
        assert await code_of(transfer.start_over(target)) == "store-not-empty"
        (tmp_path / "other").mkdir()
        async with sqlite_side(tmp_path / "other" / "site.db") as other:
            assert await code_of(transfer.begin(source, other, MARK)) == "store-moved"
        await transfer.cancel(source, target)
        assert await transfer.is_empty(target)
        assert await source.mark() is None
        assert await code_of(transfer.cancel(source, target)) == "store-move-none"
        await moved(source, target)
        await Node(target.store, "n").committer.submit(command_of("new"))
        assert await code_of(transfer.cancel(source, target)) == "store-moved"


async def test_a_target_with_anything_in_it_is_refused(
    tmp_path: pathlib.Path, database: str
) -> None:
    """One entry, or only a counter: not empty, and nothing is marked."""
    async with sides(tmp_path, database) as (source, target):
        await target.store.flush(Needs(), lambda s: WriteSet(s.head, counters={"n": 1}))
        assert await code_of(transfer.begin(source, target, MARK)) == "store-not-empty"
        assert await source.mark() is None


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE entry SET leaf = leaf || '\\x00' WHERE idx = 50",
        "DELETE FROM entry WHERE idx = 60",
        "UPDATE stream SET label = 'x' WHERE id = 's-1'",
        "DELETE FROM idempotency WHERE digest IN (SELECT min(digest) FROM idempotency)",
        "UPDATE counter SET value = value + 1",
        "DELETE FROM subject_key",
    ],
)
async def test_a_row_that_did_not_arrive_is_found(
    tmp_path: pathlib.Path, database: str, postgres_server: PostgresServer, sql: str
) -> None:
    """Whatever differs in the target: the move is not finished, and the head stays empty."""
    async with sides(tmp_path, database) as (source, target):
        await transfer.begin(source, target, MARK)
        await transfer.copy(source, target, quiet)
        postgres_server.run(sql, database)
        with pytest.raises(Corrupt, match="store-move-differs"):
            await transfer.verify(source, target, None, quiet)
        assert (await target.store.head()).size == 0


async def test_a_source_that_is_not_the_published_log_is_refused(
    tmp_path: pathlib.Path, database: str
) -> None:
    """The checkpoint is of another tree, or ahead of the store; or the store's own entries do not give its root."""
    async with sides(tmp_path, database) as (source, target):
        await transfer.begin(source, target, MARK)
        await transfer.copy(source, target, quiet)
        right = await published(source, 20)
        for wrong in (
            Published(20, bytes(32)),
            Published(21, right.root),
            Published(99, bytes(32)),
        ):
            assert await code_of(transfer.verify(source, target, wrong, quiet)) == "log-fork"
        await transfer.verify(source, target, right, quiet)

        def other_edge(snapshot: object) -> WriteSet:
            head = snapshot.head  # type: ignore[attr-defined]  # a snapshot
            return WriteSet(msgspec.structs.replace(head, edge=head.edge[:-1] + b"\0"))

        await source.store.flush(Needs(), other_edge)
        assert await code_of(transfer.verify(source, target, right, quiet)) == "log-root-mismatch"


async def test_a_target_that_dies_half_way_says_what_to_do(
    tmp_path: pathlib.Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's disk is full, say: Unavailable, with the way on; the same command then ends the move."""
    async with sides(tmp_path, database) as (source, target):
        await transfer.begin(source, target, MARK)

        async def full(_needs: object, _plan: object) -> None:
            raise Unavailable("storage-full", "the disk is full", hint="Free space.")

        with monkeypatch.context() as patched:
            patched.setattr(target.store, "flush", full)
            with pytest.raises(Unavailable, match="storage-full") as caught:
                await transfer.copy(source, target, quiet)
        assert "same command again" in caught.value.hint
        await moved(source, target)


async def test_a_database_in_use_is_refused(database: str, postgres_server: PostgresServer) -> None:
    """A node has a session with it."""
    from outlast.core.store.postgres.engine import PostgresStore

    node = await PostgresStore.open(database, session_name="outlast/a/1")
    try:
        async with postgres_side(database) as side:
            assert isinstance(side, PostgresSide)
            with pytest.raises(Refused, match="site-in-use"):
                await side.refuse_if_used()
            assert "test-only" not in side.name
    finally:
        await node.close()
