"""Clients and workers that go on through an outage, and remember what they were told.

Each client has one command under way, with an idempotency key, and repeats it with the same key until it is
acknowledged; anything but a retryable error ends the crowd. Afterwards `Crowd.check` compares what was acknowledged
with what the store holds: nothing lost, nothing twice, no gap, the same answer to each key asked again, every job
done once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Idempotency, Planner, Receipt, Submission
from outlast.core.errors import Unavailable, Unknown
from outlast.core.ids import system_random
from outlast.core.store.port import Store, WriteSet
from outlast.core.work.runner import Job, Kind, Limits, Runner
from outlast.testing.audit import Audit, audit
from outlast.testing.ledger import JOB, KIND, Deposit, ledger_deciders

TENANT = "t"
JOBS_STREAM = "jobs"
RETRY_S = 0.02
"""Between two tries of a client: far sooner than it is asked to, so that outages are seen from everywhere."""
QUIET_S = 60.0
"""How long all work may take to end after the last command."""
LEASE_MS = 2_000


class Node:
    """One node of the site: a committer, and a worker that ends each job together with a command."""

    def __init__(self, store: Store, name: str) -> None:
        clock = SystemClock()
        self.store, self.name = store, name
        planner = Planner(ledger_deciders(), HybridClock(clock), "site")
        self.committer = Committer(store, planner, clock, self._wake)
        self.runner = Runner(
            self.committer,
            store,
            clock,
            {JOB: Kind(self._post, BackoffPolicy())},
            worker=name,
            rng=system_random(),
            limits=Limits(concurrency=16, lease_ms=LEASE_MS),
        )

    def _wake(self, write: WriteSet) -> None:
        if write.new_jobs:
            self.runner.wake()

    async def _post(self, job: Job) -> None:
        await self.committer.submit(
            Submission(
                tenant=TENANT,
                actor=self.name,
                kind=KIND,
                stream=JOBS_STREAM,
                command=Deposit(at_ms=0, amount=1, memo=f"job-{job.row.id}"),
                finish=job.done(),
            )
        )


class Crowd:
    """``clients`` clients at each of the nodes, and the nodes' workers, from ``running`` to its end."""

    def __init__(self, nodes: Sequence[Node], clients: int) -> None:
        self._nodes = nodes
        self._clients = clients
        self._stopping = False
        self.acked: dict[str, Receipt] = {}
        self.errors: Counter[str] = Counter()
        self.slowest_s = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Crowd]:
        """Clients go on until the block ends, then end their last commands; then all work is waited for."""
        workers = [asyncio.create_task(node.runner.run()) for node in self._nodes]
        try:
            async with asyncio.TaskGroup() as group:
                for node in self._nodes:
                    for number in range(self._clients):
                        group.create_task(self._client(node, f"{node.name}-{number}"))
                yield self
                self._stopping = True
            await self._until_no_work()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def until(self, count: int, timeout_s: float = QUIET_S) -> None:
        """Wait until so many commands more are acknowledged."""
        wanted = len(self.acked) + count
        async with asyncio.timeout(timeout_s):
            while len(self.acked) < wanted:  # noqa: ASYNC110 - a test may look
                await asyncio.sleep(0.01)

    async def rate(self, seconds: float) -> float:
        """Commands acknowledged per second, over the next so many."""
        before = len(self.acked)
        await asyncio.sleep(seconds)
        return (len(self.acked) - before) / seconds

    async def _client(self, node: Node, name: str) -> None:
        clock, step = SystemClock(), 0
        while not self._stopping:
            step += 1
            key, began = f"{name}-{step}", clock.monotonic_s()
            while key not in self.acked:
                try:
                    self.acked[key] = await node.committer.submit(command_of(key))
                except (Unavailable, Unknown) as error:
                    self.errors[error.code] += 1
                    await asyncio.sleep(RETRY_S)
            self.slowest_s = max(self.slowest_s, clock.monotonic_s() - began)

    async def _until_no_work(self) -> None:
        store = self._nodes[0].store
        async with asyncio.timeout(QUIET_S):
            while True:
                try:
                    counts = await store.job_counts()
                except Unavailable:
                    await asyncio.sleep(RETRY_S)
                    continue
                assert not counts.dead, "a job was given up: somebody would have to look"
                if not counts.ready + counts.leased:
                    return
                await asyncio.sleep(0.05)

    async def check(self) -> Audit:
        """Whether the store holds exactly what was acknowledged. AssertionError names what does not fit."""
        node = self._nodes[0]
        found = await audit(node.store, ledger_deciders())
        memos = Counter(msgspec.json.decode(bytes(e.data))["memo"] for e in found.entries)
        assert not [memo for memo, count in memos.items() if count > 1], "something happened twice"
        jobs = {f"job-{job}" for job in found.jobs}
        assert memos.keys() == self.acked.keys() | jobs, "acknowledged and held differ"
        for key, receipt in self.acked.items():
            entry = found.entries[receipt.index]
            assert msgspec.json.decode(bytes(entry.data))["memo"] == key, f"{key} is elsewhere"
        assert {job.state for job in found.jobs.values()} <= {"done"}
        assert len(found.jobs) == len(self.acked)
        for key, receipt in list(self.acked.items())[:: max(1, len(self.acked) // 200)]:
            again = await node.committer.submit(command_of(key))
            assert again == msgspec.structs.replace(receipt, replayed=True)
        return found


def command_of(key: str) -> Submission:
    """The command of a key: a deposit into one of a few streams, with a job."""
    return Submission(
        tenant=TENANT,
        actor="client",
        kind=KIND,
        stream=f"s-{sum(key.encode()) % 20}",
        command=Deposit(at_ms=0, amount=1, jobs=1, memo=key, counter="numbers"),
        counters=("numbers",),
        idempotency=Idempotency(key, key.encode()),
    )
