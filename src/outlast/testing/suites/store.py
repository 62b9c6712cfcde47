"""What every ``Store`` must do: one suite for the dictionary and for every real engine.

An engine is described by a `StoreBench`: how to open it, again and again, on the same data. The checks go through
the real planner with a small aggregate (`testing.ledger`), so what they prove is engine and plan together; where
a plan would never do something (contradict what is stored), the check writes by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio
import msgspec

from outlast.core.clock import HybridClock, ManualClock, hlc_text
from outlast.core.commit import (
    Claim,
    Finish,
    Idempotency,
    Outcome,
    Planner,
    Receipt,
    Settle,
    Submission,
    Work,
    needs_of,
)
from outlast.core.decider import Command
from outlast.core.errors import Conflict, OutlastError, Refused
from outlast.core.log.entry import decode_entry
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.store.port import (
    EntryRow,
    Head,
    JobRow,
    Needs,
    Snapshot,
    Store,
    StreamKey,
    WriteSet,
)
from outlast.testing.ledger import JOB, KIND, Deposit, Look, Withdraw, ledger_deciders

T = TypeVar("T")

TTL_MS = 1_000
"""How long a claim of this suite holds a job."""


class StoreBench:
    """One engine under test. ``open_store`` opens the same data each time; one open at a time."""

    def __init__(self, open_store: Callable[[], Awaitable[Store]]) -> None:
        self._open_store = open_store
        self.clock = ManualClock()
        self.planner = Planner(ledger_deciders(), HybridClock(self.clock), "site-a")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Store]:
        """The store, closed at the end."""
        store = await self._open_store()
        try:
            yield store
        finally:
            await store.close()

    async def commit(self, store: Store, *batch: Work) -> list[Outcome]:
        """One flush of this work; the outcomes."""
        outcomes: list[Outcome] = []

        def plan(snapshot: Snapshot) -> WriteSet:
            write, planned = self.planner.plan(batch, snapshot, self.clock.now_ms())
            outcomes[:] = planned
            return write

        await store.flush(needs_of(batch), plan)
        return outcomes

    async def put(self, store: Store, *batch: Submission) -> list[Receipt]:
        """One flush in which everything must succeed."""
        outcomes = await self.commit(store, *batch)
        return [must(outcome, Receipt) for outcome in outcomes]

    async def claim(
        self, store: Store, limit: int = 10, kinds: tuple[str, ...] = (JOB,), worker: str = "w1"
    ) -> list[JobRow]:
        """Claim what is due now, for TTL_MS."""
        (outcome,) = await self.commit(store, self.wish(limit, kinds, worker))
        return must(outcome, list)

    def wish(self, limit: int = 10, kinds: tuple[str, ...] = (JOB,), worker: str = "w1") -> Claim:
        """A claim for a flush of one's own making."""
        return Claim(
            worker=worker, kinds=kinds, limit=limit, now_ms=self.clock.now_ms(), ttl_ms=TTL_MS
        )


Check = Callable[[StoreBench], Awaitable[None]]


def work(
    stream: str,
    command: Command | None = None,
    *,
    tenant: str = "t1",
    key: str = "",
    body: bytes = b"",
    counters: tuple[str, ...] = (),
    finish: Finish | None = None,
    subject_key: bytes | None = None,
) -> Submission:
    """A submission to an account; without a command, a deposit of 1."""
    return Submission(
        tenant=tenant,
        actor="tester",
        kind=KIND,
        stream=stream,
        command=command or Deposit(at_ms=0, amount=1),
        counters=counters,
        idempotency=Idempotency(key, body) if key else None,
        finish=finish,
        subject_key=subject_key,
    )


def deposit(amount: int = 1, *, jobs: int = 0, run_at_ms: int = 0, kind: str = JOB) -> Deposit:
    """A deposit with jobs."""
    return Deposit(at_ms=0, amount=amount, jobs=jobs, run_at_ms=run_at_ms, job_kind=kind)


def must(outcome: object, kind: type[T]) -> T:
    """The outcome as what it must be."""
    assert isinstance(outcome, kind), repr(outcome)
    return outcome


def code_of(outcome: object) -> str:
    """The code of an error outcome."""
    return must(outcome, OutlastError).code


# -- the log and the streams --------------------------------------------------------------------


async def starts_empty(bench: StoreBench) -> None:
    """A fresh store has an empty tree, job number 1 next, and nothing else."""
    async with bench.open() as store:
        assert await store.head() == Head(0, CompactRange().encode(), 0, 1)
        assert await store.entries(0, 10) == []
        assert await store.stream(StreamKey("t1", KIND, "a")) is None
        assert await store.stream_entries(StreamKey("t1", KIND, "a")) == []
        assert await store.streams("t1", KIND) == []
        assert await store.job(1) is None
        assert await store.next_due_ms((JOB,)) is None
        assert await store.counter("n") == 0
        assert await store.subject_key("a") is None


