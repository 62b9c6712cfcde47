"""One PostgreSQL under load, and what may happen to it: sessions cut, no connection left, a crash in the middle of a
flush, a snapshot held for long, a node that freezes. No job is stuck or given up, and nobody has to do anything."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from outlast.core.store.port import Needs, Snapshot, WriteSet
from outlast.core.store.postgres.engine import PostgresStore
from outlast.testing.crowd import Crowd, Node
from outlast.testing.postgres import PostgresServer

pytestmark = pytest.mark.anyio

SNAPSHOT_S = float(os.environ.get("OUTLAST_SNAPSHOT_S", "3"))
"""How long a stranger's snapshot is held; `make outages` takes 60 s."""
OUTAGES = int(os.environ.get("OUTLAST_OUTAGES", "1"))
"""How often the server crashes."""
CUTS_OURS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name LIKE 'outlast%' AND datname = current_database()"
)


@asynccontextmanager
async def nodes(dsn: str, count: int) -> AsyncIterator[list[Node]]:
    """Nodes of one site."""
    stores = [await PostgresStore.open(dsn) for _ in range(count)]
    try:
        yield [Node(store, f"n{number}") for number, store in enumerate(stores)]
    finally:
        for store in stores:
            await store.close()


@pytest.mark.slow
async def test_cut_sessions_cost_no_job(database: str) -> None:
    """Every session of both nodes is ended ten times a second, for three seconds, while they accept and work."""
    async with nodes(database, 2) as two:
        crowd = Crowd(two, clients=6)
        async with crowd.running():
            stranger = await asyncpg.connect(database)
            for _ in range(30):
                await stranger.execute(CUTS_OURS)
                await asyncio.sleep(0.1)
            await stranger.close()
            await crowd.until(50)
        await crowd.check()
    assert crowd.errors["storage-unreachable"] > 10
    assert crowd.errors.keys() <= {"storage-unreachable", "storage-answer-lost"}


@pytest.mark.slow
async def test_a_server_without_connections_left_is_waited_for(
    database: str, postgres_server: PostgresServer
) -> None:
    """Others take every connection there is, and the node loses its own: it goes on once there is one again."""
    async with nodes(database, 1) as one:
        crowd = Crowd(one, clients=6)
        async with crowd.running():
            await crowd.until(50)
            cutter = await asyncpg.connect(postgres_server.dsn())
            others: list[asyncpg.Connection] = []
            taking = asyncio.create_task(_take_all(postgres_server.dsn(), others))
            for _ in range(20):
                await cutter.execute(_cut_all_of(database))
                await asyncio.sleep(0.05)
            assert crowd.errors["storage-busy"], crowd.errors
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            for connection in (cutter, *others):
                await connection.close()
            await crowd.until(50)
        await crowd.check()


async def _take_all(dsn: str, taken: list[asyncpg.Connection]) -> None:
    """Be quicker than the node to every connection that comes free."""
    while True:
        try:
            taken.append(await asyncpg.connect(dsn))
        except asyncpg.PostgresError:
            await asyncio.sleep(0.001)


def _cut_all_of(dsn: str) -> str:
    name = dsn.rpartition("/")[2].partition("?")[0]
    return CUTS_OURS.replace("current_database()", f"'{name}'")


@pytest.mark.slow
async def test_a_server_that_crashes_in_the_middle_of_flushes(
    database: str, postgres_server: PostgresServer
) -> None:
    """Immediate shutdown while flushes load, write and commit, and start again, under load."""
    async with nodes(database, 2) as two:
        crowd = Crowd(two, clients=8)
        async with crowd.running():
            for _ in range(OUTAGES):
                await crowd.until(100)
                await asyncio.to_thread(postgres_server.kill)
                await asyncio.sleep(0.2)
                await asyncio.to_thread(postgres_server.start)
            await crowd.until(100)
        await crowd.check()
    assert crowd.errors["storage-unreachable"]


