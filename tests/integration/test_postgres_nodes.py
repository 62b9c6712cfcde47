"""Two nodes of one site on one real PostgreSQL: they accept, log and work at once, and nobody sees a seam."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from outlast.core.clock import Clock, HybridClock, ManualClock, SystemClock
from outlast.core.commit import Claim, Committer, Finish, Planner, Receipt, Settle
from outlast.core.errors import Conflict, Refused
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.store.port import JobRow, StreamKey
from outlast.core.store.postgres.engine import PostgresStore
from outlast.testing.audit import audit
from outlast.testing.ledger import JOB, KIND, Deposit, ledger_deciders
from outlast.testing.suites.store import deposit, work

pytestmark = pytest.mark.anyio

DECIDERS = ledger_deciders()
CLIENTS = 8
"""Per node."""
COMMANDS = 12
"""Of each client."""


class Node:
    """One node: its own connections, clock and committer."""

    def __init__(self, store: PostgresStore, name: str, clock: Clock) -> None:
        self.store, self.name, self.clock = store, name, clock
        self.committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)

    async def claim(self, limit: int = 5, ttl_ms: int = 60_000) -> list[JobRow]:
        """Lease some jobs."""
        now_ms = self.clock.now_ms()
        return await self.committer.claim(
            Claim(worker=self.name, kinds=(JOB,), limit=limit, now_ms=now_ms, ttl_ms=ttl_ms)
        )


@asynccontextmanager
async def node(dsn: str, name: str, clock: Clock | None = None) -> AsyncIterator[Node]:
    """A node that has closed its store when the block ends."""
    store = await PostgresStore.open(dsn)
    try:
        yield Node(store, name, clock or SystemClock())
    finally:
        await store.close()


async def _accept(one: Node, number: int) -> list[Receipt]:
    """One client's commands: its own stream, one that all share, a counter that all share."""
    receipts = []
    for step in range(COMMANDS):
        mine = f"{one.name}-{number}-{step}"
        command = Deposit(at_ms=0, amount=1, jobs=1, counter="n", memo=mine)
        stream = "shared" if step % 3 == 0 else f"{one.name}-{number}"
        receipts.append(
            await one.committer.submit(work(stream, command, key=mine, counters=("n",)))
        )
    return receipts


async def _watch(reader: PostgresStore, stop: asyncio.Event) -> int:
    """Whatever a reader sees is the whole log up to the head, and a continuation of what it saw before."""
    tree, seen = CompactRange(), 0
    while not stop.is_set():
        head = await reader.head()
        leaves = await reader.entries(tree.size, head.size - tree.size)
        assert len(leaves) == head.size - tree.size, "a gap below the head"
        tree.extend(leaf_hash(leaf) for leaf in leaves)
        assert tree.encode() == head.edge
        seen += bool(leaves)
        await asyncio.sleep(0.005)
    return seen


async def _work(one: Node, taken: list[tuple[int, int]], stop: asyncio.Event) -> None:
    """Claim and finish until told to stop and nothing is left."""
    while True:
        jobs = await one.claim()
        taken += [(job.id, job.lease) for job in jobs]
        for job in jobs:
            await one.committer.settle(Settle(job.tenant, Finish(job=job.id, lease=job.lease)))
        if not jobs:
            if stop.is_set():
                return
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_two_nodes_write_one_log(database: str) -> None:
    """Accepting and working on two nodes at once: no gap, no double, one tree, each job claimed exactly once."""
    accepted, watched = asyncio.Event(), asyncio.Event()
    async with node(database, "a") as a, node(database, "b") as b, node(database, "c") as c:
        taken: list[tuple[int, int]] = []
        watching = asyncio.create_task(_watch(c.store, watched))
        working = [asyncio.create_task(_work(one, taken, accepted)) for one in (a, b)]
        clients = [_accept(one, number) for one in (a, b) for number in range(CLIENTS)]
        receipts = [receipt for some in await asyncio.gather(*clients) for receipt in some]
        accepted.set()
        await asyncio.gather(*working)
        watched.set()
        assert await watching > 3, "the reader saw the log grow"
        total = 2 * CLIENTS * COMMANDS
        assert sorted(receipt.index for receipt in receipts) == list(range(total))
        found = await audit(c.store, DECIDERS)
        assert len(found.entries) == total
        numbers = [msgspec.json.decode(bytes(entry.data))["number"] for entry in found.entries]
        assert numbers == list(range(1, total + 1))
        assert sorted(taken) == [(job, 1) for job in range(1, total + 1)]
        assert {job.state for job in found.jobs.values()} == {"done"}
        by_index = sorted(receipts, key=lambda receipt: receipt.index)
        hlcs = [receipt.hlc for receipt in by_index]
        assert hlcs == sorted(hlcs)
        assert min(a.committer.flushes, b.committer.flushes) > 5