async def keeps_entries_in_order(bench: StoreBench) -> None:
    """Leaves come back byte for byte, in order, in any window; the head's tree is over exactly them."""
    async with bench.open() as store:
        leaves: list[bytes] = []
        roots = [(await store.head()).edge]
        for number in range(5):
            await bench.put(store, work("a", deposit()), work(f"b{number}", deposit()))
            leaves = await store.entries(0, 100)
            head = await store.head()
            tree = CompactRange()
            tree.extend(leaf_hash(leaf) for leaf in leaves)
            assert (head.size, head.edge) == (2 * (number + 1), tree.encode())
            roots.append(head.edge)
        assert len(set(roots)) == 6
        for start in range(12):
            for limit in range(12):
                assert await store.entries(start, limit) == leaves[start : start + limit]


async def head_only_grows(bench: StoreBench) -> None:
    """Size, hybrid time and job number never fall, and grow with what they count."""
    async with bench.open() as store:
        before = await store.head()
        for number in range(6):
            await bench.put(store, work(f"s{number}", deposit(jobs=number % 2)))
            after = await store.head()
            assert after.size == before.size + 1
            assert after.hlc > before.hlc
            assert after.next_job == before.next_job + number % 2
            before = after
        await bench.commit(store, work("none", Withdraw(at_ms=0, amount=1)))
        assert await store.head() == before


async def keeps_newest_state(bench: StoreBench) -> None:
    """A stream's row is what its last event led to, also when it changes twice in one flush."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(5)), work("a", deposit(6)))
        await bench.put(store, work("b", deposit(1)))
        await bench.put(store, work("a", Withdraw(at_ms=0, amount=11)))
        row = await store.stream(StreamKey("t1", KIND, "a"))
        assert row is not None
        assert (row.version, row.label, row.last_index) == (3, "empty", 3)
        assert msgspec.json.decode(row.state)["balance"] == 0
        assert row.updated_ms == bench.clock.now_ms()


async def chains_a_streams_entries(bench: StoreBench) -> None:
    """A stream's own entries come oldest first, with their log index; a limit keeps the newest."""
    async with bench.open() as store:
        for number in range(4):
            two = Deposit(at_ms=0, amount=number, parts=2)
            await bench.put(store, work("a", two), work("b"), work("a", tenant="t2"))
        chain = await store.stream_entries(StreamKey("t1", KIND, "a"))
        assert [index for index, _ in chain] == [0, 1, 4, 5, 8, 9, 12, 13]
        leaves = await store.entries(0, 100)
        assert all(leaves[index] == leaf for index, leaf in chain)
        assert [decode_entry(leaf).seq for _, leaf in chain] == list(range(1, 9))
        assert await store.stream_entries(StreamKey("t1", KIND, "a"), 3) == chain[-3:]


async def lists_streams(bench: StoreBench) -> None:
    """Listings go from the newest id down, in pages, and can be of one label."""
    async with bench.open() as store:
        names = [f"s{number:02}" for number in range(7)]
        for name in names:
            await bench.put(store, work(name, deposit(1)))
        for name in names[::2]:
            await bench.put(store, work(name, Withdraw(at_ms=0, amount=1)))
        every = await store.streams("t1", KIND)
        assert [item.id for item in every] == names[::-1]
        assert every[0].row == await store.stream(StreamKey("t1", KIND, names[-1]))
        page = await store.streams("t1", KIND, limit=3)
        rest = await store.streams("t1", KIND, before=page[-1].id)
        assert [item.id for item in (*page, *rest)] == names[::-1]
        closed = await store.streams("t1", KIND, label="empty", before="s05", limit=2)
        assert [item.id for item in closed] == ["s04", "s02"]
        assert [item.id for item in await store.streams("t1", KIND, label="open")] == names[-2::-2]
        assert await store.streams("t1", "other.kind") == []


