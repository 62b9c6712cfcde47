"""Random schedules over the committer: whatever is interleaved, the store says one thing and kept its word.

Hypothesis drives submissions, claims, settlements, cancellations, faults and restarts in any order; an audit of
the whole store follows each step that lets the loop run. The same machine runs on dictionaries and on SQLite.
"""

from __future__ import annotations

import asyncio
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import (
    Claim,
    Committer,
    Finish,
    Idempotency,
    Planner,
    Receipt,
    Settle,
    Submission,
)
from outlast.core.errors import OutlastError, Unavailable, Unknown
from outlast.core.store.port import JobRow, Store
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.audit import Audit, audit
from outlast.testing.ledger import JOB, KIND, Deposit, Explode, Look, Withdraw, ledger_deciders
from outlast.testing.store import FlushFault, MemoryDisk, MemoryStore

TTL_MS = 50
SURELY_TOO_MUCH = 1_000
"""More than all deposits of one example together."""
STREAMS = st.sampled_from(["a", "b", "c"])
TENANTS = st.sampled_from(["t1", "t2"])
FAULTS = st.sampled_from(["fail-before", "fail-after", "full"])


class Sent(msgspec.Struct):
    """A deposit under way: what was asked, under which key, and the answers it got."""

    submission: Submission
    tasks: list[asyncio.Task[Receipt]]