async def test_idempotency_holds_across_nodes(database: str) -> None:
    """The same key at both nodes at once happens once, and both answer the same; another body is refused."""
    async with node(database, "a") as a, node(database, "b") as b:
        for number in range(20):
            same = work(f"s{number}", deposit(jobs=1), key=f"k{number}", body=b"1")
            first, second = await asyncio.gather(a.committer.submit(same), b.committer.submit(same))
            assert sorted([first.replayed, second.replayed]) == [False, True]
            assert msgspec.structs.replace(first, replayed=second.replayed) == second
        other = work("s0", deposit(), key="k0", body=b"2")
        with pytest.raises(Refused, match="idempotency-key-reused"):
            await b.committer.submit(other)
        assert (await a.store.head()).size == 20


async def test_a_node_reads_what_another_wrote(database: str) -> None:
    """Nothing is remembered: a stream changed at one node is new at the other at once."""
    async with node(database, "a") as a, node(database, "b") as b:
        for number in range(1, 6):
            writer, reader = (a, b) if number % 2 else (b, a)
            await writer.committer.submit(work("x"))
            row = await reader.store.stream(StreamKey("t1", KIND, "x"))
            assert row is not None
            assert row.version == number


async def test_opening_a_node_leaves_the_leases_of_others(database: str) -> None:
    """A start takes no job away; a clean end gives back its own; a node that died loses them when they run out."""
    clock = ManualClock()
    async with node(database, "a", clock) as a:
        await a.committer.submit(work("x", deposit(jobs=2)))
        (held,) = await a.claim(1)
        async with node(database, "b", clock) as b:
            (other,) = await b.claim()
            assert other.id != held.id
            await a.committer.settle(Settle("t1", Finish(job=held.id, lease=held.lease)))
        (back,) = await a.claim()
        assert (back.id, back.lease) == (other.id, other.lease + 1)
        a.store._abandon()  # as a process that is gone: it gives nothing back
        a.store._workers.clear()
    async with node(database, "c", clock) as c:
        assert await c.claim() == []
        clock.advance(60_001)
        (rescued,) = await c.claim()
        assert (rescued.id, rescued.lease) == (other.id, other.lease + 2)
        with pytest.raises(Conflict, match="job-fenced"):
            await c.committer.settle(Settle("t1", Finish(job=back.id, lease=back.lease)))


async def test_many_nodes_start_at_once_on_an_empty_database(database: str) -> None:
    """The schema is made once; everybody finds it."""
    stores = await asyncio.gather(*(PostgresStore.open(database) for _ in range(4)))
    for store in stores:
        assert (await store.head()).size == 0
        await store.close()


async def test_nodes_agree_on_what_the_site_is(database: str) -> None:
    """The first node pins; another with other keys is refused."""
    async with node(database, "a") as a, node(database, "b") as b:
        await a.store.pin("origin", "x")
        await b.store.pin("origin", "x")
        with pytest.raises(Refused, match="site-differs"):
            await b.store.pin("origin", "y")
        await b.committer.submit(work("x"))


async def test_one_node_prunes_at_a_time(database: str) -> None:
    """While one prunes, another forgets nothing and does not wait."""
    async with node(database, "a") as a, node(database, "b") as b:
        await a.committer.submit(work("x", key="k"))
        later = SystemClock().now_ms() + 60_000
        async with a.store._session() as db:
            await db.fetchval(a.store._q["prune_alone"])
            assert await b.store.prune(idempotency_before_ms=later, jobs_before_ms=later) == 0
            await db.fetchval(a.store._q["prune_done"])
        assert await b.store.prune(idempotency_before_ms=later, jobs_before_ms=later) == 1