async def isolates_tenants(bench: StoreBench) -> None:
    """The same names in two tenants are two streams, two keys, two sets of jobs; nobody ends another's job."""
    async with bench.open() as store:
        mine = work("a", deposit(7, jobs=1), key="k", body=b"1")
        await bench.put(store, mine)
        other = work("a", deposit(2), tenant="t2", key="k", body=b"2")
        (receipt,) = await bench.put(store, other)
        assert (receipt.version, receipt.replayed) == (1, False)
        assert len(await store.stream_entries(StreamKey("t2", KIND, "a"))) == 1
        assert len(await store.streams("t2", KIND)) == 1
        assert (await store.jobs("t2"), len(await store.jobs("t1"))) == ([], 1)
        (job,) = await bench.claim(store)
        theft = Finish(job=job.id, lease=job.lease)
        outcomes = await bench.commit(
            store, Settle("t2", theft), work("x", deposit(), tenant="t2", finish=theft)
        )
        assert [code_of(outcome) for outcome in outcomes] == ["job-not-found"] * 2
        assert await store.stream(StreamKey("t2", KIND, "x")) is None
        assert await store.job(job.id) == job


# -- idempotency, counters, keys ------------------------------------------------------------------


async def replays_an_idempotency_key(bench: StoreBench) -> None:
    """The same key and body is answered as the first time and does nothing; another body is refused."""
    async with bench.open() as store:
        first, twin = await bench.put(
            store,
            work("a", deposit(3, jobs=1), key="k", body=b"body"),
            work("a", deposit(3, jobs=1), key="k", body=b"body"),
        )
        (later,) = await bench.put(store, work("a", deposit(3, jobs=1), key="k", body=b"body"))
        assert (first.replayed, twin.replayed, later.replayed) == (False, True, True)
        assert msgspec.structs.replace(later, replayed=False) == first
        assert msgspec.structs.replace(twin, replayed=False) == first
        head = await store.head()
        assert (head.size, head.next_job) == (1, 2)
        (outcome,) = await bench.commit(store, work("a", deposit(4), key="k", body=b"other"))
        assert code_of(outcome) == "idempotency-key-reused"
        (none,) = await bench.put(store, work("a", Look(at_ms=0), key="look", body=b""))
        await bench.put(store, work("a", deposit()))
        (again,) = await bench.put(store, work("a", Look(at_ms=0), key="look", body=b""))
        assert (none.count, msgspec.structs.replace(again, replayed=False)) == (0, none)


async def counts_without_gaps(bench: StoreBench) -> None:
    """A counter's numbers go to commands that succeed, one each, in order."""
    async with bench.open() as store:
        wants = ("n",)
        asked = Deposit(at_ms=0, amount=1, counter="n")
        too_much = Withdraw(at_ms=0, amount=9)
        for _ in range(3):
            await bench.commit(
                store,
                work("a", asked, counters=wants),
                work("b", too_much, counters=wants),
                work("a", Look(at_ms=0), counters=wants),
                work("c", asked, counters=wants),
            )
        await bench.put(store, work("d", Deposit(at_ms=0, amount=1, counter="m"), counters=("m",)))
        found = [msgspec.json.decode(decode_entry(x).data) for x in await store.entries(0, 99)]
        assert [data["number"] for data in found] == [1, 2, 3, 4, 5, 6, 1]
        assert (await store.counter("n"), await store.counter("m")) == (6, 1)


async def keeps_subject_keys(bench: StoreBench) -> None:
    """A subject's wrapped key is kept beside the log; a second one for the same subject writes nothing."""
    async with bench.open() as store:
        await bench.put(store, work("a", subject_key=b"wrapped"))
        assert await store.subject_key("a") == b"wrapped"
        assert await store.subject_key("b") is None
        head = await store.head()
        second = work("a", subject_key=b"another")
        assert await _fails(bench.commit(store, second, work("b"))) == "storage-conflict"
        assert (await store.head(), await store.subject_key("a")) == (head, b"wrapped")


# -- all or nothing -------------------------------------------------------------------------------


async def plan_that_raises_writes_nothing(bench: StoreBench) -> None:
    """Whatever ``plan`` raises comes out of ``flush`` unchanged, and the next flush works."""
    async with bench.open() as store:
        await bench.put(store, work("a"))
        head = await store.head()
        for error in (Refused("no", "planned"), ValueError("a bug"), KeyError("x")):

            def plan(snapshot: Snapshot, error: Exception = error) -> WriteSet:
                raise error

            try:
                await store.flush(Needs(), plan)
            except Exception as raised:
                assert raised is error  # noqa: PT017 - the very same object is the point
            else:
                raise AssertionError("flush swallowed the plan's error")
        assert await store.head() == head
        await bench.put(store, work("a"))
        assert (await store.head()).size == 2


