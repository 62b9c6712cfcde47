"""What every ``Store`` must do about jobs: who may claim which, for how long, and who may end them.

Part of the suite in `testing.suites.store`; `ALL_CHECKS` is both parts.
"""

from __future__ import annotations

import msgspec

from outlast.core.commit import Finish, Settle
from outlast.core.store.port import JobCounts, JobRow
from outlast.testing.ledger import JOB
from outlast.testing.suites.store import (
    STORE_CHECKS,
    TTL_MS,
    Check,
    StoreBench,
    code_of,
    deposit,
    must,
    work,
)

OTHER = "ledger.other"


async def makes_jobs_with_their_event(bench: StoreBench) -> None:
    """A job carries its tenant, stream, cause and payload, and is ready; a refused command makes none."""
    async with bench.open() as store:
        traced = msgspec.structs.replace(work("a", deposit(jobs=2, run_at_ms=5)), trace="00-7-7-01")
        await bench.put(store, work("x"), traced)
        first, second = await store.jobs("t1")
        assert first == JobRow(
            1, "t1", JOB, "ledger.account/a", b'{"part":0,"ballast":""}', "ready",
            5, 0, "", 0, 0, 1, bench.clock.now_ms(), "", "00-7-7-01",
        )  # fmt: skip
        assert (second.id, second.payload) == (2, b'{"part":1,"ballast":""}')
        assert await store.job(2) == second


async def claims_only_what_is_due(bench: StoreBench) -> None:
    """Earliest first, of the kinds asked for, no more than the limit, none before its time."""
    async with bench.open() as store:
        now_ms = bench.clock.now_ms()
        for offset, kind in ((50, JOB), (-5, JOB), (-9, OTHER), (-7, JOB), (0, JOB)):
            await bench.put(store, work("a", deposit(jobs=1, run_at_ms=now_ms + offset, kind=kind)))
        assert await store.next_due_ms((JOB,)) == now_ms - 7
        assert await store.next_due_ms((JOB, OTHER)) == now_ms - 9
        assert await store.next_due_ms(()) is None
        taken = await bench.claim(store, 2)
        assert [job.id for job in taken] == [4, 2]
        assert {(j.state, j.lease, j.attempts, j.worker) for j in taken} == {("leased", 1, 1, "w1")}
        assert {job.lease_until_ms for job in taken} == {now_ms + TTL_MS}
        assert [await store.job(job.id) for job in taken] == taken
        assert [job.id for job in await bench.claim(store)] == [5]
        assert await bench.claim(store) == []
        assert await store.next_due_ms((JOB,)) == now_ms + 50
        bench.clock.advance(50)
        assert [job.id for job in await bench.claim(store, kinds=(OTHER, JOB))] == [3, 1]
        assert await bench.claim(store, kinds=()) == []


async def reclaims_expired_leases(bench: StoreBench) -> None:
    """A lease that ran out is claimed again under a larger number, before what is merely due; not earlier."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=1)))
        (held,) = await bench.claim(store)
        bench.clock.advance(TTL_MS - 1)
        await bench.put(store, work("a", deposit(jobs=1)))
        assert [job.id for job in await bench.claim(store, 1, worker="w2")] == [2]
        assert await store.next_due_ms((JOB,)) == held.lease_until_ms
        bench.clock.advance(1)
        (rescued,) = await bench.claim(store, worker="w2")
        assert (rescued.id, rescued.lease, rescued.attempts, rescued.worker) == (1, 2, 2, "w2")
        late = Finish(job=1, lease=held.lease)
        beat = Finish(job=1, lease=held.lease, state="leased", lease_until_ms=9)
        outcomes = await bench.commit(
            store, Settle("t1", late), Settle("t1", beat), work("a", deposit(9), finish=late)
        )
        assert [code_of(outcome) for outcome in outcomes] == ["job-fenced"] * 3
        assert await store.job(1) == rescued
        assert (await store.head()).size == 2


async def shares_no_job_between_claims_of_a_flush(bench: StoreBench) -> None:
    """Claims in one flush share what is due: nobody gets another's job, nobody goes without in vain."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=4)), work("b", deposit(jobs=3, kind=OTHER)))
        outcomes = await bench.commit(
            store,
            bench.wish(2, worker="w1"),
            bench.wish(1, kinds=(OTHER,), worker="w2"),
            bench.wish(9, kinds=(JOB, OTHER), worker="w3"),
            bench.wish(9, worker="w4"),
        )
        taken = [[job.id for job in must(outcome, list)] for outcome in outcomes]
        assert [len(ids) for ids in taken] == [2, 1, 4, 0]
        assert sorted(sum(taken, [])) == [1, 2, 3, 4, 5, 6, 7]  # noqa: RUF017 - four short lists
        assert (await store.job_counts()).leased == 7