@pytest.mark.slow
async def test_a_held_snapshot_stops_nobody(database: str) -> None:
    """Somebody leaves a transaction open (idle, REPEATABLE READ): nothing that dies meanwhile can be removed. Accepting
    and working go on without an error, a flush costs the server a few times as much at most, and all is done in the end."""
    async with nodes(database, 1) as (node,):
        crowd = Crowd([node], clients=8)
        async with crowd.running():
            await crowd.until(100)
            before = await flush_cost(node, 1.0)
            stranger = await asyncpg.connect(database)
            await stranger.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM head")
            await asyncio.sleep(SNAPSHOT_S - 2.0)
            accepted = await crowd.rate(1.0)
            held = await flush_cost(node, 1.0)
            await stranger.close()
        await crowd.check()
    assert not crowd.errors
    assert accepted > 10
    assert held < 8 * before, (before, held)


async def flush_cost(node: Node, seconds: float) -> float:
    """Seconds of the server's processor time that a flush costs, over the next ``seconds``: also true on a busy machine."""
    assert isinstance(node.store, PostgresStore)
    assert node.store._writer is not None
    pid = node.store._writer.get_server_pid()
    began, flushes = _cpu_s(pid), node.committer.flushes
    await asyncio.sleep(seconds)
    return (_cpu_s(pid) - began) / (node.committer.flushes - flushes)


def _cpu_s(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


FREEZES = """
import asyncio, os, signal, sys
from outlast.core.store.port import Head, Needs, Snapshot, WriteSet
from outlast.core.store.postgres import session
from outlast.core.store.postgres.engine import PostgresStore

def plan(snapshot: Snapshot) -> WriteSet:
    print("locked", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    head = snapshot.head
    return WriteSet(Head(head.size, head.edge, head.hlc + 1, head.next_job + 1_000))

async def main() -> None:
    session.WRITER_SETTINGS["idle_in_transaction_session_timeout"] = "1s"
    store = await PostgresStore.open(sys.stdin.readline().strip())
    store._in_turn = 1  # as after another node got between: the lock is held while it plans
    try:
        await store.flush(Needs(), plan)
    finally:
        await store.close()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_frozen_process_loses_the_heads_lock(database: str) -> None:
    """A node's process is stopped while it holds the lock that every flush needs: the others wait for a second (five, as
    configured), then go on; when it is woken its flush has failed, and wrote nothing."""
    async with nodes(database, 1) as one:
        frozen = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            [sys.executable, "-c", FREEZES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert frozen.stdin is not None
            assert frozen.stdout is not None
            frozen.stdin.write(f"{database}\n")
            frozen.stdin.flush()
            assert await asyncio.to_thread(frozen.stdout.readline) == "locked\n"
            crowd = Crowd(one, clients=4)
            async with crowd.running():
                await crowd.until(50, timeout_s=10)
            await crowd.check()
            assert crowd.slowest_s > 0.5, "nobody waited: was the lock held at all?"
            frozen.send_signal(signal.SIGCONT)
            _, errors = await asyncio.to_thread(frozen.communicate)
            assert frozen.returncode == 1
            assert "storage-unreachable" in errors
            assert (await one[0].store.head()).next_job == len(crowd.acked) + 1
        finally:
            frozen.kill()
            frozen.wait()


async def test_a_flush_cut_while_it_plans_is_tried_again_by_its_caller(
    database: str, postgres_server: PostgresServer
) -> None:
    """The server crashes between the load and the write of a flush: nothing of it is there after recovery."""
    async with nodes(database, 1) as one:
        store = one[0].store

        def plan(snapshot: Snapshot) -> WriteSet:
            postgres_server.kill()
            return WriteSet(snapshot.head, counters={"n": 7})

        with pytest.raises(Exception, match=r"storage-(unreachable|answer-lost)"):
            await store.flush(Needs(), plan)
        await asyncio.to_thread(postgres_server.start)
        assert await store.counter("n") == 0
        await store.flush(Needs(), lambda snapshot: WriteSet(snapshot.head, counters={"n": 8}))
        assert await store.counter("n") == 8