async def contradiction_writes_nothing(bench: StoreBench) -> None:
    """A write that clashes with what is stored is Conflict ``storage-conflict``, and leaves no trace."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=1), key="k", body=b""))
        head, row = await store.head(), await store.stream(StreamKey("t1", KIND, "a"))
        assert row is not None
        new = StreamKey("t1", KIND, "new")
        job = await store.job(1)
        assert job is not None
        for clash in (
            WriteSet(head, streams={new: row}, new_streams={new}, entries=[EntryRow(0, -1, b"x")]),
            WriteSet(head, streams={new: row, StreamKey("t1", KIND, "a"): row},
                     new_streams={new, StreamKey("t1", KIND, "a")}),
            WriteSet(head, streams={new: row}, new_streams={new}, jobs={1: job}, new_jobs={1}),
        ):  # fmt: skip
            assert await _fails(store.flush(Needs(), partial(_always, clash))) == "storage-conflict"
            assert await store.stream(new) is None
        assert await store.head() == head
        await bench.put(store, work("b"))


async def _fails(call: Awaitable[object]) -> str:
    """The code of the Conflict that the call raises."""
    try:
        await call
    except Conflict as error:
        return error.code
    return "no conflict at all"


def _always(write: WriteSet, _snapshot: Snapshot) -> WriteSet:
    return write


async def serialises_concurrent_flushes(bench: StoreBench) -> None:
    """Flushes from many tasks at once neither lose nor double anything."""
    async with bench.open() as store:

        async def some(number: int) -> None:
            for _ in range(5):
                await bench.put(store, work("shared"), work(f"own{number}"))

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(some, number)
        row = await store.stream(StreamKey("t1", KIND, "shared"))
        assert row is not None
        assert (row.version, (await store.head()).size) == (40, 80)
        hlcs = [decode_entry(leaf).hlc for leaf in await store.entries(0, 100)]
        assert hlcs == sorted(set(hlcs))
        assert hlc_text((await store.head()).hlc) == hlcs[-1]


async def keeps_everything_over_a_restart(bench: StoreBench) -> None:
    """What was committed is there after close and open, byte for byte; leases of before are void."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=2), key="k", body=b"b", counters=("n",)))
        await bench.put(store, work("b", subject_key=b"wrapped"))
        (held,) = await bench.claim(store, 1)
        before = await _everything(store)
    async with bench.open() as store:
        assert await _everything(store) == before
        (again,) = await bench.put(store, work("a", deposit(jobs=2), key="k", body=b"b"))
        assert again.replayed
        jobs = await bench.claim(store, worker="w2")
        assert [(job.id, job.lease) for job in jobs] == [(held.id, held.lease + 1), (2, 1)]
        (outcome,) = await bench.commit(store, Settle("t1", Finish(job=held.id, lease=held.lease)))
        assert code_of(outcome) == "job-fenced"
        await bench.put(store, work("c", deposit(jobs=1)))
        assert (await store.head()).next_job == 4


async def _everything(store: Store) -> Sequence[object]:
    return (
        await store.head(),
        await store.entries(0, 1_000),
        await store.streams("t1", KIND),
        [(job.id, job.state, job.lease, job.payload) for job in await store.jobs("t1")],
        await store.counter("n"),
        await store.subject_key("b"),
    )


async def prunes_what_is_old(bench: StoreBench) -> None:
    """Old idempotency records and old finished jobs go; fresh ones, and unfinished jobs, stay."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=3), key="old", body=b""))
        first, second, _ = await bench.claim(store, 3)
        await bench.commit(
            store,
            Settle("t1", Finish(job=first.id, lease=1)),
            Settle("t1", Finish(job=second.id, lease=1, state="dead", error="x")),
        )
        old_ms = bench.clock.now_ms()
        bench.clock.advance(10)
        await bench.put(store, work("b", deposit(jobs=1), key="new", body=b""))
        assert await store.prune(idempotency_before_ms=old_ms, jobs_before_ms=old_ms) == 0
        cut = old_ms + 5
        assert await store.prune(idempotency_before_ms=cut, jobs_before_ms=cut) == 2
        assert [job.id for job in await store.jobs("t1")] == [2, 3, 4]
        fresh, kept = await bench.put(
            store, work("a", key="old", body=b"other"), work("b", key="new", body=b"")
        )
        assert (fresh.replayed, kept.replayed) == (False, True)


STORE_CHECKS: tuple[Check, ...] = (
    starts_empty,
    keeps_entries_in_order,
    head_only_grows,
    keeps_newest_state,
    chains_a_streams_entries,
    lists_streams,
    isolates_tenants,
    replays_an_idempotency_key,
    counts_without_gaps,
    keeps_subject_keys,
    plan_that_raises_writes_nothing,
    contradiction_writes_nothing,
    serialises_concurrent_flushes,
    keeps_everything_over_a_restart,
    prunes_what_is_old,
)
"""Everything but jobs, which are `testing.suites.store_jobs`."""