async def claims_and_settles_in_one_flush(bench: StoreBench) -> None:
    """Within a flush the earlier of a settlement and a rescue wins, the later is told so."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=2)))
        await bench.claim(store)
        bench.clock.advance(TTL_MS)
        done, claimed, fenced = await bench.commit(
            store,
            Settle("t1", Finish(job=1, lease=1)),
            bench.wish(worker="w2"),
            Settle("t1", Finish(job=2, lease=1)),
        )
        assert done is None
        assert [job.id for job in must(claimed, list)] == [2]
        assert code_of(fenced) == "job-fenced"
        states = [(job.state, job.lease) for job in await store.jobs("t1")]
        assert states == [("done", 1), ("leased", 2)]


async def ends_jobs_with_or_without_an_event(bench: StoreBench) -> None:
    """Done with a command, done alone, retried later, buried, parked, extended: each state is kept."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=6)))
        now_ms = bench.clock.now_ms()
        await bench.claim(store)
        ends = [
            Finish(job=1, lease=1),
            Finish(job=2, lease=1, state="ready", run_at_ms=now_ms + 70, error="later"),
            Finish(job=3, lease=1, state="dead", error="hopeless"),
            Finish(job=4, lease=1, state="parked"),
            Finish(job=5, lease=1, state="leased", lease_until_ms=now_ms + 5_000),
        ]
        await bench.commit(store, *[Settle("t1", end) for end in ends])
        await bench.put(store, work("a", deposit(), finish=Finish(job=6, lease=1)))
        rows = await store.jobs("t1")
        assert [row.state for row in rows] == ["done", "ready", "dead", "parked", "leased", "done"]
        assert (rows[1].run_at_ms, rows[1].error, rows[1].attempts) == (now_ms + 70, "later", 1)
        assert (rows[2].error, rows[4].lease_until_ms) == ("hopeless", now_ms + 5_000)
        assert await store.job_counts() == JobCounts(ready=1, leased=1, dead=1, parked=1)
        assert (await store.count_jobs(JOB), await store.count_jobs(OTHER)) == (2, 0)
        groups = {g.state: g for g in await store.job_groups() if g.kind == JOB}
        assert {s: g.count for s, g in groups.items()} == dict.fromkeys(
            ("ready", "leased", "dead", "parked"), 1
        )
        assert all(g.oldest_made_ms <= bench.clock.now_ms() for g in groups.values())
        [ready] = await store.jobs("t1", state="ready")
        assert groups["ready"].oldest_due_ms == ready.run_at_ms
        assert [job.id for job in await store.jobs("t1", state="done", after=1)] == [6]
        assert [job.id for job in await store.jobs("t1", after=2, limit=2)] == [3, 4]
        bench.clock.advance(TTL_MS)
        assert [job.id for job in await bench.claim(store)] == [2]


async def moves_jobs_by_hand(bench: StoreBench) -> None:
    """A person acts on the state they saw: a dead job runs again with no attempts behind it, once."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=1)))
        await bench.claim(store)
        await bench.commit(store, Settle("t1", Finish(job=1, lease=1, state="dead", error="x")))
        replay = Settle("t1", Finish(job=1, lease=1, expect="dead", state="ready"))
        first, second = await bench.commit(store, replay, replay)
        assert (first, code_of(second)) == (None, "job-fenced")
        (job,) = await bench.claim(store)
        assert (job.id, job.lease, job.attempts) == (1, 2, 1)


async def refused_command_keeps_its_job(bench: StoreBench) -> None:
    """A command that fails leaves the job it would have ended as it was, and the other way round."""
    async with bench.open() as store:
        await bench.put(store, work("a", deposit(jobs=1)))
        (job,) = await bench.claim(store)
        too_large = deposit(jobs=1)
        too_large = type(too_large)(at_ms=0, amount=1, jobs=1, job_bytes=20_000)
        (outcome,) = await bench.commit(
            store, work("a", too_large, finish=Finish(job=1, lease=job.lease))
        )
        assert code_of(outcome) == "job-too-large"
        assert await store.job(1) == job
        (outcome,) = await bench.commit(store, work("b", finish=Finish(job=99, lease=1)))
        assert code_of(outcome) == "job-not-found"
        assert (await store.head()).size == 1


JOB_CHECKS: tuple[Check, ...] = (
    makes_jobs_with_their_event,
    claims_only_what_is_due,
    reclaims_expired_leases,
    shares_no_job_between_claims_of_a_flush,
    claims_and_settles_in_one_flush,
    ends_jobs_with_or_without_an_event,
    moves_jobs_by_hand,
    refused_command_keeps_its_job,
)

ALL_CHECKS = STORE_CHECKS + JOB_CHECKS
"""The whole suite."""