class CommitMachine(RuleBasedStateMachine):
    """Rules put work into the queue; `run` lets everything finish and checks it all."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.sent: dict[str, Sent] = {}
        self.others: list[asyncio.Task[Any]] = []
        self.held: list[JobRow] = []
        self.stale: list[JobRow] = []
        self.number = 0
        self.deciders = ledger_deciders()

    # -- the site: overridden per engine

    def open_store(self) -> Store:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        """Open the store and put a committer on it."""
        self.store = self.open_store()
        planner = Planner(self.deciders, HybridClock(self.clock), "site-a")
        self.committer = Committer(self.store, planner, self.clock)

    def teardown(self) -> None:
        """Finish, check once more, close."""
        if hasattr(self, "store"):
            self.finish_all()
            self.check()
            self.wait(self.store.close())
        self.wait(self.loop.shutdown_default_executor())
        self.loop.close()

    def wait(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run one coroutine to its end; others run along."""
        return self.loop.run_until_complete(coro)

    # -- work

    @rule(
        tenant=TENANTS,
        stream=STREAMS,
        parts=st.integers(1, 3),
        jobs=st.integers(0, 2),
        counted=st.booleans(),
        version=st.sampled_from([None, None, None, 0, 3]),
        end_a_job=st.booleans(),
    )
    def deposit(
        self,
        tenant: str,
        stream: str,
        parts: int,
        jobs: int,
        counted: bool,
        version: int | None,
        end_a_job: bool,
    ) -> None:
        """A command of its own key; its memo tells its entries apart in the log."""
        self.number += 1
        key = f"k{self.number}"
        counter = f"{tenant}/n" if counted else ""
        finish = None
        if end_a_job and self.held:
            job = self.held.pop()
            finish, tenant = Finish(job=job.id, lease=job.lease), job.tenant
            counter = ""
        command = Deposit(at_ms=0, amount=1, parts=parts, jobs=jobs, counter=counter, memo=key)
        submission = Submission(
            tenant=tenant,
            actor="machine",
            kind=KIND,
            stream=stream,
            command=command,
            counters=(counter,) if counter else (),
            idempotency=Idempotency(f"{tenant}/{key}", b"body"),
            expected_version=version,
            finish=finish,
        )
        self.sent[key] = Sent(submission, [])
        self._send(self.sent[key])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        """The client repeats a request with its key, whatever came of it before."""
        self._send(self.sent[data.draw(st.sampled_from(sorted(self.sent)))])

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_other_body(self, data: st.DataObject) -> None:
        """A key that is bound, with another body: refused, whatever it asks for."""
        sent = self.sent[data.draw(st.sampled_from(sorted(self.sent)))]
        self.finish_all()
        if not any(isinstance(_outcome(task), Receipt) for task in sent.tasks):
            return
        assert sent.submission.idempotency is not None
        other = msgspec.structs.replace(
            sent.submission,
            command=Look(at_ms=0),
            idempotency=Idempotency(sent.submission.idempotency.key, b"other"),
        )
        outcome = self.wait(_caught(self.committer.submit(other)))
        assert isinstance(outcome, OutlastError)
        lost = ("storage-error", "storage-full", "storage-answer-lost")
        assert outcome.code in ("idempotency-key-reused", *lost)

    @rule(
        tenant=TENANTS,
        stream=STREAMS,
        amount=st.integers(1, 2 * SURELY_TOO_MUCH),
        bug=st.booleans(),
    )
    def withdraw(self, tenant: str, stream: str, amount: int, bug: bool) -> None:
        """A command that may well be refused, or one that hits a bug; both with a number."""
        command = Explode(at_ms=0) if bug else Withdraw(at_ms=0, amount=amount)
        submission = Submission(
            tenant=tenant,
            actor="machine",
            kind=KIND,
            stream=stream,
            command=command,
            counters=(f"{tenant}/n",) if bug or amount > SURELY_TOO_MUCH else (),
        )
        self.others.append(self.loop.create_task(self.committer.submit(submission)))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """A caller is cancelled, wherever its command is."""
        sent = self.sent[data.draw(st.sampled_from(sorted(self.sent)))]
        sent.tasks[-1].cancel()

    # -- jobs

    @rule(limit=st.integers(1, 4), twice=st.booleans())
    def claim(self, limit: int, twice: bool) -> None:
        """One or two workers claim at once; they never get the same job under the same lease."""
        now_ms = self.clock.now_ms()
        asks = [
            Claim(worker=f"w{at}", kinds=(JOB,), limit=limit, now_ms=now_ms, ttl_ms=TTL_MS)
            for at in range(2 if twice else 1)
        ]

        async def both() -> list[Any]:
            claims = [self.committer.claim(ask) for ask in asks]
            return await asyncio.gather(*claims, return_exceptions=True)

        taken = [
            job for jobs in self.wait(both()) if not isinstance(jobs, Exception) for job in jobs
        ]
        assert len({job.id for job in taken}) == len(taken)
        before = {job.id: job.lease for job in (*self.held, *self.stale)}
        for job in taken:
            assert job.lease > before.get(job.id, 0)
        again = {job.id for job in taken}
        self.stale += [job for job in self.held if job.id in again]
        self.held = [job for job in self.held if job.id not in again] + taken

    @precondition(lambda self: self.held)
    @rule(state=st.sampled_from(["done", "ready", "dead", "leased"]))
    def settle(self, state: str) -> None:
        """A holder ends or extends its job."""
        job = self.held.pop(0)
        until_ms = self.clock.now_ms() + TTL_MS
        finish = Finish(job=job.id, lease=job.lease, state=state, lease_until_ms=until_ms)  # type: ignore[arg-type]  # one of JobState
        self.stale.append(job)
        self.others.append(self.loop.create_task(self.committer.settle(Settle(job.tenant, finish))))

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def settle_as_zombie(self, data: st.DataObject) -> None:
        """Somebody whose lease is over tries to end the job: fenced, whenever somebody holds it since."""
        job = data.draw(st.sampled_from(self.stale))
        self.finish_all()
        row = self.wait(self.store.job(job.id))
        zombie = Settle(job.tenant, Finish(job=job.id, lease=job.lease))
        outcome = self.wait(_caught(self.committer.settle(zombie)))
        if row.lease != job.lease or row.state != "leased":
            assert isinstance(outcome, OutlastError)
            assert self.wait(self.store.job(job.id)) == row or isinstance(outcome, Unknown)

    @rule(ms=st.integers(1, 2 * TTL_MS))
    def pass_time(self, ms: int) -> None:
        """Leases run out."""
        self.clock.advance(ms)

    # -- running

    @rule()
    def run(self) -> None:
        """Let everything finish, then check everything."""
        self.finish_all()
        self.check()

    @rule(ticks=st.integers(1, 5))
    def run_a_little(self, ticks: int) -> None:
        """Let the loop turn a few times, so that later work meets a flush under way."""

        async def turn() -> None:
            for _ in range(ticks):
                await asyncio.sleep(0)

        self.wait(turn())

    @rule()
    def restart(self) -> None:
        """Close and open; everything acknowledged is there."""
        self.finish_all()
        self.wait(self.store.close())
        self.stale += self.held
        self.held = []
        self.start()
        self.check()

    def finish_all(self) -> None:
        """Until nothing is queued."""
        tasks = [task for sent in self.sent.values() for task in sent.tasks] + self.others
        self.wait(_settled(tasks))
        self.wait(self.committer.drain())
        self.others = []

    def check(self) -> None:
        """The whole store, and every promise made to a caller."""
        found: Audit = self.wait(audit(self.store, self.deciders))
        memos = Counter(_data(entry).get("memo", "") for entry in found.entries)
        for key, sent in self.sent.items():
            self._check_sent(key, sent, found, memos[key])
        for tenant in ("t1", "t2"):
            numbers = [_data(e).get("number", 0) for e in found.entries if e.tenant == tenant]
            given = sorted(set(numbers) - {0})
            assert given == list(range(1, len(given) + 1)), f"{tenant}: numbers {given}"
            assert self.wait(self.store.counter(f"{tenant}/n")) == len(given)

    def _check_sent(self, key: str, sent: Sent, found: Audit, count: int) -> None:
        outcomes = [_outcome(task) for task in sent.tasks]
        receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        command = sent.submission.command
        assert isinstance(command, Deposit)
        assert count in (0, command.parts), f"{key}: {count} of {command.parts} entries"
        if receipts:
            first = receipts[0]
            same = [msgspec.structs.replace(r, replayed=first.replayed) for r in receipts]
            assert same == [first] * len(receipts), f"{key}: other answers when asked again"
            assert sum(not r.replayed for r in receipts) <= 1
            version = sent.submission.expected_version
            assert version in (None, first.version - first.count)
            own = found.entries[first.index : first.index + first.count]
            assert count == first.count == command.parts
            assert [_data(entry)["memo"] for entry in own] == [key] * count
            made = [j for j in found.jobs.values() if j.cause == first.index + first.count - 1]
            assert len(made) == command.jobs
        elif all(isinstance(o, OutlastError) and not isinstance(o, Unknown) for o in outcomes):
            assert count == 0, f"{key}: refused, and yet in the log"

    def _send(self, sent: Sent) -> None:
        sent.tasks.append(self.loop.create_task(self.committer.submit(sent.submission)))


class MemoryMachine(CommitMachine):
    """On dictionaries, which fail on command."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()
        self.memory: MemoryStore | None = None

    def open_store(self) -> Store:
        """Another store on the same disk; its flushes take a few turns of the loop."""

        async def pause() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.memory = MemoryStore(self.disk, before_flush=pause)
        return self.memory

    @rule(fault=FAULTS)
    def fail(self, fault: FlushFault) -> None:
        """The next flush goes wrong."""
        assert self.memory is not None
        self.memory.plan(fault)


class SqliteMachine(CommitMachine):
    """On a file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="outlast-"))

    def open_store(self) -> Store:
        """The file, opened again."""
        return SqliteStore(self.folder / "site.db")

    def teardown(self) -> None:
        """Leave nothing behind."""
        super().teardown()
        shutil.rmtree(self.folder)


def _data(entry: Any) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.json.decode(entry.data)
    return data


def _outcome(task: asyncio.Task[Receipt]) -> object:
    if task.cancelled():
        return None
    return task.exception() or task.result()


async def _settled(tasks: list[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


async def _caught(call: Coroutine[Any, Any, Any]) -> object:
    try:
        return await call
    except (OutlastError, Unavailable) as error:
        return error


TestOnMemory = MemoryMachine.TestCase
TestOnMemory.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestOnSqlite = SqliteMachine.TestCase
TestOnSqlite.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
